"""The section of answers: the confusion matrix and the worst examples."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from prompt_tuning_commands_runs.html_elements import Safe, element, number_cell, table, together
from prompt_tuning_commands_runs.run_tables import number_text
from prompt_tuning_commands_runs.saved_answers import Answer, Answers

_SHOWN = 10
_LONGEST = 600


def answers_to(found: Sequence[Answers]) -> Safe:
    """Returns the confusions and the worst examples of each task and split."""
    if not found:
        return element(
            "p", "There are no predictions in the run's directory; training writes them there at "
            "each evaluation.",
        )  # fmt: skip
    return together(*map(_of_split, found))


def _of_split(answers: Answers) -> Safe:
    wrong = answers.wrong
    parts: list[Safe] = [element("h3", f"{answers.task}, {answers.split}")]
    if answers.labels:
        parts.append(_confusions(answers))
    right = len(answers.rows) - len(wrong)
    text = f"{right} of {len(answers.rows)} predictions equal their targets"
    parts.append(element("p", f"{text}. From {answers.file}."))
    if wrong:
        parts.append(_worst(wrong))
    return element("div", parts)


def _confusions(answers: Answers) -> Safe:
    """Returns the matrix: a row for each target, a column for each prediction."""
    labels = answers.labels
    counts = collections.Counter(
        (row.targets, row.prediction if row.prediction in labels else None) for row in answers.rows
    )
    others = any(prediction is None for _, prediction in counts)
    columns: list[str | None] = [*labels, *([None] if others else [])]
    rows = []
    for target in labels:
        total = sum(counts[target, column] for column in columns)
        cells = [_count(counts[target, c], total, c == target) for c in columns]
        right = counts[target, target] / total
        rows.append(
            [
                element("th", target, scope="row"),
                *cells,
                number_cell(total, str(total)),
                number_cell(right, f"{right:.1%}"),
            ]
        )
    headings = ["no label" if column is None else f"predicted {column}" for column in columns]
    return table(
        ["targets", *headings, "examples", "right"], rows,
        "Confusions: a row for each target, and the number of its examples by prediction",
    )  # fmt: skip


def _count(count: int, total: int, is_right: bool) -> Safe:
    text = element("b", str(count)) if is_right else Safe(count)
    return element(
        "td", text, class_="number share", data_value=count, style=f"--share: {count / total:.3f}"
    )


def _worst(wrong: Sequence[Answer]) -> Safe:
    scored = any(row.score is not None for row in wrong)
    shown = wrong[:_SHOWN]
    order = "those whose targets the model finds least likely" if scored else "in their order"
    count = f"{len(shown)} of {len(wrong)}" if len(wrong) > len(shown) else f"All {len(wrong)}"
    rows = [
        [
            element("td", cut(row.inputs), class_="text"),
            element("td", cut(row.targets), class_="text"),
            element("td", cut(row.prediction), class_="text"),
            *([_score(row)] if scored else []),
        ]
        for row in shown
    ]
    columns = ["inputs", "targets", "prediction", *(["log-likelihood of the targets"] * scored)]
    return table(columns, rows, f"{count} wrong predictions, {order}")


def _score(row: Answer) -> Safe:
    return number_cell(row.score, "" if row.score is None else number_text(row.score))


def cut(text: str) -> str:
    """Returns a text; of a long one, its beginning and the number of characters left out."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"
