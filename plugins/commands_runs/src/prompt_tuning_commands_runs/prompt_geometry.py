"""The figure of a prompt's vectors at the start and at the end, on their two main axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prompt_tuning_commands_runs.html_elements import Safe, element, folded, number_cell, table
from prompt_tuning_commands_runs.run_tables import number_text
from prompt_tuning_commands_runs.svg_axes import Axes, apart, drawing, marker

_MOST_NUMBERED = 30
_LONGEST = 20  # Characters of a label.
_LABEL = 3
"""The marker and the colour of class labels."""


def main_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Finds the two directions in which rows differ most (principal component analysis).

    Args:
      rows: float `[N, H]`, N and H at least 2.

    Returns:
      The mean `[H]`, the directions `[2, H]`, each with its largest number positive, and the share
      of the variance that they hold.
    """
    mean = rows.mean(axis=0)
    _, sizes, directions = np.linalg.svd(rows - mean, full_matrices=False)
    axes = directions[:2]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    variance = sizes**2
    share = float(variance[:2].sum() / max(variance.sum(), np.finfo(np.float64).tiny))
    return mean, axes * np.where(largest < 0, -1, 1), share


def figures(
    steps: Sequence[int], arrays: Sequence[np.ndarray], labels: Mapping[str, np.ndarray]
) -> Safe:
    """Returns two figures, of the vectors and of their directions, each with a table of places.

    Args:
      steps: The steps of the prompts.
      arrays: One prompt, or the first and the newest one, float32 `[P, H]`.
      labels: Embeddings of class labels `[H]`, by label.
    """
    rows = np.concatenate(arrays).astype(np.float64)
    if min(rows.shape) < 2:
        return element("p", "A single vector, or a single number, has no two main axes.")
    scaled = [_directions(array) for array in arrays]
    near = {label: _directions(vector) for label, vector in labels.items()}
    return element(
        "div",
        _figure("vectors of the prompt", steps, arrays, labels),
        _figure("directions: each vector at the length 1", steps, scaled, near),
        class_="figures",
    )


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `[…, H]` scaled to the length 1; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _figure(
    title: str,
    steps: Sequence[int],
    arrays: Sequence[np.ndarray],
    labels: Mapping[str, np.ndarray],
) -> Safe:
    mean, axes, share = main_axes(np.concatenate(arrays).astype(np.float64))
    places = [(array - mean) @ axes.T for array in arrays]
    named = {label: axes @ (vector - mean) for label, vector in labels.items()}
    text = f"The two main axes hold {share:.1%} of the variance. "
    if len(places) == 1:
        text += f"Circles: positions at step {steps[0]}."
    else:
        numbered = ", numbered" if len(places[-1]) <= _MOST_NUMBERED else ""
        text += f"Hollow circles: step {steps[0]}. Squares{numbered}: step {steps[1]}."
    if named:
        text += " Diamonds: embeddings of class labels, the mean of their pieces."
    return element(
        "figure",
        element("h3", title),
        _drawn(title, places, named),
        element("figcaption", text),
        folded("The numbers", _numbers(steps, places, named)),
        data_figure=title,
    )


def _drawn(title: str, places: Sequence[np.ndarray], named: Mapping[str, np.ndarray]) -> Safe:
    points = np.concatenate([*places, *(place[None] for place in named.values())])
    low, high = points.min(axis=0), points.max(axis=0)
    plane = Axes.of_one_scale((low[0], high[0]), (low[1], high[1]))
    content = [plane.grid("first axis", "second axis")]
    if len(places) > 1:
        content += [_move(plane, *ends) for ends in zip(*places, strict=True)]
    for style, array in enumerate(places):
        class_ = f"mark color{style}{' hollow' if style == 0 and len(places) > 1 else ''}"
        content += [marker(style, plane.x(x), plane.y(y), class_) for x, y in array]
    if len(places[-1]) <= _MOST_NUMBERED:
        content += [
            _name(str(number), plane.x(x), plane.y(y), plane, "small")
            for number, (x, y) in enumerate(places[-1])
        ]
    ordered = sorted(named.items(), key=lambda one: -one[1][1])
    heights = apart([plane.y(place[1]) for _, place in ordered], plane)
    for (label, (x, y)), height in zip(ordered, heights, strict=True):
        content.append(marker(_LABEL, plane.x(x), plane.y(y), f"mark color{_LABEL}"))
        content.append(_name(label, plane.x(x), height, plane, f"label text{_LABEL}"))
    return drawing(title, content)


def _move(plane: Axes, start: np.ndarray, end: np.ndarray) -> Safe:
    (x1, x2), (y1, y2) = (
        [f"{place(value):.1f}" for value in pair]
        for place, pair in zip((plane.x, plane.y), zip(start, end, strict=True), strict=True)
    )
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="move")


def _name(text: str, x: float, y: float, plane: Axes, class_: str) -> Safe:
    """Returns a text next to a place, on the side that has room."""
    is_left = x > (plane.x0 + plane.right) / 2
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}…"
    return element(
        "text", text, x=f"{x - 7 if is_left else x + 7:.1f}", y=f"{y + 4:.1f}",
        text_anchor="end" if is_left else "start", class_=class_,
    )  # fmt: skip


def _numbers(
    steps: Sequence[int], places: Sequence[np.ndarray], named: Mapping[str, np.ndarray]
) -> Safe:
    points = [
        (f"position {position}, step {step}", place)
        for step, array in zip(steps, places, strict=True)
        for position, place in enumerate(array)
    ]
    points += [(f"label {label}", place) for label, place in named.items()]
    rows = (
        [element("th", name, scope="row"), *(_cell(float(value)) for value in place)]
        for name, place in points
    )
    return table(["vector", "first axis", "second axis"], rows)


def _cell(value: float) -> Safe:
    return number_cell(value, number_text(value))
