"""Reads the small JSON files beside the arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prompt_tuning_core import git_lfs
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json


def read_object(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: The file.
      name: What to call it in errors.

    Raises:
      InputError: If it can't be read, or holds something else, or a key twice.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror or error}") from None
    git_lfs.refuse(content, name)
    try:
        found = strict_json.loads(content)
    except ValueError as error:
        raise InputError(f"{name}: not readable as JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: found {type(found).__name__}, expected a JSON object")
    return found
