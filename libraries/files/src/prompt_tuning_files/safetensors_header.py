"""Strict reading of safetensors headers, for readers that read only parts of a file.

A safetensors file is the length of its header in 8 bytes, the header in JSON, and the tensors' data
(https://github.com/huggingface/safetensors describes the format). The `safetensors` library is not
used: it maps the whole file into memory, and each page it reads stays there.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import git_lfs, readable, strict_json

_MAX_HEADER_BYTES = 100_000_000  # The limit of the format.
_FLOATING = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The place of a tensor in a file.

    Attributes:
      code: Its dtype as the format spells it, such as "BF16".
      shape: Its shape.
      offset: The beginning of its data, in bytes from the start of the file.
      size: The number of bytes of its data.
    """

    code: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def dtype(self) -> np.dtype | None:
        """Its dtype for numpy, little-endian; None if it isn't a floating one."""
        if self.code not in _FLOATING:
            return None
        if self.code == "BF16":
            import jax.numpy as jnp  # numpy gets bfloat16 from jax.

            return np.dtype(jnp.bfloat16).newbyteorder("<")
        return np.dtype(_FLOATING[self.code]).newbyteorder("<")


@dataclasses.dataclass(frozen=True)
class SafetensorsHeader:
    """The header of a safetensors file, checked against the file.

    Attributes:
      tensors: The tensors by name, in the order of their data.
      metadata: Texts that the file's writer added.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_safetensors_header(stream: IO[bytes], size: int, name: str) -> SafetensorsHeader:
    """Reads and checks the header of a safetensors file; leaves `stream` where the data begins.

    Tensors must fill the file without gap or overlap. So this refuses a file that was cut, or that
    has a damaged header.

    Args:
      stream: A binary stream at its start.
      size: The stream's whole length in bytes.
      name: The name of the stream in errors: its path.

    Raises:
      InputError: If it is no complete safetensors file, or a Git LFS pointer.
    """

    def fail(found: str) -> InputError:
        return InputError(f"{name}: not a readable safetensors file ({found}); copy it again")

    if size < 8:
        raise fail(f"{size} bytes, expected at least 8")
    start = _read(stream, 8)
    if git_lfs.POINTER.startswith(start):
        git_lfs.refuse(start + _read(stream, len(git_lfs.POINTER) - 8), name)
    if start.startswith(b"PK\x03\x04"):
        # PyTorch stores its pickles in a zip archive.
        raise InputError(f"{name}: holds pickled weights, which are never loaded")
    (length,) = struct.unpack("<Q", start)
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise fail(f"a header of {length} bytes in a file of {size}")
    try:
        header = strict_json.loads(_read(stream, length))
        if not isinstance(header, dict):
            raise ValueError("the header isn't an object")
        metadata = _checked_metadata(header.pop("__metadata__", {}))
        found = {key: _checked_tensor(key, entry, 8 + length) for key, entry in header.items()}
    except ValueError as error:
        raise fail(str(error)) from error
    tensors = dict(sorted(found.items(), key=lambda item: (item[1].offset, item[1].size)))
    end = 8 + length
    for key, tensor in tensors.items():
        if tensor.offset != end:
            raise fail(f"{key!r} begins at byte {tensor.offset}, expected {end}")
        end += tensor.size
    if end != size:
        raise fail(f"{size} bytes, expected {end}")
    return SafetensorsHeader(tensors, metadata)


def safetensors_header_of(path: str | os.PathLike[str], name: str) -> SafetensorsHeader:
    """Reads and checks the header of the safetensors file `path`, which errors call `name`.

    Raises:
      InputError: If it can't be read, and in the cases of `read_safetensors_header`.
    """
    try:
        with open(path, "rb") as stream:
            return read_safetensors_header(stream, os.fstat(stream.fileno()).st_size, name)
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror or error}") from None


def read_tensor(path: str | os.PathLike[str], tensor: Tensor, name: str) -> np.ndarray:
    """Reads the data of one tensor.

    Args:
      path: The file that the tensor's header was read from.
      tensor: A tensor of a floating dtype.
      name: The name of the file in errors.

    Raises:
      InputError: If the file can't be read, or is shorter than its header said.
    """
    with readable.fits_in_memory(name, tensor.shape):
        array = np.empty(tensor.shape, tensor.dtype)
    data = array.reshape(-1).view(np.uint8).data
    try:
        with open(path, "rb") as stream:
            stream.seek(tensor.offset)
            if stream.readinto(data) != tensor.size:
                raise InputError(f"{name}: became shorter while it was read")
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror or error}") from None
    return array


def _read(stream: IO[bytes], length: int) -> bytes:
    """Reads `length` bytes, or fewer if the stream ends; works for unbuffered streams too."""
    parts = []
    while length and (part := stream.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _checked_metadata(metadata: Any) -> Mapping[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("the metadata isn't an object of texts")
    return metadata


def _checked_tensor(name: str, entry: Any, data_offset: int) -> Tensor:
    def naturals(x: Any) -> bool:
        return isinstance(x, list) and all(type(n) is int and n >= 0 for n in x)

    if not isinstance(entry, dict):
        raise ValueError(f"{name!r} isn't described by an object")
    fields: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
    code, shape, offsets = fields
    if not isinstance(code, str) or not naturals(shape) or not naturals(offsets):
        raise ValueError(f"{name!r} lacks a valid dtype, shape or data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name!r} has data_offsets {offsets}")
    size = offsets[1] - offsets[0]
    # The format may get new dtypes: a tensor of unknown dtype may have any size.
    expected = math.prod(shape) * _BYTES.get(code, 0)
    if code in _BYTES and size != expected:
        raise ValueError(f"{name!r} has {size} bytes, expected {expected} for {code} {shape}")
    return Tensor(code, tuple(shape), data_offset + offsets[0], size)
