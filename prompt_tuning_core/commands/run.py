"""The commands that an engine runs: `train`, `eval` and `infer`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from prompt_tuning_core import registry
from prompt_tuning_core.commands import engines
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import RunFlags


class EngineCommand:
    """Parses T5X's flags, and calls the method of this name of an engine.

    Args:
      name: The method.
      summary: What the command does, for `--help`.
    """

    takes_unknown_flags = True  # An engine may have its own flags; it refuses unknown ones.

    def __init__(self, name: str, summary: str) -> None:
        self._name = name
        self.__doc__ = summary

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags that all engines share."""
        engines.add_argument(parser)
        parser.add_argument(
            "--gin_file",
            action="append",
            default=[],
            metavar="FILE",
            help="a gin file (repeatable; later ones override)",
        )
        parser.add_argument(
            "--gin_search_paths",
            action="append",
            default=[],
            metavar="FOLDERS",
            help="folders to look for gin files in first, joined by commas",
        )
        parser.add_argument(
            "--gin_bindings", action="append", default=[], metavar="NAME=VALUE", help="--gin.NAME"
        )
        parser.add_argument(
            "--hooks",
            action="append",
            default=[],
            metavar="NAMES",
            help="hooks plugins to run, joined by commas",
        )
        parser.epilog = "--gin.NAME=VALUE sets a macro or a parameter, over the files (repeatable)."

    def run(self, arguments: argparse.Namespace) -> int:
        """Runs the engine."""
        bindings = [flag for flag in arguments.unknown if flag.startswith("--gin.")]
        for binding in bindings:
            if "=" not in binding:
                raise InputError(f"{binding!r} has no value; write {binding}=VALUE")
        bindings = [binding.removeprefix("--gin.") for binding in bindings]
        flags = RunFlags(
            gin_files=tuple(arguments.gin_file),
            gin_bindings=tuple(map(_spaced, [*arguments.gin_bindings, *bindings])),
            gin_search_paths=_split(arguments.gin_search_paths),
            hooks=_split(arguments.hooks),
            extra=tuple(flag for flag in arguments.unknown if not flag.startswith("--gin.")),
        )
        _show_warnings_in_one_line()
        # A task module may be in the current directory, as with `python -m`. Last on the path, so
        # that no file there hides an installed package.
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
        engine = registry.process_registry().load("engine", engines.chosen(arguments.engine))
        getattr(engine(), self._name)(flags)
        return 0


TRAIN = EngineCommand("train", "Train a prompt")
EVAL = EngineCommand("eval", "Evaluate a prompt")
INFER = EngineCommand("infer", "Predict with a prompt")


def _show_warnings_in_one_line() -> None:
    """Shows a warning to the person who runs the command without Python's file and line."""
    show = warnings.showwarning

    def showwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning and file is None:
            print(f"prompt-tuning: warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = showwarning


def _spaced(binding: str) -> str:
    name, separator, value = binding.partition("=")
    if not (name.strip() and separator and value.strip()):
        raise InputError(f"the binding {binding!r} is not of the form NAME=VALUE")
    return f"{name.strip()} = {value.strip()}"


def _split(lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(item.strip() for joined in lists for item in joined.split(",") if item.strip())
