"""The section of scores: metrics at the start, at best and at the end, and baselines."""

from __future__ import annotations

import math
from pathlib import Path

from prompt_tuning_commands_runs.best_values import Metric, chosen
from prompt_tuning_commands_runs.html_elements import Safe, element, number_cell, table, together
from prompt_tuning_commands_runs.run_groups import ABSENT
from prompt_tuning_commands_runs.run_records import EVALUATION, RunRecord
from prompt_tuning_commands_runs.run_tables import number_text
from prompt_tuning_commands_runs.saved_answers import Answers
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json

HELD_OUT_FILE = "held_out.json"
"""A table that the hooks of a run may write: `rows` of values by name, for one `metric`."""


def scores(record: RunRecord, answers: list[Answers]) -> Safe:
    """Returns the tables of a run's scores.

    Raises:
      InputError: If the file of baselines is damaged.
    """
    names = record.metrics(EVALUATION)
    if not names:
        return element("p", "The run has no evaluation yet.")
    rows = [_row(record, chosen([record], name)[0]) for name in names]
    split = record.setting("eval_split")
    caption = f"On the split {split}" if split else "Evaluations"
    found = [table(["metric", "at the start", "best", "last"], rows, caption)]
    majorities = [_majority(one) for one in answers if one.labels]
    if majorities:
        columns = ["baseline", "accuracy", "examples"]
        found.append(table(columns, majorities, "Baselines from the targets of the predictions"))
    held_out = record.directory / HELD_OUT_FILE
    if held_out.exists():
        found.append(_held_out(held_out))
    return together(*found)


def _row(record: RunRecord, metric: Metric) -> list[Safe]:
    by_step = record.history[EVALUATION + metric.name]
    ends = [min(by_step), max(by_step)]
    best = metric.best(record)
    middle = element("td", ABSENT) if best is None else _cell(*best)
    first, last = (_cell(step, by_step[step]) for step in ends)
    name = f"{metric.name} ({'lowest' if metric.is_lowest else 'highest'} is best)"
    return [element("th", name, scope="row"), first, middle, last]


def _cell(step: int, value: float) -> Safe:
    text = number_text(value) if math.isfinite(value) else "not finite"
    return number_cell(value, f"{text} (step {step})")


def _majority(answers: Answers) -> list[Safe]:
    label, count = answers.majority
    share = count / len(answers.rows)
    return [
        element("th", f"always {label!r}, {answers.task}, {answers.split}", scope="row"),
        number_cell(share, number_text(share)),
        number_cell(len(answers.rows), str(len(answers.rows))),
    ]


def _held_out(path: Path) -> Safe:
    """Returns the table of the demo's scores on held-out examples."""
    facts = strict_json.read_object(path, str(path))
    rows = facts.get("rows")
    is_number = isinstance(rows, dict) and all(type(v) in (int, float) for v in rows.values())
    if not isinstance(rows, dict) or not is_number:
        raise InputError(f"{path}: expected numbers by name in 'rows'; remove the file, or train")
    caption = f"On {facts.get('examples')} held-out examples, split {facts.get('split')}"
    cells = (
        [element("th", name, scope="row"), number_cell(value, number_text(value))]
        for name, value in rows.items()
    )
    return table(["", str(facts.get("metric", "value"))], cells, caption)
