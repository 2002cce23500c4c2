"""Formats text for the terminal, and removes control characters from the texts of plugins."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str, longest: int = 2000) -> str:
    """Replaces unprintable characters by `?`, and cuts long words and a long text with `…`."""
    words = (w if len(w) < 400 else f"{w[:200]}…{w[-100:]}" for w in text.split(" "))
    text = " ".join(words)
    shown = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return shown if len(text) <= longest else f"{shown[:longest]}…"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns one line for each row, with aligned columns; all rows are equally long."""
    rows = [[printable(cell, 300) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    cells = ([c.ljust(w) for c, w in zip(row, [*widths, 0], strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]
