"""Reads the index of T5X's own checkpoints.

The file `checkpoint` is a msgpack map. `target` is the model; its leaves are of two kinds:

    {"version": 3, "optimizer": {"state": {"step": 1000}, "target": {
        "token_embedder": {"embedding": {"driver": "zarr", "kvstore": …, "metadata": …}},
        "encoder": {"encoder_norm": {"scale": ExtType(1, b"…")}}}}}

The first leaf is the tensorstore spec of a zarr array in the directory
`target.token_embedder.embedding` next to the file. The second is an inline array in Flax's
encoding, a packed list of shape, dtype and bytes. `docs/formats.md` lists the forms of other years.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgpack
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json
from prompt_tuning_files.formats import Variable
from prompt_tuning_format_t5x.arrays import (
    InlineArray,
    StoredArray,
    ZarrArray,
    checked_shape,
    dtype_coded,
    dtype_named,
    size_in_bytes,
)
from prompt_tuning_format_t5x.checkpoint_model import CheckpointModel, step_of
from prompt_tuning_format_t5x.locations import MSGPACK_INDEX, Checkpoint, Store

_VERSIONS = (2, 3)
_ARRAY, _SCALAR = 1, 3
"""Flax's extension types of msgpack for arrays and numpy's scalars."""

_CHUNKED = "__msgpack_chunked_array__"
_DRIVERS = ("file", "gfile", "gcs")


class _Extension(NamedTuple):
    code: int
    data: bytes


def open_checkpoint(checkpoint: Checkpoint) -> CheckpointModel:
    """Reads the index of a checkpoint.

    Raises:
      InputError: If it is damaged, or not T5X's.
    """
    store = Store.at(checkpoint.path)
    (data,) = store.read(MSGPACK_INDEX)
    try:
        step, arrays = _parse(data or b"", store)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        is_deep = isinstance(error, (RecursionError, msgpack.StackError))
        cause = "nested too deeply" if is_deep else " ".join(str(error).split())
        raise InputError(
            f"model {checkpoint.path}/{MSGPACK_INDEX}: not a readable index of a T5X checkpoint "
            f"({cause}); copy it again"
        ) from error
    for name, array in arrays.items():
        if array.variable.dtype == "uint16":
            raise InputError(
                f"model {checkpoint.path}: {name} is uint16: until June 2021, T5X wrote bfloat16 "
                "in this form; T5X no longer reads it either, so use a later copy of the model"
            )
    return CheckpointModel(checkpoint.path, arrays, step_of(checkpoint, step))


def _parse(data: bytes, store: Store) -> tuple[int, dict[str, StoredArray]]:
    content = _unpacked(data)
    if not isinstance(content, dict):
        raise ValueError("not a map")
    version = content.get("version")
    if type(version) is not int or version not in _VERSIONS:
        raise ValueError(f"version {version!r}, expected one of {_VERSIONS}")
    step = _step(_member(_member(content, "optimizer"), "state").get("step"))
    target = _member(content["optimizer"], "target")
    arrays = {name: _array(name, leaf, store) for name, leaf in _leaves(target)}
    if not arrays:
        raise ValueError("no parameters")
    return step, arrays


def _step(leaf: Any) -> int:
    step = np.asarray(leaf if type(leaf) is int else _inline(leaf).read())
    if step.size != 1 or step.dtype.kind not in "iu" or step.item() < 0:
        raise ValueError("the step isn't a number")
    return step.item()


def _unpacked(data: bytes) -> Any:
    """Unpacks msgpack, and refuses a map that has a name twice; arrays stay packed."""
    # Flax writes only texts as keys.
    return msgpack.unpackb(
        data,
        raw=False,
        strict_map_key=True,
        object_pairs_hook=strict_json.unique,
        ext_hook=_Extension,
    )


def _member(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    member = parent.get(name)
    if not isinstance(member, dict):
        raise ValueError(f"no map {name!r}")
    return member


def _leaves(tree: Mapping[Any, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"a parameter's name {key!r}")
        if isinstance(value, dict) and "driver" not in value and _CHUNKED not in value:
            yield from _leaves(value, f"{start}{key}/")
        else:
            yield f"{start}{key}", value


def _array(name: str, leaf: Any, store: Store) -> StoredArray:
    try:
        if isinstance(leaf, dict) and "driver" in leaf:
            return _zarr(name, leaf, store)
        return _inline(leaf)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _zarr(name: str, spec: Mapping[str, Any], store: Store) -> ZarrArray:
    """Returns the array that a tensorstore spec describes.

    It uses only the parts of the spec that identify the array. The bucket or directory in the spec
    does not matter, since a checkpoint may be copied. For example, `{"driver": "zarr", "kvstore":
    {"driver": "gfile", "path": "target.decoder.logits_dense.kernel"}, "metadata": {"shape": [512,
    32128]}, "dtype": "float32"}` is the variable `decoder/logits_dense/kernel`.
    """
    kvstore, metadata = _member(spec, "kvstore"), _member(spec, "metadata")
    if spec["driver"] != "zarr" or kvstore.get("driver") not in _DRIVERS:
        raise ValueError(f"drivers {spec['driver']!r} and {kvstore.get('driver')!r}")
    # Before version 0.1.14, tensorstore had the path in the outer map.
    paths = [part["path"] for part in (kvstore, spec) if "path" in part]
    directory = "".join(path for path in paths if isinstance(path, str)).strip("/")
    expected = "target." + name.replace("/", ".")
    if directory != expected:
        raise ValueError(f"its array is {directory!r}, expected {expected!r}")
    dtype = _spec_dtype(spec, metadata)
    return ZarrArray(
        store, directory, "zarr", Variable(checked_shape(metadata.get("shape")), dtype.name)
    )


def _spec_dtype(spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> np.dtype:
    """Returns the dtype that a tensorstore spec states.

    T5X writes the dtype next to the driver. Until March 2022, it wrote zarr's code of the dtype
    into the metadata. A spec may have both.
    """
    dtypes = [
        named(part["dtype"])
        for named, part in ((dtype_named, spec), (dtype_coded, metadata))
        if "dtype" in part
    ]
    if not dtypes:
        raise ValueError("its spec has no dtype")
    if dtypes[0] != dtypes[-1]:
        raise ValueError(f"its spec says {dtypes[0]} and {dtypes[1]}")
    return dtypes[0]


def _inline(leaf: Any) -> InlineArray:
    if isinstance(leaf, dict) and leaf.get(_CHUNKED) is True:
        chunks = [_inline(part) for part in _items(leaf.get("chunks"))]
        shape = checked_shape(_items(leaf.get("shape")))
        dtypes = {chunk.variable.dtype for chunk in chunks}
        parts = [chunk.read().reshape(-1) for chunk in chunks]
        if len(dtypes) != 1 or sum(part.size for part in parts) != math.prod(shape):
            raise ValueError("its chunks don't make up its shape")
        return InlineArray(Variable(shape, dtypes.pop()), parts)
    if not isinstance(leaf, _Extension) or leaf.code not in (_ARRAY, _SCALAR):
        raise ValueError("neither an array nor a spec of one")
    packed = _unpacked(leaf.data)
    if not isinstance(packed, list) or len(packed) != 3 or not isinstance(packed[2], bytes):
        raise ValueError("not a packed array")
    dtype = dtype_named(packed[1])
    variable = Variable(checked_shape(packed[0]), dtype.name)
    if len(packed[2]) != size_in_bytes(variable):
        raise ValueError(
            f"{len(packed[2])} bytes, expected {size_in_bytes(variable)} for {dtype} "
            f"{list(variable.shape)}"
        )
    # Flax writes the byte order of the machine: little-endian on every machine with T5X.
    return InlineArray(variable, [np.frombuffer(packed[2], dtype)])


def _items(numbered: Any) -> list[Any]:
    """Returns the values of a map such as `{"0": a, "1": b}`, Flax's form of a tuple."""
    if not isinstance(numbered, dict) or set(numbered) != {str(i) for i in range(len(numbered))}:
        raise ValueError("not a numbered map")
    return [numbered[str(i)] for i in range(len(numbered))]
