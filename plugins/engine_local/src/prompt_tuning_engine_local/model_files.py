"""Reads this engine's model files: `model.safetensors` with Flaxformer's parameter names.

Names are joined by "/", for example `encoder/layers_0/attention/query/kernel`. The metadata entry
`step`, where there is one, is the step at which the model was saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_core.safetensors_header import Tensor, read_safetensors_header

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
    file = find(path)
    params = {}
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream, ThreadPoolExecutor(max_workers=1) as aside:
            size = os.fstat(stream.fileno()).st_size
            header = read_safetensors_header(stream, size, f"model {file}")
            step = _step(header.metadata, file)
            _check(file, header.tensors, shapes)
            # The data follows the header without gaps: one pass is enough for the checksum, too,
            # which is computed while the next tensors are read.
            header_size = stream.tell()
            stream.seek(0)
            digest.update(stream.read(header_size))
            for name, tensor in header.tensors.items():
                array = np.empty(tensor.shape, tensor.dtype)
                data = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
                if stream.readinto(data) != tensor.size:
                    raise InputError(f"model {file}: became shorter while it was read")
                aside.submit(digest.update, data)
                params[name] = place(array.astype(np.float32, copy=False))
    except OSError as e:
        raise InputError(f"model {file}: cannot be read: {e.strerror}") from None
    return FrozenModel(params, file, step, digest.hexdigest())


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


def _check(
    file: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise InputError(
            f"model {file}: {len(missing)} parameters are missing, the first is {missing[0]!r}"
            f"{nearest(missing[0], found)}"
        )
    for name, tensor in found.items():
        if name not in expected:
            raise InputError(
                f"model {file}: {len(found) - len(expected)} parameters are not of the model "
                f"described in gin, the first is {name!r}; is it a model of this size?"
            )
        if tensor.shape != expected[name]:
            raise InputError(
                f"model {file}: the parameter {name!r} has the shape {tensor.shape}, and the "
                f"model described in gin has {expected[name]}; is it a model of this size?"
            )
        if tensor.dtype is None:
            raise InputError(
                f"model {file}: the parameter {name!r} has the dtype {tensor.code}, "
                "expected a floating one"
            )


def _step(metadata: Mapping[str, str], file: Path) -> int:
    step = metadata.get("step", "0")
    if not step.isdecimal():
        raise InputError(f"model {file}: the step in its metadata is {step!r}, expected a number")
    return int(step)
