"""The plane of a figure in SVG: the places of numbers, axes with round numbers, and markers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from prompt_tuning_commands_runs.html_elements import Safe, element

WIDTH, HEIGHT = 460, 270
COLORS = 6
"""The number of colours in the style sheet."""

_LEFT, _TOP, _BOTTOM, _MARGIN = 62, 12, 42, 26


class Axes:
    """Places numbers in a figure.

    Args:
      across: The lowest and the highest number of the horizontal axis.
      up: The lowest and the highest number of the vertical axis.
      right: Room to leave at the right, for labels.
    """

    def __init__(
        self, across: tuple[float, float], up: tuple[float, float], right: float = _MARGIN
    ) -> None:
        self.x0, self.right = _LEFT, WIDTH - right
        self.top, self.bottom = _TOP, HEIGHT - _BOTTOM
        self._across, self._up = _with_width(across), _with_width(up)

    @staticmethod
    def of_one_scale(across: tuple[float, float], up: tuple[float, float]) -> Axes:
        """Makes axes on which one unit has the same length: the shorter range is widened."""
        room = (WIDTH - _LEFT - _MARGIN, HEIGHT - _TOP - _BOTTOM)
        ranges = list(zip((_with_width(across), _with_width(up)), room, strict=True))
        unit = 1.1 * max((high - low) / size for (low, high), size in ranges)
        wide = [
            ((low + high - unit * size) / 2, (low + high + unit * size) / 2)
            for (low, high), size in ranges
        ]
        return Axes(wide[0], wide[1])

    def x(self, value: float) -> float:
        """Returns the place of a number on the horizontal axis."""
        low, high = self._across
        return _LEFT + (value - low) / (high - low) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        """Returns the place of a number on the vertical axis; high numbers are at the top."""
        low, high = self._up
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def grid(self, across: str, up: str = "", least: float = 0) -> Safe:
        """Returns the axes with round numbers.

        Args:
          across: Name of the horizontal axis.
          up: Name of the vertical axis, or "".
          least: The smallest distance of two numbers on the horizontal axis: 1 for whole numbers.
        """
        lines = []
        for tick, text in _ticks(*self._up):
            y = f"{self.y(tick):.1f}"
            lines.append(element("line", x1=_LEFT, x2=self.right, y1=y, y2=y, class_="grid"))
            lines.append(_text(text, _LEFT - 7, self.y(tick) + 4, "end"))
        for tick, text in _ticks(*self._across, least):
            lines.append(_text(text, self.x(tick), self.bottom + 17, "middle"))
        y = str(self.bottom)
        lines.append(element("line", x1=_LEFT, x2=self.right, y1=y, y2=y, class_="axis"))
        lines.append(_text(across, (_LEFT + self.right) / 2, HEIGHT - 6, "middle"))
        if up:
            turned = f"translate(13 {(self.top + self.bottom) / 2}) rotate(-90)"
            lines.append(element("text", up, text_anchor="middle", transform=turned))
        return element("g", lines, class_="axes")


def drawing(title: str, content: Iterable[str]) -> Safe:
    """Returns the figure, with a title for readers who cannot see it."""
    return element(
        "svg", element("title", title), content,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title,
    )  # fmt: skip


def apart(places: Sequence[float], axes: Axes, height: float = 14) -> list[float]:
    """Moves the places of texts on the vertical axis apart, so that none covers another one.

    Args:
      places: The places, from the top to the bottom.
      axes: The figure; texts stay between its top and its bottom.
      height: Height of a text; texts that do not fit stand closer.
    """
    height = min(height, (axes.bottom - axes.top) / max(1, len(places) - 1))
    moved: list[float] = []
    for number, place in enumerate(places):
        lowest = axes.bottom - (len(places) - 1 - number) * height
        highest = moved[-1] + height if moved else axes.top
        moved.append(max(min(place, lowest), highest))
    return moved


def marker(shape: int, x: float, y: float, class_: str) -> Safe:
    """Returns one of six marks: circle, square, triangle, diamond, cross, triangle upside down."""
    shape %= 6
    if shape == 0:
        return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_=class_)
    corners: Sequence[tuple[float, float]] = (
        [(-3, -3), (3, -3), (3, 3), (-3, 3)],
        [(0, -4.5), (4, 3), (-4, 3)],
        [(0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0)],
        [(-4, -1), (-1, -1), (-1, -4), (1, -4), (1, -1), (4, -1), (4, 1), (1, 1), (1, 4), (-1, 4),
         (-1, 1), (-4, 1)],
        [(0, 4.5), (4, -3), (-4, -3)],
    )[shape - 1]  # fmt: skip
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return element("polygon", points=points, class_=class_)


def _text(text: str, x: float, y: float, anchor: str) -> Safe:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _with_width(ends: tuple[float, float]) -> tuple[float, float]:
    """Widens a range whose ends are equal, or almost equal, since it has no places between."""
    low, high = ends
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * max(size, 1e-90):
        return ends
    half = size / 10 if size > 1e-90 else 0.5
    return low - half, high + half


def _ticks(low: float, high: float, least: float = 0) -> list[tuple[float, str]]:
    """Returns about five round numbers from `low` to `high`, with their texts."""
    rough = max((high - low) / 5, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    texts = f"{{:.{digits}f}}" if 1e-5 < step < 1e6 else "{:.3g}"
    return [(number * step, texts.format(number * step)) for number in range(first, last + 1)]
