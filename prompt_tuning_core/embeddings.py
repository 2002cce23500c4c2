"""Embedding tables read by rows, never whole.

An XXL table is 526 MB, of which a prompt needs a hundred rows. The tables here open nothing when
they are made, read a header at first use, and then only the rows asked for, by positioned reads
(a memory map would fault in the file's pages around every row). In gin:

```
from prompt_tuning_core import embeddings
from prompt_tuning_core import plugins

plugins.init_vocab.embeddings = @embeddings.np_load()
embeddings.np_load.path = "/path/to/table.npy"
```
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_core.npy import FLOATING, read_npy_header
from prompt_tuning_core.protocols import EmbeddingTable

__all__ = ["as_table", "checkpoint_load", "np_load", "safetensors_load"]

EMBEDDING_VARIABLE = "token_embedder/embedding"
"""Flaxformer's name of the token embeddings of a T5 model."""

_BLOCK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100_000_000  # The limit of the safetensors format.
_SAFETENSORS_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_SAFETENSORS_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


def np_load(path: str | os.PathLike[str]) -> EmbeddingTable:
    """A table in a `.npy` file.

    Args:
      path: The file, `[V, H]` in float16, float32 or float64, in C order. Opened at first use.

    Raises:
      InputError: Here, if `path` is no path; at first use, if the file is missing, truncated,
        pickled, in Fortran order, or of another rank or dtype.
    """
    return _NpyTable(path)


def safetensors_load(
    path: str | os.PathLike[str], variable: str = EMBEDDING_VARIABLE
) -> EmbeddingTable:
    """A table in a safetensors file.

    Args:
      path: The file. Opened at first use.
      variable: The name of a tensor `[V, H]` in float16, bfloat16, float32 or float64.

    Raises:
      InputError: Here, if an argument is of the wrong type; at first use, if the file is missing,
        truncated or corrupt, has no such variable, or has it in another rank or dtype.
    """
    return _SafetensorsTable(path, variable)


def checkpoint_load(
    checkpoint_path: str | os.PathLike[str], variable_path: str = EMBEDDING_VARIABLE
) -> EmbeddingTable:
    """The table of a model's checkpoint.

    Args:
      checkpoint_path: A `.safetensors` file or a folder that holds `model.safetensors`. Opened at
        first use.
      variable_path: The table's name in the checkpoint, joined by `/`; a leading `target/` may be
        left out, as in T5X.

    Raises:
      InputError: As `safetensors_load`, and at first use if `checkpoint_path` is neither.
    """
    return _CheckpointTable(checkpoint_path, variable_path)


