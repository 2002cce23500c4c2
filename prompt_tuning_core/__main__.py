"""The command `prompt-tuning`, also as `python -m prompt_tuning_core`."""

from __future__ import annotations

import os
import sys
import threading

from prompt_tuning_core.commands.main import main


def run() -> None:
    """Runs the command and ends the process."""
    code = main()
    if code and threading.active_count() > 1:
        # After a failed save, for example, threads of Orbax would wait for minutes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
