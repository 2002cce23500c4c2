"""Says what is there in the place of modules of another project that gin files once imported.

A package of gin files (kind `configs`) may hold a file `replaced_modules.json`: an object that maps
the name of a module to what to do in its place, such as `"old.train.utils": "use new.files"`. An
entry also stands for the modules below it that have none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

FILE_NAME = "replaced_modules.json"


def advice(module: str, folders: Iterable[Path]) -> str | None:
    """Returns what to do in the place of importing a module; None if no folder's file knows it.

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
