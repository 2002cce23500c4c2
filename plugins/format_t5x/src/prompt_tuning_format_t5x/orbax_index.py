"""Reads the index of Orbax checkpoints: of a T5X train state, or of a tree of parameters.

The file `_METADATA` lists the leaves of the saved tree in JSON. Their arrays are zarr arrays named
by their keys joined by ".", in an OCDBT database or, if the index says so, in directories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json
from prompt_tuning_files.formats import Variable
from prompt_tuning_format_t5x.arrays import (
    StoredArray,
    ZarrArray,
    checked_shape,
    stored_variables,
)
from prompt_tuning_format_t5x.checkpoint_model import CheckpointModel, step_of
from prompt_tuning_format_t5x.locations import ORBAX_INDEX, Checkpoint, Store

_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
_Keys = tuple[str, ...]

_STEP: _Keys = ("state", "step")
_ROOTS = ("target", "params")
"""The model's place in the tree, in T5X's and in Flax's train state."""

_PARTS = ("token_embedder", "encoder", "decoder")
"""The first keys of a tree that is the model itself."""


class _Leaf(NamedTuple):
    kind: str
    shape: tuple[int, ...] | None


class _Index(NamedTuple):
    leaves: Mapping[_Keys, _Leaf]
    ocdbt: bool
    driver: str


def open_checkpoint(checkpoint: Checkpoint) -> CheckpointModel:
    """Reads the index of a checkpoint, and the metadata of each of its parameters.

    Raises:
      InputError: If it is damaged, or holds no model.
    """
    store = Store.at(checkpoint.path)
    (text,) = store.read(ORBAX_INDEX)
    try:
        index = _parse(text or b"")
    except ValueError as error:
        raise InputError(
            f"model {checkpoint.path}/{ORBAX_INDEX}: not a readable index of an Orbax checkpoint "
            f"({error}); copy it again"
        ) from error
    root = _root(index, checkpoint.path)
    arrays_store = store.ocdbt() if index.ocdbt else store
    parameters = {
        keys: leaf
        for keys, leaf in index.leaves.items()
        if keys[: len(root)] == root and leaf.kind != "None"
    }
    arrays = {
        "/".join(keys[len(root) :]): array
        for keys, array in _arrays(arrays_store, parameters, index.driver).items()
    }
    step = checkpoint.step or 0
    if _STEP in index.leaves:
        step_leaf = {_STEP: index.leaves[_STEP]}
        found = _arrays(arrays_store, step_leaf, index.driver)[_STEP].read()
        if found.size != 1 or found.dtype.kind not in "iu" or found.item() < 0:
            raise InputError(f"model {checkpoint.path}: the step isn't a number; copy it again")
        step = step_of(checkpoint, found.item())
    return CheckpointModel(checkpoint.path, arrays, step)


def _arrays(store: Store, leaves: Mapping[_Keys, _Leaf], driver: str) -> dict[_Keys, StoredArray]:
    names = {keys: ".".join(keys) for keys in leaves}
    for keys, leaf in leaves.items():
        if leaf.kind not in _ARRAYS:
            raise InputError(
                f"model {store.name}: {names[keys]} is of the type {leaf.kind!r}, not an array"
            )
    # The index has no dtypes, and not always shapes.
    found = stored_variables(store, list(names.values()), driver)
    return {
        keys: ZarrArray(
            store,
            names[keys],
            driver,
            Variable(stored.shape if leaf.shape is None else leaf.shape, stored.dtype),
        )
        for (keys, leaf), stored in zip(leaves.items(), found, strict=True)
    }


def _root(index: _Index, path: str) -> _Keys:
    """Returns the keys of the model in the tree."""
    first = {keys[0] for keys in index.leaves}
    for name in _ROOTS:
        if name in first:
            return (name,)
    if first.intersection(_PARTS):
        return ()
    raise InputError(
        f"model {path}: an Orbax checkpoint of something else: its tree begins with "
        f"{', '.join(sorted(first))}, expected {' or '.join(_ROOTS)}"
    )


def _parse(text: bytes) -> _Index:
    content = strict_json.loads(text)
    tree = content.get("tree_metadata") if isinstance(content, dict) else None
    if not isinstance(tree, dict) or not tree:
        raise ValueError("no tree_metadata")
    # Old versions of Orbax do not write these: there was no choice yet.
    flags = [content.get(name, False) for name in ("use_ocdbt", "use_zarr3")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("use_ocdbt or use_zarr3 is neither true nor false")
    leaves = dict(_leaf(name, entry) for name, entry in tree.items())
    return _Index(leaves, flags[0], "zarr3" if flags[1] else "zarr")


def _leaf(name: str, entry: Any) -> tuple[_Keys, _Leaf]:
    if not isinstance(entry, dict):
        raise ValueError(f"{name} isn't described by an object")
    path, value = entry.get("key_metadata"), entry.get("value_metadata")
    if not isinstance(path, list) or not path or not isinstance(value, dict):
        raise ValueError(f"{name} lacks key_metadata or value_metadata")
    keys = tuple(part["key"] for part in path if isinstance(part, dict) and part.get("key"))
    # The name must agree with the keys: a difference means damage.
    if repr(keys) != name or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{name} has the keys {keys}")
    kind, shape = value.get("value_type"), value.get("write_shape")
    if not isinstance(kind, str):
        raise ValueError(f"{name} has the type {kind!r}")
    return keys, _Leaf(kind, None if shape is None else checked_shape(shape))
