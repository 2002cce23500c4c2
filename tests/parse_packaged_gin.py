"""Reads the files of every run that the packaged gin files describe.

`python tests/parse_packaged_gin.py ENGINE` prints how many there are; one that cannot be read is an
error. The embedded engine's are read as its commands do, T5X's by gin alone, as
`python -m t5x.train` does.
"""

from __future__ import annotations

import importlib
import sys

import gin
import packaged_gin
from packaged_gin import FOLDERS, GinFile

from prompt_tuning_core import gin_config
from prompt_tuning_core.protocols import RunFlags


def bindings(engine: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a value for each macro that the files of a run leave to be set."""
    others = GinFile({}, {}, set(), set(), [], [])
    files = [f for name in names for f in packaged_gin.walk(name, engine, lambda _: others)]
    return tuple(f"{macro} = 'value'" for file in files for macro in sorted(file.to_be_set))


def main(engine: str) -> None:
    """Reads all of them."""
    scripts = {}
    if engine == "t5x":
        for folder in FOLDERS[engine]:
            gin.add_config_file_search_path(str(folder))
        for run, command in packaged_gin.COMMANDS.items():
            scripts[run] = importlib.import_module(f"t5x.{command}")
    combinations = list(packaged_gin.combinations(engine))
    for names in combinations:
        if engine == "t5x":
            # The script has this name while it runs.
            sys.modules["__main__"] = scripts[names[-1]]
            gin.clear_config()
            gin.parse_config_files_and_bindings(names, bindings(engine, names))
        else:
            flags = RunFlags(gin_files=names, gin_bindings=bindings(engine, names))
            gin_config.parse(flags, engine)
    sys.stdout.write(f"{len(combinations)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
