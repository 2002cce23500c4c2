"""Advice for gin files that import modules of another project, which this project replaces.

A package of gin files (kind `configs`) may hold a file `replaced_modules.json`. Its object maps the
name of a module to advice, such as `"old.train.utils": "use new.files"`. An entry also serves the
modules below it that have no entry of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

FILE_NAME = "replaced_modules.json"


def advice(module: str, folders: Iterable[Path]) -> str | None:
    """Returns the advice for an import of a module; None if no folder has advice.

    Args:
      module: The module's full name.
      folders: The folders of gin files that distributions carry.
    """
    known: dict[str, str] = {}
    for file in (folder / FILE_NAME for folder in folders):
        if file.is_file():
            known |= json.loads(file.read_text(encoding="utf-8"))
    while module not in known and module:
        module = module.rpartition(".")[0]
    return known.get(module)
