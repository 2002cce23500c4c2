"""Names the extra of this distribution that installs a missing package."""

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
      error: The exception, or an exception whose context is that exception. For a failed import,
        gin raises a new error, without the name of the module.

    Returns:
      `"; install it with: pip install …"` if an extra installs the missing module, else "".
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            extra = _EXTRA_OF.get(error.name.partition(".")[0])
            return f"; install it with: {_COMMAND.format(extra)}" if extra else ""
        error = error.__cause__ or error.__context__
    return ""
