"""Print the folders of an engine's gin files, for --gin_search_paths, or a file's path."""

from __future__ import annotations

import argparse

from prompt_tuning_core import registry
from prompt_tuning_core.commands import engines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    engines.add_argument(parser)
    parser.add_argument("file", nargs="?", help="a gin file, such as models/sizes/small.gin")
    parser.epilog = "Example: prompt-tuning gin-path --engine t5x"


def run(arguments: argparse.Namespace) -> int:
    """Prints the folders, joined by commas as T5X takes them, or the path of one file."""
    from prompt_tuning_core import gin_config

    engine = engines.chosen(arguments.engine)
    folders = gin_config.search_paths(engine)
    if arguments.file:
        print(gin_config.find(arguments.file, folders))
    else:
        if not any(folder.engine == engine for folder in folders):
            registry.process_registry().find("engine", engine)  # Refuses a misspelt name.
        print(",".join(str(folder.path) for folder in folders if folder.engine))
    return 0
