"""Figures of lines in SVG: the values of a metric by step, a line for each run.

A reader does not need to see colours. Lines differ in their dashes and markers, and have a label at
their end. A table below the figure has the numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from prompt_tuning_commands_runs.html_elements import (
    Safe,
    element,
    folded,
    number_cell,
    table,
    together,
)
from prompt_tuning_commands_runs.run_tables import number_text
from prompt_tuning_commands_runs.svg_axes import COLORS, Axes, apart, drawing, marker

MOST_POINTS = 200
_DASHES = (None, "7 4", "2 3", "10 3 2 3", "12 5", "4 2 4 6")
_MOST_MARKED = 30


@dataclasses.dataclass(frozen=True)
class Line:
    """The values of one run.

    Attributes:
      label: A short name, shown at the line's end; "" for a figure of a single line.
      points: Values by step. A value that cannot be drawn interrupts the line.
      style: A number; lines of one style look alike.
    """

    label: str
    points: Mapping[int, float]
    style: int = 0

    @property
    def drawn(self) -> list[tuple[int, float]]:
        """The steps and values of its points, except values that are not finite or beyond 1e100."""
        return [(step, value) for step, value in self.points.items() if _can_be_drawn(value)]


def figure(title: str, lines: Sequence[Line], note: str = "") -> Safe:
    """Returns a figure: the lines, a text about their values, and a table of the numbers.

    Args:
      title: The name of the values.
      lines: The lines. A line with more than `MOST_POINTS` values is drawn with means of values.
      note: A text to add.
    """
    drawn, notes = [], [note]
    for line in lines:
        points, size = thinned(line.points)
        drawn.append(dataclasses.replace(line, points=points))
        notes.append(f"Each point is the mean of {size} values in a row." if size > 1 else "")
    texts = [_about(lines), *dict.fromkeys(notes)]
    numbers = table(
        ["step", *(line.label or title for line in drawn)],
        (
            [element("th", str(step), scope="row"), *(_cell(line, step) for line in drawn)]
            for step in sorted({step for line in drawn for step in line.points})
        ),
    )
    return element(
        "figure",
        element("h3", title),
        _drawn(title, drawn),
        element("figcaption", " ".join(filter(None, texts))),
        folded("The numbers", numbers),
        data_figure=title,
    )


def _can_be_drawn(value: float) -> bool:
    return abs(value) <= 1e100  # False for NaN.


def thinned(points: Mapping[int, float]) -> tuple[dict[int, float], int]:
    """Returns at most `MOST_POINTS` points, each a mean of several values, and their number.

    The step of a point is the last step of its values.
    """
    size = max(1, math.ceil(len(points) / MOST_POINTS))
    steps = sorted(points)
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    return {part[-1]: sum(points[step] for step in part) / len(part) for part in parts}, size


def _about(lines: Sequence[Line]) -> str:
    """Returns the last value of each line in words; for a single line, other values too."""
    found_in = {line.label: line.drawn for line in lines if line.drawn}
    if not found_in:
        return "No value is finite."
    if len(lines) > 1:
        last = (f"{label} {number_text(found[-1][1])}" for label, found in found_in.items())
        return f"Last values: {', '.join(last)}."
    (found,) = found_in.values()
    named = {
        "First": found[0], "lowest": min(found, key=lambda one: one[1]),
        "highest": max(found, key=lambda one: one[1]), "last": found[-1],
    }  # fmt: skip
    words = (f"{what} {number_text(value)} (step {step})" for what, (step, value) in named.items())
    return f"{', '.join(words)}."


def _cell(line: Line, step: int) -> Safe:
    value = line.points.get(step)
    if value is None:
        return element("td", "")
    return number_cell(value, number_text(value) if math.isfinite(value) else "not finite")


def _drawn(title: str, lines: Sequence[Line]) -> Safe:
    values = [value for line in lines for _, value in line.drawn]
    steps = [step for line in lines for step in line.points]
    if not values:
        return element("p", "No value is finite: there is nothing to draw.")
    right = 26 + 9 * max(len(line.label) for line in lines)  # Room for the labels.
    margin = (max(values) - min(values)) / 20
    up = (min(values) - margin, max(values) + margin)
    axes = Axes((min(steps), max(steps)), up, right)
    content = [axes.grid("step", least=1), [_path(line, axes) for line in lines]]
    if any(line.label for line in lines):
        content.append(_labels(lines, axes))
    return drawing(f"{title} by step", together(*content))


def _labels(lines: Sequence[Line], axes: Axes) -> Safe:
    """Returns the label of each line at its end; moves labels so that none covers another one."""
    ends = [(axes.y(line.drawn[-1][1]), line) for line in lines if line.drawn]
    ends.sort(key=lambda one: one[0])
    places = apart([y for y, _ in ends], axes)
    return element(
        "g",
        (
            element(
                "text", line.label, x=axes.right + 8, y=f"{y + 4:.1f}",
                class_=f"label text{line.style % COLORS}",
            )
            for y, (_, line) in zip(places, ends, strict=True)
        ),
    )  # fmt: skip


def _path(line: Line, axes: Axes) -> Safe:
    """Returns the line, broken where a value is not finite, with markers if they are few."""
    color = f"color{line.style % COLORS}"
    form = line.style + line.style // COLORS  # Lines of one colour differ in their form.
    parts = [
        " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in part)
        for part in _drawn_parts(line.points)
    ]
    dashes = _DASHES[form % len(_DASHES)]
    strokes = (
        element("polyline", points=part, class_=f"line {color}", stroke_dasharray=dashes)
        for part in parts
    )
    marked = line.drawn if len(line.points) <= _MOST_MARKED else []
    markers = (marker(form, axes.x(step), axes.y(value), f"mark {color}") for step, value in marked)
    return element("g", strokes, markers)


def _drawn_parts(points: Mapping[int, float]) -> Iterator[list[tuple[int, float]]]:
    for is_drawn, part in itertools.groupby(points.items(), key=lambda one: _can_be_drawn(one[1])):
        if is_drawn:
            yield list(part)
