"""Embedding tables that are read by rows, never whole.

For example, an XXL table is 526 MB, and a prompt needs a hundred of its rows. The functions here
make tables and open no file. The first use of a table reads the header. After that, each use reads
only the requested rows, with positioned reads: a memory map would also load the pages around every
row. In gin:

```
from prompt_tuning_files import embeddings
from prompt_tuning_core import plugins

plugins.init_vocab.embeddings = @embeddings.np_load()
embeddings.np_load.path = "/path/to/table.npy"
```
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import readable
from prompt_tuning_files.npy_header import FLOATING, read_npy_header
from prompt_tuning_files.safetensors_header import read_safetensors_header

__all__ = ["EmbeddingTable", "as_table", "checkpoint_load", "np_load", "safetensors_load"]

EMBEDDING_VARIABLE = "token_embedder/embedding"
"""Flaxformer's name of the token embeddings of a T5 model."""

_BLOCK_BYTES = 1 << 20


@runtime_checkable
class EmbeddingTable(Protocol):
    """An embedding table `[V, H]` that is read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(V, H)`: number of embeddings and model width."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the stored table (rows come back as float32)."""

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Reads only the rows `ids` `[n]` of the table; returns float32 `[n, H]`."""


def np_load(path: str | os.PathLike[str]) -> EmbeddingTable:
    """Makes a table that is read from a `.npy` file.

    Args:
      path: The file, `[V, H]` in float16, float32 or float64, in C order. Opened at first use.

    Raises:
      InputError: At once, if `path` is no path; at first use, if the file is missing, truncated,
        pickled, in Fortran order, or of another rank or dtype.
    """
    return _NpyTable(path)


def safetensors_load(
    path: str | os.PathLike[str], variable: str = EMBEDDING_VARIABLE
) -> EmbeddingTable:
    """Makes a table that is read from a safetensors file.

    Args:
      path: The file. Opened at first use.
      variable: The name of a tensor `[V, H]` in float16, bfloat16, float32 or float64.

    Raises:
      InputError: At once, if an argument has the wrong type; at first use, if the file is missing,
        truncated or corrupt, has no such variable, or has it in another rank or dtype.
    """
    return _SafetensorsTable(path, variable)


def checkpoint_load(
    checkpoint_path: str | os.PathLike[str], variable_path: str = EMBEDDING_VARIABLE
) -> EmbeddingTable:
    """Makes a table that is read from a model in any form that an installed format plugin reads.

    Args:
      checkpoint_path: The checkpoint. Opened at first use.
      variable_path: The table's name in Flaxformer's tree, joined by `/`; a leading `target/` may
        be left out, as in T5X.

    Raises:
      InputError: At once, if an argument has the wrong type; at first use, as `formats.open_model`,
        and if the model has no such variable, or has it in another rank or dtype.
    """
    return _ModelTable(checkpoint_path, variable_path)


def as_table(x: Any) -> EmbeddingTable:
    """Returns an embedding table unchanged, or makes one from an array `[V, H]`.

    It reads nothing, so an initializer factory may call it.

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
        "prompt_tuning_files.embeddings.np_load(path) or checkpoint_load(path) returns"
    )


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The place of a C-ordered table in a file."""

    shape: tuple[int, int]
    dtype: np.dtype
    offset: int


class _FileTable:
    """A table read from a file by positioned reads; subclasses find its place in the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = _checked_path(path)

    @property
    def shape(self) -> tuple[int, int]:
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype:
        return self._layout.dtype

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Reads rows `ids` `[n]`; returns float32 `[n, H]`.

        It reads neighbouring rows together, and repeated rows once. Apart from the result, it holds
        at most one block of about 1 MiB in memory.

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
                with np.errstate(over="ignore"):  # float64 may overflow; checked below.
                    block = block.astype(np.float32)
                _check_finite(block, int(first), self)
                result[order[start:stop]] = block[wanted[start:stop] - first]
                start = stop
        return result

    @functools.cached_property
    def _layout(self) -> _Layout:
        with self._open() as file:
            layout = self._locate(file, os.fstat(file.fileno()).st_size)
        _check_rank_and_dtype(layout.shape, layout.dtype.name, self)
        return layout

    def _locate(self, file: BinaryIO, size: int) -> _Layout:
        raise NotImplementedError

    def _open(self) -> io.FileIO:
        path = self._path
        if "://" in path:
            raise InputError(f"{self}: not a local path; copy the file to this machine")
        readable.check_is_file(path, str(self))
        try:
            return Path(path).open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{self}: can't open {path}: {error.strerror}") from error

    def _read(self, file: io.FileIO, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        file.seek(offset)
        filled = 0
        while filled < length:
            count = file.readinto(view[filled:])
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
        # `_layout` checks the rank.
        return _Layout(header.shape, header.dtype, header.offset)  # type: ignore[arg-type]


class _SafetensorsTable(_FileTable):
    def __init__(self, path: str | os.PathLike[str], variable: str) -> None:
        super().__init__(path)
        self._variable = _checked_variable(path, variable)

    def __repr__(self) -> str:
        return f"safetensors_load({self._path!r}, {self._variable!r})"

    def _locate(self, file: BinaryIO, size: int) -> _Layout:
        tensors = read_safetensors_header(file, size, str(self)).tensors
        if self._variable not in tensors:
            raise InputError(
                f"{self}: the file has no variable {self._variable!r}"
                f"{nearest(self._variable, tensors)}"
            )
        tensor = tensors[self._variable]
        if tensor.dtype is None:
            raise InputError(
                f"{self}: has dtype {tensor.code}, expected one of {', '.join(FLOATING)}"
            )
        # `_layout` checks the rank.
        return _Layout(tensor.shape, tensor.dtype, tensor.offset)  # type: ignore[arg-type]


class _ModelTable:
    """A variable of a model of any installed form."""

    def __init__(self, path: str | os.PathLike[str], variable: str) -> None:
        self._path = _checked_path(path)
        self._variable = _checked_variable(path, variable).removeprefix("target/")

    def __repr__(self) -> str:
        return f"checkpoint_load({self._path!r}, {self._variable!r})"

    @functools.cached_property
    def _model(self) -> Any:
        from prompt_tuning_files import formats

        model = formats.open_model(self._path)
        if self._variable not in model.variables:
            raise InputError(
                f"{self}: the model has no variable {self._variable!r}"
                f"{nearest(self._variable, model.variables)}"
            )
        found = model.variables[self._variable]
        _check_rank_and_dtype(found.shape, found.dtype, self)
        return model

    @property
    def shape(self) -> tuple[int, int]:
        return self._model.variables[self._variable].shape

    @property
    def dtype(self) -> np.dtype:
        import jax.numpy as jnp  # numpy gets bfloat16 from jax.

        return np.dtype(getattr(jnp, self._model.variables[self._variable].dtype))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        ids = _checked_ids(ids, self.shape[0], self)
        rows = self._model.rows(self._variable, ids)
        for row, id_ in zip(rows, ids.tolist(), strict=True):
            _check_finite(row[np.newaxis], id_, self)
        return rows


class _ArrayTable:
    """A table that is in memory already."""

    def __init__(self, array: Any) -> None:
        self._array = array
        _check_rank_and_dtype(array.shape, array.dtype.name, self)

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

            # Inside a trace, JAX would trace even operations on concrete arrays.
            with jax.ensure_compile_time_eval():
                rows = np.asarray(self._array[ids])
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32)
        for row, id_ in zip(rows, ids.tolist(), strict=True):
            _check_finite(row[np.newaxis], id_, self)
        return rows


def _checked_path(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"path of an embedding table is {path!r}, expected a file's path")
    return os.fspath(path)


def _checked_variable(path: str | os.PathLike[str], variable: str) -> str:
    if not isinstance(variable, str) or not variable:
        raise InputError(
            f"{path}: variable is {variable!r}, expected a name such as {EMBEDDING_VARIABLE!r}"
        )
    return variable


def _shown(x: Any) -> str:
    """Returns a short description of a value for an error message."""
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{', '.join(map(str, shape))}]"
    return repr(x) if isinstance(x, str | int | float | None) else type(x).__name__


def _check_rank_and_dtype(shape: tuple[int, ...], dtype: str, table: object) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"{table}: has shape {tuple(shape)}, expected [V, H]")
    if dtype not in FLOATING:
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
