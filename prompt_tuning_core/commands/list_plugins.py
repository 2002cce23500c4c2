"""List the installed plugins, without importing them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from prompt_tuning_core import registry
from prompt_tuning_core.commands.text_tables import aligned

_FIELDS = ("kind", "name", "usage", "distribution", "version", "status", "description", "detail")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("--json", action="store_true", help="as a JSON array of objects")
    parser.add_argument(
        "--check",
        action="store_true",
        help="import each and compare what it requires of the core; exit with 1 if one is "
        "incompatible, broken or in conflict",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints a row for each plugin; returns 1 if `--check` finds one that cannot be used."""
    installed = registry.process_registry()
    plugins = installed.discover()
    if arguments.check:
        import contextlib

        # Hide output of a plugin's import: it is not part of the list.
        with contextlib.redirect_stdout(sys.stderr):
            plugins = tuple(installed.check(plugin) for plugin in plugins)
    if arguments.json:
        import json

        rows = [{field: getattr(plugin, field) for field in _FIELDS} for plugin in plugins]
        print(json.dumps(rows, indent=2))  # In ASCII: no control character of a stranger.
    else:
        _print_table(plugins)
    return int(arguments.check and any(p.status not in ("ok", "blocked") for p in plugins))


def _print_table(plugins: Sequence[registry.Plugin]) -> None:
    """Prints one line for each plugin; a plugin that is not ok has the reason as description."""
    fields = ("kind", "name", "usage", "status", "distribution", "version")
    table = [[*fields, "description"]]
    for plugin in plugins:
        row = [getattr(plugin, field) or "?" for field in fields]
        table.append([*row, plugin.detail or plugin.description])
    heading, *lines = aligned(table)
    print("\n".join([heading.upper(), *lines]))
