"""Helpers of this package's scripts: errors of one line, and facts about a measurement."""

from __future__ import annotations

import datetime
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from typing import Any

from prompt_tuning_core.errors import PromptTuningError
from prompt_tuning_demo import model


def facts(name: str, versions_of: Sequence[str]) -> dict[str, Any]:
    """Returns the facts in every file of measurements: `made_by`, `date` and so on.

    Args:
      name: The script that measures.
      versions_of: The packages that the numbers depend on.
    """
    return {
        "made_by": f"python -m prompt_tuning_demo.{name}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "base_sha256": model.checkpoint_sha256(),
        "versions": {name: importlib.metadata.version(name) for name in versions_of},
    }


def run(name: str, main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main` with the process's arguments; bad input gives one line and exit code 2.

    Args:
      name: The script's name, for that line.
      main: Takes the arguments.
    """
    try:
        main(sys.argv[1:])
    except PromptTuningError as error:
        sys.stderr.write(f"{name}: error: {error}\n")
        sys.exit(2)
