"""Reads the predictions that an evaluation wrote, `TASK-SPLIT-predictions.jsonl`."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json

MOST_LABELS = 12
_METRICS, _PREDICTIONS = "-metrics.json", "-predictions.jsonl"


@dataclasses.dataclass(frozen=True)
class Answer:
    """A line of predictions.

    Attributes:
      inputs: The input text.
      targets: The right answer.
      prediction: The model's answer.
      score: Log-likelihood of the targets, in nats; None if the line has none.
    """

    inputs: str
    targets: str
    prediction: str
    score: float | None


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to the examples of a split of a task.

    Attributes:
      file: The name of the file.
      task: The task.
      split: The split.
      rows: The answers, in the order of the file.
    """

    file: str
    task: str
    split: str
    rows: Sequence[Answer]

    @property
    def labels(self) -> list[str]:
        """The different targets, the most frequent first; empty if the targets are free texts.

        Targets are free texts if there are more than `MOST_LABELS`, or if they hardly repeat: if
        there are fewer than two examples for each on average.
        """
        counts = collections.Counter(row.targets for row in self.rows)
        if len(counts) > MOST_LABELS or len(self.rows) < 2 * len(counts):
            return []
        return [label for label, _ in counts.most_common()]

    @property
    def majority(self) -> tuple[str, int]:
        """The most frequent target, and the number of its examples."""
        return collections.Counter(row.targets for row in self.rows).most_common(1)[0]

    @property
    def wrong(self) -> list[Answer]:
        """The answers that differ from the targets; the least likely targets come first."""
        found = [row for row in self.rows if row.prediction != row.targets]
        return sorted(found, key=lambda row: math.inf if row.score is None else row.score)


def read_answers(directory: Path) -> list[Answers]:
    """Reads the predictions in a run's directory, for each task and split, sorted by name.

    Raises:
      InputError: If a file is missing or damaged.
    """
    found = []
    for path in sorted(directory.glob(f"*{_METRICS}")):
        facts = strict_json.read_object(path, str(path))
        file = path.with_name(path.name.removesuffix(_METRICS) + _PREDICTIONS)
        rows = _rows(file)
        if facts.get("examples") != len(rows):
            raise InputError(
                f"{file}: has {len(rows)} lines, and {path.name} counts {facts.get('examples')} "
                "examples; evaluate again, or remove both"
            )
        if rows:
            found.append(Answers(file.name, str(facts.get("task")), str(facts.get("split")), rows))
    return found


def _rows(path: Path) -> list[Answer]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"{path}: can't be read ({reason}); evaluate again") from None
    return [_answer(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line]


def _answer(line: str, place: str) -> Answer:
    try:
        row: Any = strict_json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: not readable as JSON ({error}); evaluate again") from None
    row = row if isinstance(row, dict) else {}
    answer = Answer(row.get("inputs"), row.get("targets"), row.get("prediction"), row.get("score"))
    texts = (answer.inputs, answer.targets, answer.prediction)
    is_number = answer.score is None or type(answer.score) in (int, float)
    if not (is_number and all(isinstance(text, str) for text in texts)):
        raise InputError(
            f"{place}: expected texts in 'inputs', 'targets' and 'prediction', and a number in "
            "'score' if there is one; evaluate again"
        )
    return answer