def as_table(x: Any) -> EmbeddingTable:
    """Returns an embedding table as it is, or an array `[V, H]` as an embedding table.

    Reads nothing, so that a factory may call it.

    Args:
      x: An `EmbeddingTable`, or a numpy or JAX array `[V, H]` of a floating dtype.

    Raises:
      InputError: If `x` is neither.
    """
    # Not isinstance(x, EmbeddingTable): up to Python 3.11 that evaluates the properties, which
    # read a file's header.
    if callable(getattr(type(x), "rows", None)):
        return x
    import jax

    if isinstance(x, jax.core.Tracer):
        raise InputError(
            "the embedding table is a traced array; make the initializer outside of jit, from a "
            "concrete array"
        )
    if isinstance(x, np.ndarray | jax.Array):
        return _ArrayTable(x)
    raise InputError(
        f"not an embedding table: {_shown(x)}; expected an array [V, H] or what "
        "prompt_tuning_core.embeddings.np_load(path) or checkpoint_load(path) returns"
    )


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where a C-ordered table lies in a file."""

    shape: tuple[int, int]
    dtype: np.dtype
    offset: int


class _FileTable:
    """A table read from a file by positioned reads; subclasses say where in the file it lies."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise InputError(f"path of an embedding table is {path!r}, expected a file's path")
        self._path = os.fspath(path)

    @property
    def shape(self) -> tuple[int, int]:
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype:
        return self._layout.dtype

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Reads rows `ids` `[n]`; returns float32 `[n, H]`.

        Beside its result it holds at most one block of about 1 MiB. Rows that follow one another
        in the file are read together, and repeated ones once.

        Raises:
          InputError: If an id is outside the table, or a row isn't finite.
        """
        layout = self._layout
        ids = _checked_ids(ids, layout.shape[0], self)
        order = np.argsort(ids, kind="stable")
        wanted = ids[order]
        width = layout.shape[1]
        row_bytes = width * layout.dtype.itemsize
        block_rows = max(1, _BLOCK_BYTES // row_bytes)
        result = np.empty((ids.size, width), np.float32)
        with self._open() as file:
            start = 0
            while start < ids.size:
                first = wanted[start]
                stop = start + 1
                while (
                    stop < ids.size
                    and wanted[stop] - wanted[stop - 1] <= 1
                    and wanted[stop] - first < block_rows
                ):
                    stop += 1
                count = int(wanted[stop - 1] - first) + 1
                data = self._read(file, layout.offset + int(first) * row_bytes, count * row_bytes)
                block = np.frombuffer(data, layout.dtype).reshape(count, width)
                with np.errstate(over="ignore"):  # Of float64; told below as not finite.
                    block = block.astype(np.float32)
                _check_finite(block, int(first), self)
                result[order[start:stop]] = block[wanted[start:stop] - first]
                start = stop
        return result

    @functools.cached_property
    def _layout(self) -> _Layout:
        with self._open() as file:
            layout = self._locate(file, os.fstat(file.fileno()).st_size)
        _check_rank_and_dtype(layout.shape, layout.dtype, self)
        return layout

    def _locate(self, file: BinaryIO, size: int) -> _Layout:
        raise NotImplementedError

    def _file(self) -> str:
        """The path to open."""
        return self._path

    def _open(self) -> BinaryIO:
        path = self._file()
        if "://" in path:
            raise InputError(f"{self}: not a local path; copy the file to this machine")
        try:
            return Path(path).open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{self}: can't open {path}: {error.strerror}") from error

    def _read(self, file: BinaryIO, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        file.seek(offset)
        filled = 0
        while filled < length:
            count = file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise InputError(
                    f"{self}: ends at byte {offset + filled}, expected {length - filled} bytes "
                    "more; is another program writing it?"
                )
            filled += count
        return data


class _NpyTable(_FileTable):
    def __repr__(self) -> str:
        return f"np_load({self._path!r})"

    def _locate(self, file: BinaryIO, size: int) -> _Layout:
        header = read_npy_header(file, size, str(self))
        if header.fortran_order and len(header.shape) == 2 and 1 not in header.shape:
            raise InputError(
                f"{self}: is stored in Fortran order, where no row is in one place; save it with "
                "np.save(path, np.ascontiguousarray(table))"
            )
        return _Layout(header.shape, header.dtype, header.offset)  # type: ignore[arg-type]


class _SafetensorsTable(_FileTable):
    def __init__(self, path: str | os.PathLike[str], variable: str) -> None:
        super().__init__(path)
        if not isinstance(variable, str) or not variable:
            raise InputError(
                f"{self._path}: variable is {variable!r}, expected a name such as "
                f"{EMBEDDING_VARIABLE!r}"
            )
        self._variable = variable

    def __repr__(self) -> str:
        return f"safetensors_load({self._path!r}, {self._variable!r})"

    def _locate(self, file: BinaryIO, size: int) -> _Layout:
        return _safetensors_layout(self, file, size, self._variable)


class _CheckpointTable(_SafetensorsTable):
    def __init__(self, path: str | os.PathLike[str], variable: str) -> None:
        super().__init__(path, variable)
        self._variable = self._variable.removeprefix("target/")

    def __repr__(self) -> str:
        return f"checkpoint_load({self._path!r}, {self._variable!r})"

    def _file(self) -> str:
        if Path(self._path).is_dir():
            model = Path(self._path, "model.safetensors")
            if not model.is_file():
                raise InputError(
                    f"{self}: the folder has no model.safetensors; expected a .safetensors file "
                    "or a folder that holds one"
                )
            return str(model)
        return self._path


class _ArrayTable:
    """A table that is in memory already."""

    def __init__(self, array: Any) -> None:
        self._array = array
        _check_rank_and_dtype(array.shape, array.dtype, self)

    def __repr__(self) -> str:
        return f"the embedding table {_shown(self._array)}"

    @property
    def shape(self) -> tuple[int, int]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    def rows(self, ids: np.ndarray) -> np.ndarray:
        ids = _checked_ids(ids, self.shape[0], self)
        if isinstance(self._array, np.ndarray):
            rows = self._array[ids]
        else:
            import jax

            # Within a trace an operation on a concrete array is traced, too, unless told not to be.
            with jax.ensure_compile_time_eval():
                rows = np.asarray(self._array[ids])
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32)
        for row, id_ in zip(rows, ids.tolist(), strict=True):
            _check_finite(row[np.newaxis], id_, self)
        return rows


def _shown(x: Any) -> str:
    """A short description of a value for an error message."""
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{', '.join(map(str, shape))}]"
    return repr(x) if isinstance(x, str | int | float | None) else type(x).__name__


def _check_rank_and_dtype(shape: tuple[int, ...], dtype: np.dtype, table: object) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"{table}: has shape {tuple(shape)}, expected [V, H]")
    if dtype.name not in FLOATING:
        raise InputError(f"{table}: has dtype {dtype}, expected one of {', '.join(FLOATING)}")


def _checked_ids(ids: np.ndarray, size: int, table: object) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{table}: asked for rows {_shown(array)}, expected integers [n]")
    outside = (array < 0) | (array >= size)
    if outside.any():
        raise InputError(
            f"{table}: asked for row {array[outside][0]}, but the table has {size} rows "
            f"(0 to {size - 1}); does it belong to this vocabulary?"
        )
    return array.astype(np.int64)


def _check_finite(rows: np.ndarray, first: int, table: object) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{table}: row {first + int(np.argmin(finite))} isn't finite in float32; is the file "
            "damaged?"
        )


def _safetensors_layout(table: _FileTable, file: BinaryIO, size: int, variable: str) -> _Layout:
    """Finds a variable in a safetensors file and checks that the header describes the file.

    The header is JSON after its length in 8 bytes. Tensors must fill the rest without gap or
    overlap: a file that was cut, or whose header was damaged, doesn't get through.
    """

    def fail(found: str) -> InputError:
        return InputError(f"{table}: not a readable safetensors file ({found}); copy it again")

    if size < 8:
        raise fail(f"{size} bytes, expected at least 8")
    (length,) = struct.unpack("<Q", table._read(file, 0, 8))
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise fail(f"a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(table._read(file, 8, length), object_pairs_hook=_unique)
        if not isinstance(header, dict):
            raise ValueError("the header isn't an object")
        header.pop("__metadata__", None)
        tensors = {name: _checked_tensor(name, entry) for name, entry in header.items()}
    except (ValueError, RecursionError) as error:
        raise fail(str(error)) from error
    end = 0
    for name, (_, _, begin, stop) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise fail(f"{name} begins at {begin}, expected {end}")
        end = stop
    if 8 + length + end != size:
        raise fail(f"{size} bytes, expected {8 + length + end}")
    if variable not in tensors:
        raise InputError(
            f"{table}: the file has no variable {variable!r}{nearest(variable, tensors)}"
        )
    code, shape, begin, _ = tensors[variable]
    if code not in _SAFETENSORS_DTYPES:
        raise InputError(
            f"{table}: has dtype {code}, expected one of {', '.join(_SAFETENSORS_DTYPES)}"
        )
    import jax.numpy as jnp  # numpy knows bfloat16 by way of jax only.

    dtype = np.dtype(getattr(jnp, _SAFETENSORS_DTYPES[code])).newbyteorder("<")
    return _Layout(shape, dtype, 8 + length + begin)  # type: ignore[arg-type]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return result


def _checked_tensor(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Returns dtype, shape, begin and end of one tensor of a safetensors header."""

    def naturals(x: Any) -> bool:
        return isinstance(x, list) and all(type(n) is int and n >= 0 for n in x)

    if not isinstance(entry, dict):
        raise ValueError(f"{name} isn't described by an object")
    fields: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
    code, shape, offsets = fields
    if not isinstance(code, str) or not naturals(shape) or not naturals(offsets):
        raise ValueError(f"{name} lacks a valid dtype, shape or data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name} has data_offsets {offsets}")
    length = offsets[1] - offsets[0]
    # The format may get new dtypes: the size of a tensor of unknown dtype is left unchecked.
    expected = math.prod(shape) * _SAFETENSORS_BYTES.get(code, 0)
    if code in _SAFETENSORS_BYTES and length != expected:
        raise ValueError(f"{name} has {length} bytes, expected {expected} for {code} {shape}")
    return code, tuple(shape), offsets[0], offsets[1]
