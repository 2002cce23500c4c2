"""Reads the statements of the packaged gin files, without importing the modules they name."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gin import config_parser

ROOT = Path(__file__).parents[1]
SHARED = ROOT / "configs" / "prompt_tuning_configs"
# The folders of each engine, in the order in which they are searched; the shared ones come last.
FOLDERS = {
    engine: [
        *(ROOT / "plugins" / name / "src" / f"prompt_tuning_{name}" / "configs" for name in names),
        SHARED,
    ]
    for engine, names in {"local": ["engine_local", "demo"], "t5x": ["engine_t5x"]}.items()
}

# A run as a person asks for it: the files of `--gin_file`, in order.
SIZES = ("small", "base", "large", "xl", "xxl")
MODELS = [f"models/{family}_{size}_prompt.gin" for family in ("t5_1_1", "mt5") for size in SIZES]
PROMPTS = sorted(file.relative_to(SHARED).as_posix() for file in SHARED.glob("prompts/*.gin"))
COMMANDS = {
    "runs/prompt_finetune.gin": "train",
    "runs/prompt_eval.gin": "eval",
    "runs/prompt_infer.gin": "infer",
}

# What gin files call the script that runs, and T5X's name of it.
_MAIN = {f"{command}_script": f"t5x.{command}" for command in COMMANDS.values()}


class _Recorder(config_parser.ParserDelegate):
    """Notes the references and macros of a value."""

    def __init__(self) -> None:
        self.references: list[str] = []
        self.macros: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> object:
        self.references.append(scoped_configurable_name.rpartition("/")[2])
        return self

    def macro(self, macro_name: str) -> str:
        self.macros.append(macro_name)
        return f"%{macro_name}"


@dataclasses.dataclass(frozen=True)
class GinFile:
    """One file.

    Attributes:
      configurables: The configurables that it names, in full, with the parameters that it sets.
      macros: The macros that it sets, and whether to a value: not if to gin.REQUIRED.
      used: The macros whose values it uses.
      to_be_set: The macros that its comment says are the user's to set.
      includes: The files that it includes.
      unknown: Names that none of its imports explains.
    """

    configurables: dict[str, set[str]]
    macros: dict[str, bool]
    used: set[str]
    to_be_set: set[str]
    includes: list[str]
    unknown: list[str]


@functools.cache
def read(path: Path) -> GinFile:
    """Reads a file."""
    text = path.read_text(encoding="utf-8")
    comment = " ".join(re.findall(r"(?m)^# ?(.*)$", text.partition("from __gin__")[0]))
    paragraph = re.search(r"To be set: (.*?)\.(?:  |$)", comment)
    found = GinFile({}, {}, set(), set(), [], [])
    if paragraph:
        # What stands in brackets says when, or where else the macro is set.
        named = re.sub(r"\(.*?\)| if it is not \d+", "", paragraph[1])
        found.to_be_set.update(re.findall(r"\b[A-Z][A-Z_]+\b", named))
    recorder = _Recorder()
    bound: dict[str, str] = {}

    def add(selector: str, parameter: str | None = None) -> None:
        name = _in_full(selector, bound)
        if name is None:
            found.unknown.append(selector)
        else:
            found.configurables.setdefault(name, set()).update({parameter} - {None})

    for statement in config_parser.ConfigParser(text, recorder):
        if isinstance(statement, config_parser.ImportStatement):
            name = statement.bound_name()
            whole = statement.is_from or statement.alias
            bound[name] = _MAIN.get(name, statement.module) if whole else name
        elif isinstance(statement, config_parser.IncludeStatement):
            found.includes.append(statement.filename)
        elif isinstance(statement, config_parser.BlockDeclaration):
            add(statement.selector)
        elif statement.arg_name:
            add(statement.selector, statement.arg_name)
        else:
            found.macros[statement.selector] = statement.value != "%gin.REQUIRED"
    for selector in recorder.references:
        add(selector)
    found.used.update(set(recorder.macros) - {"gin.REQUIRED"})
    return found


def _in_full(selector: str, bound: dict[str, str]) -> str | None:
    first, _, rest = selector.partition(".")
    return f"{bound[first]}.{rest}" if first in bound else None


def files() -> list[tuple[str, Path]]:
    """Returns every packaged file with the engine that may read it, or `shared`."""
    owned = {folder: engine for engine, folders in FOLDERS.items() for folder in folders}
    owned[SHARED] = "shared"
    return [
        (owner, file) for folder, owner in owned.items() for file in sorted(folder.rglob("*.gin"))
    ]


def find(name: str, engine: str) -> Path | None:
    """Returns the file that a command of an engine takes for `models/x.gin`, if there is one."""
    return next((f / name for f in FOLDERS[engine] if (f / name).is_file()), None)


def combinations(engine: str) -> Iterator[tuple[str, ...]]:
    """Yields the files of each run that the documentation describes."""
    folder = FOLDERS[engine][0]
    decoding = [f"models/decoding/{f.name}" for f in sorted(folder.glob("models/decoding/*.gin"))]
    # All models have the decoding of one: they include the same file.
    chosen = [*((model, "") for model in MODELS), *((MODELS[0], name) for name in decoding)]
    for run, (model, decoder) in itertools.product(COMMANDS, chosen):
        # In evaluation and inference, the prompt is that of PROMPT_FILE.
        for prompt in ["", *PROMPTS] if COMMANDS[run] == "train" else [""]:
            yield tuple(filter(None, (model, decoder, prompt, run)))


def walk(name: str, engine: str, other: Callable[[str], GinFile]) -> Iterator[GinFile]:
    """Yields a file after those that it includes.

    Args:
      name: The file.
      engine: The engine whose command names it.
      other: Returns a file of another project, such as T5X's `t5x/configs/runs/eval.gin`.
    """
    path = find(name, engine)
    if path is None:
        yield other(name)
        return
    file = read(path)
    for included in file.includes:
        yield from walk(included, engine, other)
    yield file
