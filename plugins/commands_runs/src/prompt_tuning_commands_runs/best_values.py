"""Picks the metric that tells how good a run is, and its best value."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from prompt_tuning_commands_runs.run_records import EVALUATION, RunRecord
from prompt_tuning_core.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of evaluations.

    Attributes:
      name: Its name, without "eval/".
      is_lowest: True if a lower value is better.
    """

    name: str
    is_lowest: bool

    @property
    def heading(self) -> str:
        """The words for its best value, such as "highest accuracy"."""
        return f"{'lowest' if self.is_lowest else 'highest'} {self.name}"

    def best(self, record: RunRecord) -> tuple[int, float] | None:
        """Returns the step and the value of a run's best evaluation; of equal ones, the first.

        It returns None if no evaluation has a finite value.
        """
        by_step = record.history.get(EVALUATION + self.name, {})
        finite = [(step, value) for step, value in by_step.items() if math.isfinite(value)]
        choose = min if self.is_lowest else max
        return choose(finite, key=lambda one: one[1]) if finite else None


@dataclasses.dataclass(frozen=True)
class Spread:
    """The values of several runs: their number, mean, lowest and highest."""

    count: int
    mean: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        """Summarizes values; returns None if there are none."""
        if not values:
            return None
        return Spread(len(values), statistics.fmean(values), min(values), max(values))


def chosen(
    records: Sequence[RunRecord], name: str | None = None, lowest: bool = False
) -> list[Metric]:
    """Returns the metrics by which to compare runs of one task, each once.

    Args:
      records: The runs.
      name: The metric that the user names; None for BEST_METRIC of each run, else the first metric
        of its task.
      lowest: True if the user says that a lower value is better. For a loss, a lower value is
        always better; for BEST_METRIC, it is better if BEST_IS_LOWEST is True.

    Raises:
      InputError: If no run has evaluated the metric `name`.
    """
    if name is None:
        found = [metric for record in records if (metric := _own(record, lowest)) is not None]
        return list(dict.fromkeys(found))
    _check_known(name, records)
    return [Metric(name, lowest or _lower_is_better(name, records))]


def _own(record: RunRecord, lowest: bool) -> Metric | None:
    name = record.setting("best_metric")
    if not isinstance(name, str):
        name = next(iter(record.metrics(EVALUATION)), None)
    return None if name is None else Metric(name, lowest or _lower_is_better(name, [record]))


def _lower_is_better(name: str, records: Iterable[RunRecord]) -> bool:
    for record in records:
        is_lowest = record.setting("best_is_lowest")
        if record.setting("best_metric") == name and isinstance(is_lowest, bool):
            return is_lowest
    return name.rpartition("/")[2] == "loss"  # A task in a mixture has TASK/loss.


def _check_known(name: str, records: Sequence[RunRecord]) -> None:
    known = {metric for record in records for metric in record.metrics(EVALUATION)}
    if name not in known:
        raise InputError(f"--metric {name!r} is no metric of these runs{nearest(name, known)}")
