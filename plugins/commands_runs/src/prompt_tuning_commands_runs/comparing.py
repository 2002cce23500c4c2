"""Compares the runs of each task by a metric, for the commands `runs` and `report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from prompt_tuning_commands_runs import best_values, run_groups
from prompt_tuning_commands_runs.best_values import Metric
from prompt_tuning_commands_runs.run_groups import RunGroup
from prompt_tuning_commands_runs.run_records import EVALUATION, RunRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose the metric."""
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="compare by this metric; default: each run's BEST_METRIC, or its task's first metric",
    )
    parser.add_argument(
        "--lowest", action="store_true", help="a lower value is better (a loss always is)"
    )


def compare(
    records: Sequence[RunRecord], metric: str | None = None, lowest: bool = False
) -> dict[str, tuple[list[RunGroup], list[Metric]]]:
    """Returns the groups of the runs of each task, and the metrics to compare them by.

    Args:
      records: The runs.
      metric: The metric that the user names; tasks without it are compared by no metric.
      lowest: True if the user says that a lower value is better.

    Raises:
      InputError: If no run has the metric.
    """
    if metric is not None:
        best_values.chosen(records, metric, lowest)  # Refuses a metric of no task.
    compared = {}
    for task, runs in run_groups.by_task(records).items():
        known = {name for one in runs for name in one.metrics(EVALUATION)}
        has_it = metric is None or metric in known
        metrics = best_values.chosen(runs, metric, lowest) if has_it else []
        compared[task] = (run_groups.grouped(runs, metrics), metrics)
    return compared
