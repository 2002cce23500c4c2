"""The section of curves: each metric of evaluations and of training, by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from prompt_tuning_commands_runs.html_elements import Safe, element
from prompt_tuning_commands_runs.line_figures import Line, figure
from prompt_tuning_commands_runs.run_records import EVALUATION, TRAINING


@dataclasses.dataclass(frozen=True)
class Curves:
    """The values of a run, or of a group of runs.

    Attributes:
      label: The label of its lines.
      style: The number of the style of its lines.
      history: The values of each metric by step; a name begins with "train/" or "eval/".
    """

    label: str
    style: int
    history: Mapping[str, Mapping[int, float]]


def figures(drawn: Sequence[Curves], note: str = "") -> Safe:
    """Returns a figure for each metric, with a line for each of `drawn`, and `note` in its text."""
    found = []
    for group, when in ((EVALUATION, "evaluation"), (TRAINING, "training")):
        names = dict.fromkeys(n for one in drawn for n in one.history if n.startswith(group))
        for name in names:
            lines = [
                Line(one.label, one.history[name], one.style)
                for one in drawn
                if name in one.history
            ]
            found.append(figure(f"{when}: {name.removeprefix(group)}", lines, note))
    if not found:
        return element("p", "There are no metrics yet.")
    return element("div", found, class_="figures")
