"""Tables of runs: a row for each group that differs in more than the seed, or for each run."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
from collections.abc import Iterable, Sequence

from prompt_tuning_commands_runs.best_values import Metric, Spread
from prompt_tuning_commands_runs.run_groups import ABSENT, RunGroup, differences
from prompt_tuning_commands_runs.run_records import RunRecord


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
      title: One line about all rows.
      columns: The headings.
      rows: The cells of each row, one for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def of_groups(task: str, groups: Sequence[RunGroup], metrics: Sequence[Metric]) -> Table:
    """Makes the table of the groups of a task, with the spread over each group's seeds."""
    differing = differences(groups)
    columns = [*differing, "seeds"]
    for metric in metrics:
        columns += [f"{metric.heading}, mean", "min to max"]
    columns += ["last step", "time, mean"]
    rows = []
    for number, group in enumerate(groups):
        row = [*(values[number] for values in differing.values()), _seeds(group.records)]
        for metric in metrics:
            row += spread_cells(group.spread(metric))
        steps = [record.last_step for record in group.records if record.last_step is not None]
        rows.append([*row, _range(steps), _mean_time(group.records)])
    return Table(_title(task, groups, "a row for each group that differs in more than the seed"),
                 columns, rows)  # fmt: skip


def of_runs(task: str, groups: Sequence[RunGroup], metrics: Sequence[Metric]) -> Table:
    """Makes the table of the runs of a task."""
    differing = differences(groups)
    columns = ["run", *differing, "seed"]
    for metric in metrics:
        columns += [metric.heading, "at step"]
    columns += ["last step", "time", "state"]
    rows = []
    for number, group in enumerate(groups):
        for record in group.records:
            settings = [values[number] for values in differing.values()]
            row = [str(record.directory), *settings, str(record.seed)]
            for metric in metrics:
                best = metric.best(record)
                row += [ABSENT, ABSENT] if best is None else [number_text(best[1]), str(best[0])]
            step = ABSENT if record.last_step is None else str(record.last_step)
            rows.append([*row, step, time_text(record.seconds), state_text(record)])
    return Table(_title(task, groups, "a row for each run"), columns, rows)


def spread_cells(spread: Spread | None) -> list[str]:
    """Returns two cells: the mean, and the lowest and the highest value."""
    if spread is None:
        return [ABSENT, ABSENT]
    ends = f"{number_text(spread.lowest)} to {number_text(spread.highest)}"
    return [number_text(spread.mean), ends]


def number_text(value: float) -> str:
    """Returns a metric's value as text, with four digits after the point, or four digits in all."""
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.4g}"


def time_text(seconds: float | None) -> str:
    """Returns a time as hours, minutes and seconds."""
    return ABSENT if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def state_text(record: RunRecord) -> str:
    """Tells whether a run has reached its end."""
    return "ended" if record.has_ended else "unfinished"


def _title(task: str, groups: Sequence[RunGroup], rows: str) -> str:
    count = sum(len(group.records) for group in groups)
    return f"{task}: {count} run{'s' if count > 1 else ''}, {rows}"


def _seeds(records: Sequence[RunRecord]) -> str:
    unfinished = sum(not record.has_ended for record in records)
    return f"{len(records)} ({unfinished} unfinished)" if unfinished else str(len(records))


def _range(values: Iterable[int]) -> str:
    ends = sorted({min(found), max(found)}) if (found := list(values)) else []
    return " to ".join(map(str, ends)) or ABSENT


def _mean_time(records: Sequence[RunRecord]) -> str:
    known = [record.seconds for record in records if record.seconds is not None]
    return time_text(statistics.fmean(known) if known else None)
