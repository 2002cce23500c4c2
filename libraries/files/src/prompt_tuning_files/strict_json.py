"""Strict JSON: no object has a name twice (a value would be lost), and all numbers are finite."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import git_lfs

__all__ = ["dumps", "loads", "read_object", "unique"]


def read_object(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: The file.
      name: The name of the file in errors.

    Raises:
      InputError: If it can't be read, or holds something else, or a name twice.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror or error}") from None
    git_lfs.refuse(content, name)
    try:
        found = loads(content)
    except ValueError as error:
        raise InputError(f"{name}: not readable as JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: found {type(found).__name__}, expected a JSON object")
    return found


def loads(text: str | bytes) -> Any:
    """Returns the value of a JSON text in which no object has a name twice.

    Raises:
      ValueError: If `text` is not such a text.
    """
    try:
        found = json.loads(text, object_pairs_hook=unique)
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text has half of a surrogate pair") from error
    return found


def dumps(value: object, indent: int | None = None) -> str:
    """Returns a value as JSON, with `null` for numbers that are not finite, which JSON lacks.

    Args:
      value: A JSON-serialisable value; tuples become lists.
      indent: Spaces by which nested values are indented; None for one line.
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Makes a dict of an object's members, for a parser's `object_pairs_hook`.

    Raises:
      ValueError: If a name occurs twice.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
