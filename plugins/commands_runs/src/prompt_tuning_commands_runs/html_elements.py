"""Makes HTML and SVG: all text is escaped, since it may come from data."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Safe(str):
    """Text that is HTML already: it is not escaped again."""


def element(tag: str, *children: str | Iterable[str], **attributes: object) -> Safe:
    """Returns an element, such as `<td class="number">0.5</td>`.

    Args:
      tag: Its name.
      *children: Texts, which are escaped, and elements, which are not; or iterables of these.
      **attributes: Values by name. In a name, `_` stands for `-`, and a last `_` is dropped, as in
        `class_`. An attribute with the value None is left out.
    """
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Safe(f"<{tag}{pairs}>{together(*children)}</{tag}>")


def together(*children: str | Iterable[str]) -> Safe:
    """Joins texts and elements; see `element`."""
    return Safe("".join(map(_one, children)))


def _one(child: str | Iterable[str]) -> str:
    if isinstance(child, Safe):
        return child
    return html.escape(child) if isinstance(child, str) else together(*child)


def number_cell(value: float | int | None, text: str) -> Safe:
    """Returns a cell of a table that has the exact value in `data-value`."""
    return element("td", text, class_="number", data_value=None if value is None else repr(value))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None
) -> Safe:
    """Returns a table that scrolls by itself if it is too wide for the page.

    Args:
      columns: The headings.
      rows: Cells: elements `td` or `th`, and texts, which become cells.
      caption: One line above the table, or None.
    """
    head = element("tr", (element("th", column, scope="col") for column in columns))
    body = (element("tr", map(_cell, row)) for row in rows)
    # Not <caption>, which scrolls with the table.
    named = [] if caption is None else [element("p", caption, class_="caption")]
    whole = element("table", element("thead", head), element("tbody", body))
    about = caption or ", ".join(columns)
    scrolling = element("div", whole, class_="wide", tabindex=0, role="region", aria_label=about)
    return together(named, scrolling)


def _cell(content: str) -> str:
    is_cell = isinstance(content, Safe) and content.startswith(("<td", "<th"))
    return content if is_cell else element("td", content)


def folded(summary: str | Safe, *content: str | Iterable[str], is_open: bool = False) -> Safe:
    """Returns content that the reader unfolds, below its summary."""
    return element("details", element("summary", summary), *content, open="" if is_open else None)
