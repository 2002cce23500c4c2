"""Writes down what of T5X, Flaxformer and seqio the packaged gin files name.

`python tests/record_t5x.py` where they are installed; tests/golden/t5x_configurables.json is what
tests/test_configs.py holds the gin files to everywhere.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import packaged_gin

RECORD = Path(__file__).parent / "golden" / "t5x_configurables.json"
PROJECTS = ("t5x", "flaxformer", "seqio")


def parameters(name: str) -> list[str]:
    """Returns the names of the parameters of a function, class or method."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        found = functools.reduce(getattr, parts[count:], module)
        return list(inspect.signature(found).parameters)
    raise ModuleNotFoundError(name)


def record() -> dict[str, Any]:
    """Returns the parameters of each configurable, and the macros of each gin file of T5X."""
    files = [packaged_gin.read(file) for _, file in packaged_gin.files()]
    names = {name for file in files for name in file.configurables}
    includes = {name for file in files for name in file.includes}
    t5x = Path(importlib.import_module("t5x").__path__[0]).parent
    macros = {}
    for name in sorted(n for n in includes if n.startswith("t5x/")):
        file = packaged_gin.read(t5x / name)
        macros[name] = {
            "set": sorted(macro for macro, has_value in file.macros.items() if has_value),
            "required": sorted(macro for macro, has_value in file.macros.items() if not has_value),
            "used": sorted(file.used),
        }
    return {
        "parameters": {
            name: parameters(name) for name in sorted(names) if name.partition(".")[0] in PROJECTS
        },
        "macros": macros,
    }


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    path.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
