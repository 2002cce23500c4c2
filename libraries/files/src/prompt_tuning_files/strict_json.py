"""JSON as files of weights need it: where a name occurs twice, one of its values would be lost."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """Returns the value of a JSON text in which no object has a name twice.

    Raises:
      ValueError: If it is none.
    """
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Makes a dict of an object's members, for a parser's `object_pairs_hook`.

    Raises:
      ValueError: If a name occurs twice.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
