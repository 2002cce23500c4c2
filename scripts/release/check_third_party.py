"""Tries the plugins of others with this checkout: `make check-third-party`.

Each plugin in the list is installed into a new environment, with all of our distributions. Then
`list-plugins --check` loads it, and `check` tries its contract.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

import distributions
from check_release import ROOT, all_extra, build_all, environment, run, step
from prompt_tuning_core.errors import InputError


def read(file: Path) -> dict[str, tuple[str, list[str]]]:
    """Returns the requirement and the arguments of `check` of each distribution, by its name.

    Raises:
      InputError: The list has another form.
    """
    found = {}
    plugins: list[dict[str, Any]] = tomllib.loads(file.read_text("utf-8")).get("plugin", [])
    for number, plugin in enumerate(plugins, 1):
        place = f"{file}: plugin {number}"
        if not {"requirement"} <= plugin.keys() <= {"requirement", "check"}:
            raise InputError(f"{place} has {', '.join(plugin)}: expected requirement, maybe check")
        try:
            name = Requirement(plugin["requirement"]).name
        except InvalidRequirement as error:
            raise InputError(f"{place}: {plugin['requirement']!r} is no requirement") from error
        found[name] = (plugin["requirement"], plugin.get("check", []))
    return found


def check(file: Path) -> list[str]:
    """Tries every distribution that a list names; returns the names of those that failed."""
    plugins, failed = read(file), []
    ours = distributions.read(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if plugins:
            build_all(ours.values(), folder / "wheels")
        for name, (requirement, arguments) in plugins.items():
            with step(requirement):
                try:
                    commands = environment(folder / name, *all_extra(ours), requirement)
                    command = commands / "prompt-tuning"
                    run(command, "list-plugins", "--check", cwd=folder)
                    run(command, "check", name, *arguments, cwd=folder, show=True)
                except InputError as error:
                    print(error, flush=True)
                    failed.append(name)
    print(f"{len(plugins)} listed in {file}, {len(failed)} failed", *failed)
    return failed


def main() -> int:
    """Runs the command; returns its exit code: 1 if a plugin failed, 2 for a wrong list."""
    try:
        return int(bool(check(Path(sys.argv[1]))))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
