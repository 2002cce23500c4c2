"""`python -m prompt_tuning_core` is the command `prompt-tuning`."""

from __future__ import annotations

import sys

from prompt_tuning_core.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
