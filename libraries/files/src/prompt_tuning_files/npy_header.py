"""Strict reading of `.npy` headers: refuses some arrays that numpy's format allows."""

from __future__ import annotations

import dataclasses
import math
from typing import IO

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import git_lfs

FLOATING = ("float16", "bfloat16", "float32", "float64")
"""Names of the dtypes that embedding tables and prompts may be stored in."""

_PICKLE_REFUSED = "holds pickled Python objects, which are never loaded; save a plain float array"


@dataclasses.dataclass(frozen=True)
class NpyHeader:
    """The header of a `.npy` file, checked against the file.

    Attributes:
      shape: The array's shape; any rank, all sizes at least 1.
      dtype: float16, float32 or float64, in either byte order.
      fortran_order: True if the first index varies fastest.
      offset: The beginning of the data, in bytes from the start of the stream.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int


def read_npy_header(stream: IO[bytes], size: int, name: str) -> NpyHeader:
    """Reads and checks the header of a `.npy` file; leaves `stream` where the data begins.

    Args:
      stream: A seekable binary stream at its start.
      size: The stream's whole length in bytes.
      name: The name of the stream in errors: its path.

    Raises:
      InputError: If it is no `.npy` file (for example, a Git LFS pointer), if it is pickled,
        truncated, longer than its header says, or empty, or if it isn't float16, float32 or
        float64.
    """
    start = stream.read(len(git_lfs.POINTER))
    stream.seek(0)
    git_lfs.refuse(start, name)
    if start[:4] == b"PK\x03\x04":
        raise InputError(f"{name}: is a .npz archive, expected one .npy array")
    if start[:1] == b"\x80":
        raise InputError(f"{name}: {_PICKLE_REFUSED}")
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version in ((2, 0), (3, 0)):
            # Version 3.0 is encoded in UTF-8, 2.0 in Latin-1. This matters only for the field names
            # of structured arrays, which are refused below.
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"format version {version}, expected (1, 0), (2, 0) or (3, 0)")
    except Exception as error:  # Any error of the parser means a bad header.
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name}: not a readable .npy file ({cause}); write it again with np.save"
        ) from error
    if dtype.hasobject:
        raise InputError(f"{name}: {_PICKLE_REFUSED}")
    if dtype.name not in FLOATING:
        # numpy itself has no bfloat16: np.save stores such a number as two bytes of unknown type.
        hint = " (a bfloat16 array, maybe; store it as float32)" if dtype.str == "|V2" else ""
        raise InputError(f"{name}: has dtype {dtype}{hint}, expected float16, float32 or float64")
    if any(length < 1 for length in shape):
        raise InputError(f"{name}: has shape {shape}, expected no size below 1")
    header = NpyHeader(shape, dtype, fortran_order, stream.tell())
    expected = header.offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise InputError(
            f"{name}: is {state}: {size} bytes, expected {expected} for {dtype} {shape}; copy it "
            "again"
        )
    return header
