"""Warns of public names that a later version removes; `docs/stability.md` has the policy."""

from __future__ import annotations

import warnings


def warn(name: str, replacement: str, removed_in: str, stacklevel: int = 2) -> None:
    """Warns that a name is deprecated.

    Args:
      name: The name as users write it: `prompt_tuning_x.old`, or `--gin.OLD`.
      replacement: What they write instead.
      removed_in: The distribution and the first version without the name: "prompt-tuning-x 2.0".
      stacklevel: As for `warnings.warn`. With 2, the warning shows the caller of the deprecated
        function.
    """
    message = f"{name} is deprecated, and {removed_in} removes it; use {replacement}"
    # Users write these names in gin files, and Python would hide a DeprecationWarning from them.
    warnings.warn(message, FutureWarning, stacklevel + 1)
