"""List the models that have a name to use instead of a path."""

from __future__ import annotations

import argparse

from prompt_tuning_commands_inspect import known_names
from prompt_tuning_files import names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an example: this command has no arguments."""
    parser.epilog = "Example: prompt-tuning model list"


def run(arguments: argparse.Namespace) -> int:
    """Prints the table of models."""
    del arguments  # There are none.
    known_names.print_table(names.models())
    return 0
