"""Reads the tables of a report back, with the exact values of their cells."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

_NO_END = ("meta",)


@dataclasses.dataclass
class Cell:
    """A cell: its text, and the value in `data-value` if it has one."""

    text: str = ""
    value: float | None = None


class Page(HTMLParser):
    """A parsed page.

    Attributes:
      tables: The rows of each table, by the nearest `data-figure` or the table's `aria-label`.
      texts: The texts of all elements, joined.
      tags: The names of all elements.
      attributes: The names and values of all attributes.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[Cell]]] = {}
        self.texts = ""
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self._name = ""
        self._figure = ""
        self._cell: Cell | None = None
        self.feed(text)
        self.close()
        assert self._open == [], "elements without an end"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in _NO_END:
            self._open.append(tag)
        found = dict(attrs)
        if tag == "figure":
            self._figure = found["data-figure"]
        elif tag == "div" and found.get("class") == "wide":
            self._name = self._figure or found["aria-label"]
            if self._name in self.tables:  # That of a run, below the comparison.
                self._name += f" {len(self.tables)}"
            self.tables[self._name] = []
        elif tag == "tr":
            self.tables[self._name].append([])
        elif tag in ("td", "th"):
            value = found.get("data-value")
            self._cell = Cell(value=None if value is None else float(value))
            self.tables[self._name][-1].append(self._cell)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> ends another element"
        if tag == "figure":
            self._figure = ""
        elif tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        self.texts += data
        if self._cell is not None:
            self._cell.text += data

    def values(self, table):
        """Returns the values of a table's rows by their first cell, without its heading."""
        return {
            row[0].text: [cell.value for cell in row[1:] if cell.value is not None]
            for row in self.tables[table][1:]
        }
