"""List training runs, their settings that differ, and their best metrics."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.measure
import rich.table
import rich.text

from prompt_tuning_commands_runs import comparing, run_groups, run_records, run_tables
from prompt_tuning_commands_runs.best_values import Metric
from prompt_tuning_commands_runs.run_groups import RunGroup
from prompt_tuning_commands_runs.run_records import RunRecord
from prompt_tuning_core.commands.text_tables import aligned, printable
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json

_WIDE = 1000  # The width without a terminal, in characters, so that no cell is broken.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument(
        "directories", metavar="DIR", nargs="+", help="a run's directory, or one above several"
    )
    comparing.add_arguments(parser)
    parser.add_argument(
        "--runs",
        action="store_true",
        help="a row for each run, also where several differ in nothing but the seed",
    )
    parser.add_argument("--json", action="store_true", help="print groups and runs as JSON")
    parser.epilog = "Example: prompt-tuning runs out --metric exact_match"


def run(arguments: argparse.Namespace) -> int:
    """Prints a table for each task, and the runs that cannot be read."""
    records, faults = _read(arguments.directories)
    compared = comparing.compare(records, arguments.metric, arguments.lowest)
    if arguments.json:
        print(strict_json.dumps(_as_json(compared, faults), indent=2))
        return 0
    tables = []
    for task, (groups, metrics) in compared.items():
        has_seeds = any(len(group.records) > 1 for group in groups)
        of = run_tables.of_groups if has_seeds and not arguments.runs else run_tables.of_runs
        tables.append(of(task, groups, metrics))
    if faults:
        title = f"not readable: {len(faults)} run{'s' if len(faults) > 1 else ''}"
        tables.append(run_tables.Table(title, ["run", "fault"], faults))
    console = rich.console.Console()
    if not console.is_terminal:
        console = rich.console.Console(width=_WIDE)
    for table in tables:
        shown = _shown(table)
        options = console.options.update(max_width=_WIDE)
        if rich.measure.Measurement.get(console, options, shown).minimum <= console.width:
            console.print(shown)
        else:  # The table would break words.
            print(_in_blocks(table))
    return 0


def _read(directories: Sequence[str]) -> tuple[list[RunRecord], list[tuple[str, str]]]:
    """Reads all runs; a run that cannot be read becomes a fault with its directory."""
    records, faults = [], []
    for directory in run_records.find_runs(directories):
        try:
            records.append(run_records.read_run(directory))
        except InputError as error:
            faults.append((str(directory), str(error)))
    return records, faults


def _shown(table: run_tables.Table) -> rich.table.Table:
    # As Text, since rich would read gin's lists as markup.
    title = rich.text.Text(printable(table.title), style="bold")
    shown = rich.table.Table(title=title, title_justify="left")
    for column in table.columns:
        shown.add_column(rich.text.Text(printable(column)), overflow="fold")
    for row in table.rows:
        shown.add_row(*(rich.text.Text(printable(cell)) for cell in row))
    return shown


def _in_blocks(table: run_tables.Table) -> str:
    """Returns a block of lines for each row, each with the name and the text of a cell."""
    blocks = [aligned(list(zip(table.columns, row, strict=True))) for row in table.rows]
    return "\n\n".join([printable(table.title), *("\n".join(block) for block in blocks)]) + "\n"


def _as_json(
    compared: Mapping[str, tuple[Sequence[RunGroup], Sequence[Metric]]],
    faults: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    tasks = []
    for task, (groups, metrics) in compared.items():
        differing = run_groups.differences(groups)
        tasks.append(
            {
                "task": task,
                "metrics": [
                    {"name": one.name, "best_is": "lowest" if one.is_lowest else "highest"}
                    for one in metrics
                ],
                "groups": [
                    {
                        "settings": {name: values[number] for name, values in differing.items()},
                        **_group_facts(group, metrics),
                    }
                    for number, group in enumerate(groups)
                ],
            }
        )
    broken = [{"directory": directory, "fault": fault} for directory, fault in faults]
    return {"tasks": tasks, "not_readable": broken}


def _group_facts(group: RunGroup, metrics: Sequence[Metric]) -> dict[str, Any]:
    spreads = {metric.name: group.spread(metric) for metric in metrics}
    return {
        "best": {n: None if s is None else dataclasses.asdict(s) for n, s in spreads.items()},
        "runs": [
            {
                "directory": str(record.directory),
                "seed": record.seed,
                "best": {
                    metric.name: {"step": best[0], "value": best[1]}
                    for metric in metrics
                    if (best := metric.best(record)) is not None
                },
                "last_step": record.last_step,
                "seconds": record.seconds,
                "has_ended": record.has_ended,
            }
            for record in group.records
        ],
    }
