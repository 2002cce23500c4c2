"""Reads this engine's model files: `model.safetensors` with Flaxformer's parameter names.

Names are joined by "/", for example `encoder/layers_0/attention/query/kernel`. The metadata entry
`step`, where there is one, is the step at which the model was saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_core.errors import InputError, nearest

FILE_NAME = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """The parameters of a model, and where they came from.

    Attributes:
      params: float32 arrays by "/"-joined name, where `load` placed them.
      path: The file.
      step: The step at which the model was saved; 0 where the file does not say.
      sha256: Checksum of the file.
    """

    params: Mapping[str, Any]
    path: Path
    step: int
    sha256: str


def load(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    place: Callable[[np.ndarray], Any] = lambda array: array,
) -> FrozenModel:
    """Reads a model, one parameter after the other.

    Args:
      path: A `.safetensors` file, or a directory that holds `model.safetensors`.
      shapes: The shape that each parameter must have, by "/"-joined name.
      place: Called with each parameter, to put it on a device; what it returns is kept.

    Raises:
      InputError: If the file is missing or corrupt, or a parameter is missing, unexpected, or of
        another shape or a dtype that is not floating; the message names it.
    """
    import safetensors

    file = find(path)
    params = {}
    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            step = _step(tensors.metadata() or {}, file)
            _check_names(file, tensors.keys(), shapes)
            for name, expected in shapes.items():
                piece = tensors.get_slice(name)
                found = tuple(piece.get_shape())
                if found != expected:
                    raise InputError(
                        f"model {file}: the parameter {name!r} has the shape {found}, and the "
                        f"model described in gin has {expected}; is it a model of this size?"
                    )
                if piece.get_dtype() not in ("F16", "BF16", "F32", "F64"):
                    raise InputError(
                        f"model {file}: the parameter {name!r} has the dtype {piece.get_dtype()}, "
                        "expected a floating one"
                    )
                array = np.asarray(tensors.get_tensor(name))
                params[name] = place(array.astype(np.float32, copy=False))
    except safetensors.SafetensorError as e:
        raise InputError(f"model {file}: not a whole safetensors file: {e}") from None
    return FrozenModel(params, file, step, _sha256(file))


def find(path: str | os.PathLike[str]) -> Path:
    """Returns the model file at `path`, which may be its directory.

    Raises:
      InputError: If there is none.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file /= FILE_NAME
    if not file.is_file():
        raise InputError(
            f"no model at {path}: expected a .safetensors file, or a directory that holds "
            f"{FILE_NAME}"
        )
    return file


def _check_names(file: Path, found: list[str], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise InputError(
            f"model {file}: {len(missing)} parameters are missing, the first is {missing[0]!r}"
            f"{nearest(missing[0], found)}"
        )
    unexpected = [name for name in found if name not in expected]
    if unexpected:
        raise InputError(
            f"model {file}: {len(unexpected)} parameters are not of the model described in gin, "
            f"the first is {unexpected[0]!r}; is it a model of this size?"
        )


def _step(metadata: Mapping[str, str], file: Path) -> int:
    step = metadata.get("step", "0")
    if not step.isdecimal():
        raise InputError(f"model {file}: the step in its metadata is {step!r}, expected a number")
    return int(step)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
