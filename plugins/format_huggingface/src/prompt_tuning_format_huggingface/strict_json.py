"""Strict reading of the small JSON files beside the arrays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError


def read_object(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: The file.
      name: What to call it in errors.

    Raises:
      InputError: If it can't be read, or holds something else, or a key twice.
    """
    try:
        found = json.loads(Path(path).read_bytes(), object_pairs_hook=_unique)
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not readable as JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: found {type(found).__name__}, expected a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result
