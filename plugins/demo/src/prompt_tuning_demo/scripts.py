"""Runs this package's scripts, whose errors are one line as those of `prompt-tuning` are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from prompt_tuning_core.errors import PromptTuningError


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
