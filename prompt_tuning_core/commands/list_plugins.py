"""List the installed plugins, or show one, without importing them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from prompt_tuning_core import registry
from prompt_tuning_core.commands.text_tables import aligned
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.kinds import KINDS

_FIELDS = ("kind", "name", "usage", "distribution", "version", "status", "description", "detail")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this plugin or distribution")
    parser.add_argument("--kind", choices=KINDS, help="list only plugins of this kind")
    parser.add_argument("--json", action="store_true", help="print a JSON array of objects")
    parser.add_argument(
        "--check",
        action="store_true",
        help="import each plugin, and check that it works with this core; exit with 1 if one is "
        "incompatible, broken or in conflict",
    )
    parser.add_argument(
        "--import",
        action="store_true",
        dest="imports",
        help="with NAME: import it, and show its docstring and its parameters as gin names them",
    )
    parser.epilog = "Example: prompt-tuning list-plugins --kind=prompt --check"


def run(arguments: argparse.Namespace) -> int:
    """Prints a row for each plugin; returns 1 if `--check` finds one that cannot be used."""
    installed = registry.process_registry()
    if arguments.imports and not arguments.name:
        raise InputError("--import shows one plugin: write list-plugins NAME --import")
    plugins = [p for p in installed.discover() if arguments.kind in (None, p.kind)]
    if arguments.name:
        plugins = installed.named(arguments.name, arguments.kind)
    # What a plugin prints while it is imported goes to stderr: it is not part of the list.
    with contextlib.redirect_stdout(sys.stderr):
        if arguments.check:
            plugins = [installed.check(plugin) for plugin in plugins]
        rows = [{field: getattr(plugin, field) for field in _FIELDS} for plugin in plugins]
        if arguments.name:
            from prompt_tuning_core.commands import plugin_details

            for row, plugin in zip(rows, plugins, strict=True):
                row.update(plugin_details.of(plugin, arguments.imports))
    if arguments.json:
        import json

        print(json.dumps(rows, indent=2))  # As ASCII: control characters are escaped.
    elif arguments.name:
        print("\n\n".join(map(plugin_details.shown, rows)))
    else:
        _print_table(plugins)
    return int(arguments.check and any(p.status not in ("ok", "blocked") for p in plugins))


def _print_table(plugins: Sequence[registry.Plugin]) -> None:
    """Prints one line for each plugin; instead of its description, the reason if it is not ok."""
    fields = ("kind", "name", "usage", "status", "distribution", "version")
    table = [[*fields, "description"]]
    for plugin in plugins:
        row = [getattr(plugin, field) or "?" for field in fields]
        table.append([*row, plugin.detail or plugin.description])
    heading, *lines = aligned(table)
    print("\n".join([heading.upper(), *lines]))
