"""A model in a checkpoint, with the names of Flaxformer's unscanned layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import prompt_files
from prompt_tuning_files.formats import ModelFile, Prompt, Variable
from prompt_tuning_format_t5x.arrays import Layer, StoredArray, is_floating
from prompt_tuning_format_t5x.locations import Checkpoint

PROMPT = "encoder/prompt/prompt/prompt"
"""Name of the prompt in the reference's checkpoints."""


class CheckpointModel:
    """A model in a checkpoint; see `prompt_tuning_files.formats.ModelFile`.

    Args:
      path: The checkpoint's directory.
      arrays: The model's parameters by the names in the checkpoint, joined by "/".
      step: The step at which it was saved.
    """

    def __init__(self, path: str, arrays: Mapping[str, StoredArray], step: int) -> None:
        self._path = path
        self._arrays = _unscanned(arrays, path)
        self.variables: Mapping[str, Variable] = {
            name: array.variable for name, array in self._arrays.items()
        }
        self.step = step

    def read(self, name: str) -> np.ndarray:
        """See `prompt_tuning_files.formats.ModelFile`."""
        return self._array(name).read()

    def rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """See `prompt_tuning_files.formats.ModelFile`."""
        array = self._array(name)
        if len(array.variable.shape) != 2 or not is_floating(array.variable):
            raise InputError(
                f"model {self._path}: {name!r} is {array.variable.dtype} {array.variable.shape}, "
                "expected floating numbers [V, H]"
            )
        return array.rows(np.asarray(ids))

    def _array(self, name: str) -> StoredArray:
        if name not in self._arrays:
            raise InputError(
                f"model {self._path}: has no variable {name!r}{nearest(name, self._arrays)}"
            )
        return self._arrays[name]


def read_prompt(model: ModelFile, path: str, shape: tuple[int, int] | None) -> Prompt:
    """Reads the prompt that was saved with a model.

    Args:
      model: The model.
      path: Its path, for errors.
      shape: The `(P, H)` that the prompt must have; None for any.

    Raises:
      InputError: If there is none, or if it has another shape, no floating numbers, or numbers that
        are not finite.
    """
    name = f"prompt {path}"
    if PROMPT not in model.variables:
        raise InputError(f"{name}: a checkpoint of a model without a prompt: it has no {PROMPT!r}")
    variable = model.variables[PROMPT]
    prompt_files.check_shape(name, variable.shape, shape)
    if not is_floating(variable):
        raise InputError(f"{name}: has dtype {variable.dtype}, expected floating numbers")
    with np.errstate(over="ignore"):  # float64 may overflow; checked below.
        array = model.read(PROMPT).astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name}: is not finite in float32")
    return Prompt(array, {"step": model.step})


def step_of(checkpoint: Checkpoint, found: int) -> int:
    """Returns the step in the checkpoint's content, checked against its directory's name.

    Raises:
      InputError: If they differ: the files are mixed up or damaged.
    """
    if checkpoint.step not in (None, found):
        raise InputError(
            f"model {checkpoint.path}: was saved at step {found}, and its directory's name says "
            f"{checkpoint.step}; copy it again, or give the directory a name without a number"
        )
    return found


def _unscanned(arrays: Mapping[str, StoredArray], path: str) -> dict[str, StoredArray]:
    """Gives scanned layers the names of unscanned layers.

    Flaxformer with `scan_layers=True` has one module `encoder/encoder` in place of
    `encoder/layers_0`, `encoder/layers_1` …. Its parameters stack the parameters of the layers
    along the second axis: `encoder/layers_3/mlp/wo/kernel` is
    `encoder/encoder/mlp/wo/kernel[:, 3]`. The decoder has `decoder/decoder` in the same way.
    """
    result: dict[str, StoredArray] = {}
    for side in ("encoder", "decoder"):
        start = f"{side}/{side}/"
        stacked = {
            name.removeprefix(start): array
            for name, array in arrays.items()
            if name.startswith(start)
        }
        numbers = {array.variable.shape[1:2] for array in stacked.values()}
        if len(numbers) > 1 or numbers == {()}:
            raise InputError(
                f"model {path}: the scanned layers {start}… differ in the size of their second "
                "axis, which is the number of layers"
            )
        for (layers,) in numbers:
            for index in range(layers):
                for name, array in stacked.items():
                    result[f"{side}/layers_{index}/{name}"] = Layer(array, index)
    kept = {
        name: array
        for name, array in arrays.items()
        if not name.startswith(("encoder/encoder/", "decoder/decoder/"))
    }
    both = sorted(result.keys() & kept.keys())
    if both:
        raise InputError(f"model {path}: has {both[0]!r} scanned and unscanned")
    return {**kept, **result}
