"""Arrays of a checkpoint: zarr arrays, arrays inline in an index, and scanned layers.

tensorstore reads zarr arrays. They are stored in compressed chunks, so reading one row decodes a
whole chunk. By default, tensorstore returns zeros for a missing chunk, and trusts an array's
metadata, which has no checksum. Here a missing chunk is an error, and the metadata must agree with
the checkpoint's index and have the layout that T5X and Orbax write (C order, little-endian).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import ml_dtypes
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json
from prompt_tuning_files.formats import Variable
from prompt_tuning_files.npy_header import FLOATING
from prompt_tuning_format_t5x.locations import Store

if TYPE_CHECKING:
    import tensorstore as ts

_DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{
        name: np.dtype(name)
        for name in (
            "float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64",
            "uint8", "uint16", "uint32", "uint64",
        )
    },
}  # fmt: skip
_ZARR2_DTYPES = {
    "bfloat16": "bfloat16",
    **{dtype.newbyteorder("<").str: name for name, dtype in _DTYPES.items() if name != "bfloat16"},
}
_ZARR3_CODECS = ("blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "zstd")
"""Codecs that keep the order of an array's values."""

METADATA_FILES = {"zarr": ".zarray", "zarr3": "zarr.json"}
"""The file with an array's metadata, by tensorstore's name of the driver."""


class StoredArray(Protocol):
    """An array on disk."""

    @property
    def variable(self) -> Variable:
        """Its shape and dtype."""

    def read(self) -> np.ndarray:
        """Reads it whole, in its stored dtype."""

    def layer(self, index: int) -> np.ndarray:
        """Reads `[:, index]`, in its stored dtype."""

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Reads rows `ids` of an array `[V, H]`, as float32."""


def dtype_named(name: object) -> np.dtype:
    """Returns the dtype of this name.

    Raises:
      ValueError: If no parameter may have it.
    """
    if not isinstance(name, str) or name not in _DTYPES:
        raise ValueError(f"dtype {name!r}")
    return _DTYPES[name]


def dtype_coded(code: object) -> np.dtype:
    """Returns the dtype for a code of zarr 2, such as `<f4` or `bfloat16`.

    Raises:
      ValueError: If no parameter may have it.
    """
    if not isinstance(code, str) or code not in _ZARR2_DTYPES:
        raise ValueError(f"dtype {code!r}")
    return _DTYPES[_ZARR2_DTYPES[code]]


def is_floating(variable: Variable) -> bool:
    """Returns True if a variable holds floating numbers."""
    return variable.dtype in FLOATING


def checked_shape(x: object) -> tuple[int, ...]:
    """Returns a shape that a file states.

    Raises:
      ValueError: If it is no list of sizes, each at least 1.
    """
    if not isinstance(x, list) or not all(type(n) is int and n >= 1 for n in x):
        raise ValueError(f"shape {x!r}")
    return tuple(x)


@dataclasses.dataclass(frozen=True)
class InlineArray:
    """An array in the index itself.

    Attributes:
      variable: Its shape and dtype.
      parts: Flat arrays that form the array, one after the other.
    """

    variable: Variable
    parts: Sequence[np.ndarray]

    def read(self) -> np.ndarray:
        """See `StoredArray`."""
        flat = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
        return flat.reshape(self.variable.shape)

    def layer(self, index: int) -> np.ndarray:
        """See `StoredArray`."""
        return np.ascontiguousarray(self.read()[:, index])

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See `StoredArray`."""
        return self.read()[ids].astype(np.float32)


