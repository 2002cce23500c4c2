"""The commands that an engine runs: `train`, `eval` and `infer`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prompt_tuning_core import registry
from prompt_tuning_core.commands import engines
from prompt_tuning_core.errors import InputError

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import RunFlags


def add_flags(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds T5X's flags for gin, and `--hooks`; ends the help with an example."""
    for flag, metavar, text in (
        ("--gin_file", "FILE", "a gin file (repeatable; later ones override)"),
        ("--gin_search_paths", "FOLDERS", "folders to look in first, joined by commas"),
        ("--gin_bindings", "NAME=VALUE", "the same as --gin.NAME=VALUE"),
        ("--hooks", "NAMES", "hooks plugins or .py files to run, joined by commas"),
    ):
        parser.add_argument(flag, action="append", default=[], metavar=metavar, help=text)
    parser.epilog = (
        "--gin.NAME=VALUE sets a macro or a parameter, and overrides the files (repeatable). "
        f"Example: {example}"
    )


def flags_of(arguments: argparse.Namespace) -> RunFlags:
    """Returns the flags of a run, and puts the current directory on Python's path.

    Args:
      arguments: The parsed arguments of a command that has `takes_unknown_flags` and that called
        `add_flags`.

    Raises:
      InputError: If a binding is not of the form NAME=VALUE.
    """
    from prompt_tuning_core.protocols import RunFlags  # Late, to keep `--help` quick.

    bindings = [flag for flag in arguments.unknown if flag.startswith("--gin.")]
    for binding in bindings:
        if "=" not in binding:
            raise InputError(f"{binding!r} has no value; write {binding}=VALUE")
    bindings = [binding.removeprefix("--gin.") for binding in bindings]
    # A task module may be in the current directory, as with `python -m`. The directory comes last,
    # so that no file in it hides an installed package.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    return RunFlags(
        gin_files=tuple(arguments.gin_file),
        gin_bindings=tuple(map(_spaced, [*arguments.gin_bindings, *bindings])),
        gin_search_paths=_split(arguments.gin_search_paths),
        hooks=_split(arguments.hooks),
        extra=tuple(flag for flag in arguments.unknown if not flag.startswith("--gin.")),
    )


class EngineCommand:
    """Parses T5X's flags, and calls a method of the chosen engine.

    Args:
      name: The name of the engine's method, which is also the command's name.
      summary: What the command does, for `--help`.
    """

    takes_unknown_flags = True  # An engine may have its own flags; it refuses unknown ones.

    def __init__(self, name: str, summary: str) -> None:
        self._name = name
        self.__doc__ = summary

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the flags that all engines share."""
        engines.add_argument(parser)
        add_flags(parser, f"prompt-tuning {self._name} --gin_file=my_run.gin")

    def run(self, arguments: argparse.Namespace) -> int:
        """Runs the engine."""
        flags = flags_of(arguments)
        engine = registry.process_registry().load("engine", engines.chosen(arguments.engine))
        getattr(engine(), self._name)(flags)
        return 0


TRAIN = EngineCommand("train", "Train a prompt")
EVAL = EngineCommand("eval", "Evaluate a prompt")
INFER = EngineCommand("infer", "Predict with a prompt")


def _spaced(binding: str) -> str:
    name, separator, value = binding.partition("=")
    if not (name.strip() and separator and value.strip()):
        raise InputError(f"the binding {binding!r} is not of the form NAME=VALUE")
    return f"{name.strip()} = {value.strip()}"


def _split(lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(item.strip() for joined in lists for item in joined.split(",") if item.strip())
