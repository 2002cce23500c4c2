"""Names the extra of this distribution that brings a missing package."""

from __future__ import annotations

_COMMAND = "pip install 'prompt-tuning-engine-local[{}]'"
_EXTRA_OF = {
    "matplotlib": "curves",
    "seqio": "seqio",
    "tensorflow": "seqio",
    "tensorflow_datasets": "seqio",
}


def how_to_install(error: BaseException | None) -> str:
    """Returns the end of a message about an import that failed.

    Args:
      error: The exception, or one whose context is the exception: gin raises a new error for a
        failed import, without the name of the module.

    Returns:
      `"; install it with: pip install …"` if an extra brings the module that is missing, else "".
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            extra = _EXTRA_OF.get(error.name.partition(".")[0])
            return f"; install it with: {_COMMAND.format(extra)}" if extra else ""
        error = error.__cause__ or error.__context__
    return ""
