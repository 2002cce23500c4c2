"""Finds the tensors of a directory: `model.safetensors`, or the shards that an index names."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Mapping
from pathlib import Path

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import git_lfs
from prompt_tuning_files.safetensors_header import Tensor, safetensors_header_of
from prompt_tuning_files.strict_json import read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PYTORCH = "pytorch_model*.bin"
"""The pickled weights of older models, in one file or in shards; a pattern."""


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor, and the file that holds it."""

    file: Path
    tensor: Tensor


def find_tensors(folder: Path) -> dict[str, FileTensor]:
    """Reads the headers of a model's files.

    Raises:
      InputError: If there are none, or a file is missing, is damaged or differs from the index.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        raise InputError(
            f"model {folder}: holds {SINGLE} and {INDEX}, a model in one file and one in several; "
            "remove one of them"
        )
    if single.exists():
        return {name: FileTensor(single, t) for name, t in read_header(single).items()}
    if index.exists():
        return _in_shards(folder)
    raise InputError(f"model {folder}: {_what_else(folder)}")


def read_header(file: Path) -> Mapping[str, Tensor]:
    """Returns the tensors in a safetensors file, by name.

    Raises:
      InputError: If it can't be read, or is no complete safetensors file.
    """
    return safetensors_header_of(file, f"model {file}").tensors


def _in_shards(folder: Path) -> dict[str, FileTensor]:
    index = f"model {folder / INDEX}"
    files = read_object(folder / INDEX, index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise InputError(f"{index}: has no weight_map of tensors' names to files")
    for tensor, shard in files.items():
        # Only names in this folder: an index may hold any path.
        if not isinstance(shard, str) or os.path.basename(shard) != shard or not shard:
            raise InputError(f"{index}: {tensor!r} is in {shard!r}, expected a file of this folder")
    found: dict[str, FileTensor] = {}
    for shard in sorted(set(files.values())):
        if not (folder / shard).is_file():
            raise InputError(
                f"model {folder}: the shard {shard!r}, which {INDEX} names, is missing; copy all "
                f"{len(set(files.values()))} shards"
            )
        for tensor, header in read_header(folder / shard).items():
            if files.get(tensor) != shard:
                where = f"in {files[tensor]!r}" if tensor in files else "in no shard"
                raise InputError(
                    f"model {folder}: {shard!r} holds {tensor!r}, which is {where} by {INDEX}; are "
                    "these files of one model?"
                )
            found[tensor] = FileTensor(folder / shard, header)
    missing = [tensor for tensor in files if tensor not in found]
    if missing:
        raise InputError(
            f"model {folder}: {files[missing[0]]!r} has no {missing[0]!r}, which {INDEX} has in "
            "it; are these files of one model?"
        )
    return found


def _what_else(folder: Path) -> str:
    """Describes the other model files in a directory without safetensors files."""
    names = sorted(os.listdir(folder))
    pytorch = sorted(file.name for file in folder.glob(PYTORCH))
    if pytorch:
        git_lfs.refuse_at(folder / pytorch[0], "model")
        return f"holds pickled weights ({pytorch[0]}), which are never loaded; {_recipe(folder)}"
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return (
            f"holds pickled weights ({pickled[0]}), which are never loaded; save them as {SINGLE}"
        )
    shards = [name for name in names if name.endswith(".safetensors")]
    if shards:
        return f"holds {shards[0]}, but neither {SINGLE} nor {INDEX}"
    others = [name for name in names if name.endswith((".msgpack", ".h5", ".gguf"))]
    beside = f"; {others[0]} is of a form that is not read" if others else ""
    return f"holds no {SINGLE}{beside}"


def _recipe(folder: Path) -> str:
    """Returns Python code that makes `model.safetensors` next to the pickled weights of a model.

    With `weights_only`, PyTorch loads only tensors. Some tensors are one table with several names,
    and safetensors needs a copy for each name.
    """
    pattern, target = os.path.join(glob.escape(str(folder)), PYTORCH), str(folder / SINGLE)
    return (
        "make safetensors of them once, where PyTorch is installed, in Python: "
        "import glob, torch, safetensors.torch; "
        f"tensors = {{name: tensor.clone().contiguous() for file in glob.glob({pattern!r}) for "
        "name, tensor in torch.load(file, map_location='cpu', weights_only=True).items()}; "
        f"safetensors.torch.save_file(tensors, {target!r}, {{'format': 'pt'}})"
    )
