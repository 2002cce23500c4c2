"""Print the folder of a Python module, without importing it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("module", help="a dotted name")
    parser.epilog = "Example: prompt-tuning find-module t5x"


def run(arguments: argparse.Namespace) -> int:
    """Prints the folder."""
    from prompt_tuning_core import gin_config

    print(gin_config.find_module(arguments.module))
    return 0
