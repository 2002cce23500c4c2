"""What this package's scripts share: errors of one line, and the facts beside what they measure."""

from __future__ import annotations

import datetime
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from typing import Any

from prompt_tuning_core.errors import PromptTuningError
from prompt_tuning_demo import model


def facts(name: str, versions_of: Sequence[str]) -> dict[str, Any]:
    """Returns what every file of measurements says of itself: `made_by`, `date` and so on.

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
    """Calls `main` with the process's arguments; exits with 2 and one line where input is bad.

    Args:
      name: The script, to name in the line.
      main: Takes the arguments.
    """
    try:
        main(sys.argv[1:])
    except PromptTuningError as error:
        sys.stderr.write(f"{name}: error: {error}\n")
        sys.exit(2)