class ZarrArray:
    """A zarr array, opened at first use.

    Args:
      store: The store that holds it.
      key: Its directory.
      driver: tensorstore's name of its form, a key of `METADATA_FILES`.
      variable: Its shape and dtype, which its metadata must confirm.
    """

    def __init__(self, store: Store, key: str, driver: str, variable: Variable) -> None:
        self._store = store
        self._key = key
        self._driver = driver
        self.variable = variable

    def read(self) -> np.ndarray:
        """See `StoredArray`."""
        return self._wait(self._opened.read())

    def layer(self, index: int) -> np.ndarray:
        """See `StoredArray`."""
        return self._wait(self._opened[:, index].read())

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See `StoredArray`.

        Decodes the chunks that hold these rows, one after the other.
        """
        opened = self._opened
        chunk_rows, chunk_columns = cast("tuple[int, int]", opened.chunk_layout.read_chunk.shape)
        columns = self.variable.shape[1]
        result = np.empty((ids.size, columns), np.float32)
        chunks = ids // chunk_rows
        for chunk in np.unique(chunks):
            places = np.flatnonzero(chunks == chunk)
            wanted, copies = np.unique(ids[places], return_inverse=True)
            for left in range(0, columns, chunk_columns):
                right = min(left + chunk_columns, columns)
                # tensorstore decodes a whole chunk and copies only these rows.
                found = self._wait(opened.oindex[wanted, left:right].read())
                result[places, left:right] = found[copies]
        return result

    @functools.cached_property
    def _opened(self) -> ts.TensorStore:
        import tensorstore as ts

        (found,) = stored_variables(self._store, [self._key], self._driver)
        if found != self.variable:
            raise InputError(
                f"{self._store.name}: {self._key} has {found.dtype} {found.shape}, and the index "
                f"of the checkpoint says {self.variable.dtype} {self.variable.shape}; copy it again"
            )
        spec = {
            "driver": self._driver,
            "kvstore": self._store.below(self._key),
            "fill_missing_data_reads": False,
        }
        return self._wait(ts.open(spec, open=True, read=True, context=self._store.context))

    def _wait(self, future: Any) -> Any:
        return self._store.wait(future, self._key)


@dataclasses.dataclass(frozen=True)
class Layer:
    """The part of one layer in an array that stacks all layers along its second axis.

    Attributes:
      stacked: The array.
      index: The number of the layer.
    """

    stacked: StoredArray
    index: int

    @property
    def variable(self) -> Variable:
        """See `StoredArray`."""
        shape = self.stacked.variable.shape
        return Variable((shape[0], *shape[2:]), self.stacked.variable.dtype)

    def read(self) -> np.ndarray:
        """See `StoredArray`."""
        return self.stacked.layer(self.index)

    def layer(self, index: int) -> np.ndarray:
        """See `StoredArray`."""
        return np.ascontiguousarray(self.read()[:, index])

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See `StoredArray`."""
        return self.read()[ids].astype(np.float32)


def stored_variables(store: Store, keys: Sequence[str], driver: str) -> list[Variable]:
    """Reads the metadata of zarr arrays.

    Args:
      store: The store that holds them.
      keys: Their directories.
      driver: tensorstore's name of their form, a key of `METADATA_FILES`.

    Raises:
      InputError: If metadata is missing or damaged, or has a layout that T5X and Orbax do not
        write.
    """
    files = [f"{key}/{METADATA_FILES[driver]}" for key in keys]
    texts = store.read(*files)
    return [
        _stored_variable(store, file, text, driver) for file, text in zip(files, texts, strict=True)
    ]


def _stored_variable(store: Store, file: str, text: bytes | None, driver: str) -> Variable:
    if text is None:
        raise InputError(f"{store.name}: {file} is missing; is the checkpoint complete?")
    try:
        metadata = strict_json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError("not an object")
        return _zarr2(metadata) if driver == "zarr" else _zarr3(metadata)
    except ValueError as error:
        raise InputError(
            f"{store.name}: {file} is no metadata of an array of T5X or Orbax ({error}); "
            "copy it again"
        ) from error


def _zarr2(metadata: Mapping[str, Any]) -> Variable:
    shape, chunks = checked_shape(metadata.get("shape")), checked_shape(metadata.get("chunks"))
    dtype = dtype_coded(metadata.get("dtype"))
    if len(chunks) != len(shape):
        raise ValueError(f"chunks {list(chunks)} of shape {list(shape)}")
    for name, expected in (("zarr_format", 2), ("order", "C"), ("filters", None)):
        if metadata.get(name) != expected:
            raise ValueError(f"{name} {metadata.get(name)!r}, expected {expected!r}")
    return Variable(shape, dtype.name)


def _zarr3(metadata: Mapping[str, Any]) -> Variable:
    dtype = dtype_named(metadata.get("data_type"))
    _check_codecs(metadata.get("codecs"))
    return Variable(checked_shape(metadata.get("shape")), dtype.name)


def _check_codecs(codecs: Any) -> None:
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        raise ValueError(f"codecs {codecs!r}")
    for codec in codecs:
        name, settings = codec.get("name"), codec.get("configuration", {})
        if name not in _ZARR3_CODECS or not isinstance(settings, dict):
            raise ValueError(f"codec {name!r}")
        if settings.get("endian", "little") != "little":
            raise ValueError(f"endian {settings['endian']!r}")
        if name == "sharding_indexed":
            _check_codecs(settings.get("codecs"))


def size_in_bytes(variable: Variable) -> int:
    """Returns the number of bytes of a variable's values."""
    return math.prod(variable.shape) * dtype_named(variable.dtype).itemsize
