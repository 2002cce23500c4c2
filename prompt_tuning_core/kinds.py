"""The kinds of plugins: the entry-point group, the names and the requirements of each.

A new kind is one more row of `KINDS`; nothing else in the core lists them.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

_TAKEN = "|".join([*keyword.kwlist, "macro", "constant", "singleton"])  # By Python or gin.
GIN_NAME = re.compile(rf"(?!({_TAKEN})$)[a-z]\w*", re.ASCII | re.IGNORECASE)
"""A name that gin can use: a Python identifier in ASCII that does not begin with "_"."""

COMMAND_NAME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)?")
"""A command such as `list-plugins`, or `pets.feed` for `prompt-tuning pets feed`."""

A_NAME = {
    GIN_NAME: "a Python identifier in ASCII that neither Python nor gin keeps for itself",
    COMMAND_NAME: "lower-case words, with a dot before a subcommand",
}


class Kind(NamedTuple):
    """A kind of plugin.

    Attributes:
      name: The kind's name, for messages and `list-plugins`.
      group: The entry-point group that declares a plugin of this kind.
      usage: The text that a user types to use a plugin; `{name}` stands for its name, `{words}` for
        the name with a blank in place of the dot.
      complaint: Describes what a loaded object lacks for this kind, in words that follow "the
        plugin"; `None` if it lacks nothing.
      in_gin: True if `prompt_tuning_core.plugins` offers it to gin files.
      names: The pattern of valid names.
      unique: Where only one plugin may have a name: "gin" among all kinds in gin's one namespace,
        "kind" among this kind. "no" if several plugins may have it.
    """

    name: str
    group: str
    usage: str
    complaint: Callable[[object], str | None]
    in_gin: bool = False
    names: re.Pattern[str] = GIN_NAME
    unique: Literal["gin", "kind", "no"] = "kind"


def _unless(fits: Callable[[object], bool], otherwise: str) -> Callable[[object], str | None]:
    def complaint(loaded: object) -> str | None:
        found = f"names a value of type {type(loaded).__name__}, {otherwise}"
        return None if fits(loaded) else found

    return complaint


def _no_hooks(loaded: object) -> str | None:
    # pluggy would call a class's functions without an instance. pluggy itself checks the hooks.
    if isinstance(loaded, type):
        return "names a class, and hooks are a module or an instance"
    return None


def _no_format(loaded: object) -> str | None:
    if not isinstance(loaded, type):
        return f"names a value of type {type(loaded).__name__}, and a format is a class"
    whole = (("recognizes_model", "open_model"), ("recognizes_prompt", "read_prompt"))
    missing = [[m for m in methods if not hasattr(loaded, m)] for methods in whole]
    if all(missing):
        least = min(missing, key=len)
        return f"names a format class that reads neither models nor prompts: no {', '.join(least)}"
    return None


def _lacks(noun: str, *methods: str) -> Callable[[object], str | None]:
    def complaint(loaded: object) -> str | None:
        missing = [name for name in methods if not callable(getattr(loaded, name, None))]
        return f"names {noun} without {', '.join(missing)}" if missing else None

    return complaint


_not_callable = _unless(callable, "which cannot be called")
_no_class = _unless(lambda x: isinstance(x, type), "and an engine is a class")
_no_package = _unless(lambda x: hasattr(x, "__path__"), "and gin files are in a package")
_no_module = _unless(lambda x: hasattr(x, "__spec__"), "and tasks are registered by a module")
_no_engine = _lacks("an engine class", "train", "eval", "infer")
_no_catalog = _lacks("a catalog", "models", "prompts")
_no_command = _lacks("a command", "add_arguments", "run")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "initializer", "prompt_tuning.initializers", "@plugins.{name}()", _not_callable,
            in_gin=True, unique="gin",
        ),
        Kind(
            "prompt", "prompt_tuning.prompts", "@plugins.{name}", _not_callable,
            in_gin=True, unique="gin",
        ),
        Kind(
            "engine", "prompt_tuning.engines", "--engine {name}",
            lambda loaded: _no_class(loaded) or _no_engine(loaded), unique="gin",
        ),
        Kind("hooks", "prompt_tuning.hooks", "HOOKS = ['{name}']", _no_hooks, unique="gin"),
        # The name is the engine that may read the files, or `SHARED`.
        Kind("configs", "prompt_tuning.configs", "--gin_file", _no_package, unique="no"),
        Kind("tasks", "prompt_tuning.tasks", "MIXTURE_OR_TASK_MODULE = '{name}'", _no_module),
        Kind("format", "prompt_tuning.formats", "by a file's content", _no_format),
        Kind("catalog", "prompt_tuning.catalogs", "a name where a path may be", _no_catalog),
        Kind(
            "command", "prompt_tuning.commands", "prompt-tuning {words}", _no_command,
            names=COMMAND_NAME,
        ),
    )
}  # fmt: skip

SHARED = "shared"
"""The name of a plugin of the kind `configs` with gin files that any engine may read."""
