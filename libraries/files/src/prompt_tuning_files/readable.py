"""Checks that a file can be read at all: it is a file on a disk, and its array fits into memory.

A pipe would wait for a writer, and a device may never end.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from prompt_tuning_core.errors import InputError

__all__ = ["check_is_file", "fits_in_memory"]


def check_is_file(path: str | os.PathLike[str], name: str) -> None:
    """Refuses a pipe, a device or a socket; a path that does not exist is the reader's error.

    Args:
      path: What is read next.
      name: What to call it in errors.

    Raises:
      InputError: If it is one.
    """
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(
                f"{name}: is a pipe, a device or a socket, expected a file: save its content in one"
            )


@contextlib.contextmanager
def fits_in_memory(what: str, shape: tuple[int, ...]) -> Iterator[None]:
    """Says what does not fit into memory.

    Args:
      what: What is read, for the beginning of the message.
      shape: The shape of its array.

    Raises:
      InputError: If there is not enough memory.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{what}: an array of the shape {list(shape)} does not fit into memory; give another "
            "file, or a machine with more"
        ) from error
