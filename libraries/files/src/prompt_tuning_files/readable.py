"""Checks that a path is a file on a disk, and that an array fits into memory and its dtype.

A read from a pipe would wait for a writer, and a device may never end.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

import numpy as np

from prompt_tuning_core.errors import InputError

__all__ = ["cast", "check_is_file", "fits_in_memory"]


def check_is_file(path: str | os.PathLike[str], name: str) -> None:
    """Refuses a pipe, a device or a socket; accepts a path that does not exist.

    Args:
      path: The path to read.
      name: The name of the file in errors.

    Raises:
      InputError: If it is one of these.
    """
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(
                f"{name}: is a pipe, a device or a socket, expected a file: save its content in one"
            )


@contextlib.contextmanager
def fits_in_memory(what: str, shape: tuple[int, ...]) -> Iterator[None]:
    """Reports a MemoryError in its block as an `InputError`.

    Args:
      what: The thing that is read, for the beginning of the message.
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


def cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Returns an array of floating numbers in another dtype; no finite number becomes infinite.

    Args:
      array: The array.
      dtype: The name of the dtype, such as "float32".
      name: The name of the array in errors.

    Raises:
      InputError: If a number is beyond the range of the dtype.
    """
    with np.errstate(over="ignore"):  # Checked below.
        result = array.astype(dtype)
    if not np.array_equal(np.isfinite(result), np.isfinite(array)):
        raise InputError(f"{name}: has values beyond the range of {dtype}")
    return result
