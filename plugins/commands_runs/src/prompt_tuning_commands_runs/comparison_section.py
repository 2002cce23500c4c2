"""The section that compares the runs of a task: their groups, their spread and their curves."""

from __future__ import annotations

import string
from collections.abc import Sequence

from prompt_tuning_commands_runs import curves_section, run_tables
from prompt_tuning_commands_runs.best_values import Metric, Spread
from prompt_tuning_commands_runs.curves_section import Curves
from prompt_tuning_commands_runs.html_elements import Safe, element, table
from prompt_tuning_commands_runs.run_groups import RunGroup
from prompt_tuning_commands_runs.run_records import RunRecord

_MOST_LINES = 9  # A figure with more lines is hard to read.


def comparison(task: str, groups: Sequence[RunGroup], metrics: Sequence[Metric]) -> Safe:
    """Returns the tables of groups, of initializers and variants, and of runs, and the curves."""
    letters = [_letters(number) for number in range(len(groups))]
    runs = {
        f"{letter}{place}": record
        for letter, group in zip(letters, groups, strict=True)
        for place, record in enumerate(group.records, 1)
    }
    return element(
        "section",
        element("h2", f"Comparison: {task}"),
        _labelled("group", letters, run_tables.of_groups(task, groups, metrics)),
        *(_by_plugins(list(runs.values()), metric) for metric in metrics),
        _labelled("label", list(runs), run_tables.of_runs(task, groups, metrics)),
        _curves(letters, groups),
        data_section="comparison",
    )


def _curves(letters: Sequence[str], groups: Sequence[RunGroup]) -> Safe:
    """Returns figures with a line for each run or, if these are too many, for each group."""
    if sum(len(group.records) for group in groups) <= _MOST_LINES:
        drawn = [
            Curves(f"{letter}{place}", style, record.history)
            for style, (letter, group) in enumerate(zip(letters, groups, strict=True))
            for place, record in enumerate(group.records, 1)
        ]
        return curves_section.figures(drawn)
    note = "A line is the mean of the runs of a group, at the steps that all of them have."
    if len(groups) > _MOST_LINES:
        note += f" Of {len(groups)} groups, the first {_MOST_LINES} are drawn."
    means = [
        Curves(letter, style, _mean_history(group.records))
        for style, (letter, group) in enumerate(zip(letters, groups, strict=True))
    ]
    return curves_section.figures(means[:_MOST_LINES], note)


def _mean_history(records: Sequence[RunRecord]) -> dict[str, dict[int, float]]:
    """Returns the means, by step, of each metric that all of these runs have."""
    first, *others = (record.history for record in records)
    shared = {
        name: [step for step in first[name] if all(step in one[name] for one in others)]
        for name in first
        if all(name in one for one in others)
    }
    return {
        name: {
            step: sum(record.history[name][step] for record in records) / len(records)
            for step in steps
        }
        for name, steps in shared.items()
        if steps
    }


def _labelled(heading: str, labels: Sequence[str], found: run_tables.Table) -> Safe:
    rows = (
        [element("th", label, scope="row"), *row]
        for label, row in zip(labels, found.rows, strict=True)
    )
    return table([heading, *found.columns], rows, found.title)


def _by_plugins(records: Sequence[RunRecord], metric: Metric) -> Safe:
    """Returns the spread of a metric for each pair of initializer and variant, over its runs."""
    values: dict[tuple[str, str], list[float]] = {}
    for record in records:
        best = metric.best(record)
        found = values.setdefault((record.initializer, record.variant), [])
        found += [] if best is None else [best[1]]
    rows = [
        [*plugins, str(len(found)), *run_tables.spread_cells(Spread.of(found))]
        for plugins, found in values.items()
    ]
    return table(
        ["initializer", "variant", "runs", "mean", "min to max"], rows,
        f"{metric.heading}, by initializer and variant, over all other settings",
    )  # fmt: skip


def _letters(number: int) -> str:
    """Returns A for 0, Z for 25, AA for 26."""
    last = string.ascii_uppercase[number % 26]
    return last if number < 26 else _letters(number // 26 - 1) + last
