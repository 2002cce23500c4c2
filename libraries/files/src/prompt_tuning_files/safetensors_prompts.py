"""Prompts in safetensors files: one tensor, and its provenance as JSON in the metadata."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import prompt_files, readable, strict_json
from prompt_tuning_files.formats import Prompt
from prompt_tuning_files.safetensors_header import SafetensorsHeader, read_tensor

_PROVENANCE = "provenance"


def read(
    file: str | os.PathLike[str],
    header: SafetensorsHeader,
    tensor_name: str,
    shape: tuple[int, int] | None = None,
) -> Prompt:
    """Reads a prompt from a file whose header has been read.

    Args:
      file: The file.
      header: Its header.
      tensor_name: The name of the prompt's tensor.
      shape: The `(P, H)` that it must have, checked before the array is read; None for any.

    Raises:
      InputError: If there is no such tensor, if it has another shape or no floating numbers, or if
        the provenance in the metadata is damaged or has the checksum of another prompt.
    """
    name = f"prompt {file}"
    if tensor_name not in header.tensors:
        raise InputError(f"{name}: has no tensor {tensor_name!r}")
    tensor = header.tensors[tensor_name]
    if tensor.dtype is None:
        raise InputError(f"{name}: has the dtype {tensor.code}, expected a floating one")
    provenance = provenance_of(header.metadata, name)
    prompt_files.check_shape(name, tensor.shape, shape, provenance)
    array = readable.cast(read_tensor(file, tensor, name), "float32", name)
    prompt_files.check_checksum(name, array, provenance, "its metadata")
    return Prompt(array, provenance)


def metadata(array: np.ndarray, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Returns the metadata for a file with the prompt `array` `[P, H]` float32."""
    facts = prompt_files.with_checksum(array, provenance)
    return {_PROVENANCE: strict_json.dumps(facts)}


def encoded(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns the content of a safetensors file of float32 tensors."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    content = [np.ascontiguousarray(array, "<f4").tobytes() for array in tensors.values()]
    return b"".join([struct.pack("<Q", len(text)), text, *content])


def provenance_of(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """Returns the provenance in a file's metadata; empty if there is none.

    Raises:
      InputError: If it is damaged. The message calls the file `name`.
    """
    try:
        facts = json.loads(metadata.get(_PROVENANCE, "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: the provenance in its metadata isn't JSON: {error}") from None
    if not isinstance(facts, dict):
        raise InputError(f"{name}: the provenance in its metadata isn't a JSON object")
    return facts
