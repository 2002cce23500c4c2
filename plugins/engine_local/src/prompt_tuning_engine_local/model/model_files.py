"""Reads the frozen model, in any form that an installed format plugin reads."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import formats
from prompt_tuning_files.formats import Variable
from prompt_tuning_files.npy_header import FLOATING

_PROMPT = "encoder/prompt/"


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """The parameters of a model, and their origin.

    Attributes:
      params: Arrays by "/"-joined name, where `load` placed them.
      path: The path of the model.
      step: The step at which the model was saved; 0 if the file does not record it.
      sha256: Checksum of the parameters, the same for every form of file.
    """

    params: Mapping[str, Any]
    path: str
    step: int
    sha256: str


def load(
    path: str | os.PathLike[str],
    parameters: Mapping[str, jax.ShapeDtypeStruct],
    place: Callable[[np.ndarray], Any] = lambda array: array,
) -> FrozenModel:
    """Reads a model, one parameter at a time.

    Args:
      path: The model. A prompt in the file is not read.
      parameters: The shape that each parameter must have and the dtype to convert it to, by
        "/"-joined name.
      place: Puts a parameter on a device and returns it there.

    Raises:
      InputError: If the model is missing or damaged. Also if a parameter is missing, unexpected or
        not finite, or has another shape or a dtype that is not floating; the message names it.
    """
    model = formats.open_model(path)
    name = f"model {path}"
    _check(name, model.variables, {name: leaf.shape for name, leaf in parameters.items()})
    params = {}
    digest = hashlib.sha256()
    # A thread checks and hashes each parameter while the next one is read; at most one waits.
    with ThreadPoolExecutor(max_workers=1) as aside:
        hashing = aside.submit(lambda: None)
        for variable, expected in sorted(parameters.items()):
            with np.errstate(over="ignore"):  # float64 may overflow; `_check_and_hash` refuses it.
                array = model.read(variable).astype(np.float32, copy=False)
            hashing.result()
            hashing = aside.submit(_check_and_hash, digest, name, variable, array)
            params[variable] = place(array.astype(expected.dtype, copy=False))
        hashing.result()
    return FrozenModel(params, str(path), model.step, digest.hexdigest())


def _check_and_hash(digest: Any, name: str, variable: str, array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        total = np.sum(array)  # Needs no memory, unlike a test of each value.
    if not np.isfinite(total) and not np.isfinite(array).all():
        raise InputError(
            f"{name}: the parameter {variable!r} has values that are not finite in float32; copy "
            "the model again, or give another"
        )
    digest.update(f"{variable} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array, "<f4"))


def _check(
    name: str, found: Mapping[str, Variable], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = [variable for variable in expected if variable not in found]
    if missing:
        raise InputError(
            f"{name}: {len(missing)} parameters are missing, the first is {missing[0]!r}"
            f"{nearest(missing[0], found)}"
        )
    unexpected = [v for v in found if v not in expected and not v.startswith(_PROMPT)]
    if unexpected:
        raise InputError(
            f"{name}: {len(unexpected)} parameters are not of the model described in gin, the "
            f"first is {unexpected[0]!r}; is it a model of this size?"
        )
    for variable, shape in expected.items():
        if found[variable].shape != shape:
            raise InputError(
                f"{name}: the parameter {variable!r} has the shape {found[variable].shape}, and "
                f"the model described in gin has {shape}; is it a model of this size?"
            )
        if found[variable].dtype not in FLOATING:
            raise InputError(
                f"{name}: the parameter {variable!r} has the dtype {found[variable].dtype}, "
                f"expected one of {', '.join(FLOATING)}"
            )
