"""Nested facts, such as provenance, as one list of names and texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

_LINE = 80  # Longer lists continue on a new line.


def flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields nested facts by dotted names, each short enough for a line.

    Args:
      facts: JSON values by name.
      prefix: The beginning of each name.

    Yields:
      A name and a text. Of a text of several lines, only the number of lines; of a long list, each
      item.
    """
    for key, value in facts.items():
        name = prefix + key
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list) and len(text) > _LINE:
            yield from flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif len(text.splitlines()) > 1:
            yield name, f"{len(text.splitlines())} lines"
        else:
            yield name, text
