"""Print where an engine's gin files are, for --gin_search_paths, or the path of one."""

from __future__ import annotations

import argparse

from prompt_tuning_core.commands import engines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    engines.add_argument(parser)
    parser.add_argument("file", nargs="?", help="such as models/sizes/small.gin")


def run(arguments: argparse.Namespace) -> int:
    """Prints the folders, joined by commas as T5X takes them, or the path of one file."""
    from prompt_tuning_core import gin_config

    folders = gin_config.search_paths(engines.chosen(arguments.engine))
    if arguments.file:
        print(gin_config.find(arguments.file, folders))
    else:
        print(",".join(str(folder.path) for folder in folders if folder.engine))
    return 0
