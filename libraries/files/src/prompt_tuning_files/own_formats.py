"""The project's own forms of files: `.npy` prompts, and safetensors for prompts and models.

A model is a `.safetensors` file, or a directory with `model.safetensors`, whose tensors have
Flaxformer's names (`encoder/layers_0/attention/query/kernel`). Its metadata may have the entry
`step`, the step at which it was saved. A prompt is a `.safetensors` file with one tensor, `prompt`,
whose metadata entry `provenance` is JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import (
    embeddings,
    module_files,
    prompt_files,
    readable,
    safetensors_prompts,
)
from prompt_tuning_files.formats import Prompt, Variable
from prompt_tuning_files.safetensors_header import Tensor, read_tensor, safetensors_header_of

MODEL_FILE = "model.safetensors"

_PROMPT = "prompt"
_MODULE = "module"


class NpyFormat:
    """Prompts as `.npy`, with a file of their provenance; see `prompt_files`."""

    prompt_endings = (".npy",)

    def recognizes_prompt(self, path: str) -> bool:
        """See `formats.PromptFormat`; a prompt of the reference, without an ending, is one too.

        A name that ends in `.npy` is enough: `read_prompt` then reports a damaged file.
        """
        return os.path.isfile(path) and (path.endswith(".npy") or _begins(path, b"\x93NUMPY"))

    def read_prompt(self, path: str, shape: tuple[int, int] | None = None) -> Prompt:
        """See `formats.PromptFormat`."""
        return Prompt(*prompt_files.read(path, shape))

    def write_prompt(self, path: str, array: np.ndarray, provenance: Mapping[str, Any]) -> None:
        """See `formats.PromptFormat`."""
        with _writing(path):
            prompt_files.save(path, array, provenance)


class SafetensorsFormat:
    """Models and prompts in safetensors, as this project writes them."""

    prompt_endings = (".safetensors",)

    @staticmethod
    def sample_model(folder: Path) -> Path:
        """Writes a model of two variables, for `prompt-tuning check safetensors`."""
        arrays = {
            "token_embedder/embedding": np.arange(32, dtype=np.float32).reshape(8, 4),
            "encoder/encoder_norm/scale": np.ones(4, np.float32),
        }
        path = folder / MODEL_FILE
        path.write_bytes(safetensors_prompts.encoded(arrays, {"step": "7"}))
        return path

    def recognizes_model(self, path: str) -> bool:
        """See `formats.ModelFormat`."""
        file = Path(path)
        if file.is_dir():
            # A folder with a config.json is a model of Hugging Face.
            if (file / "config.json").exists():
                return False
            file /= MODEL_FILE
        names = _names(file)
        return names is not None and (not names or any(_is_of_model(name) for name in names))

    def open_model(self, path: str) -> SafetensorsModel:
        """See `formats.ModelFormat`."""
        file = Path(path)
        return SafetensorsModel(file / MODEL_FILE if file.is_dir() else file)

    def recognizes_prompt(self, path: str) -> bool:
        """See `formats.PromptFormat`."""
        names = _names(Path(path))
        return names is not None and not any(_is_of_model(name) for name in names)

    def read_prompt(self, path: str, shape: tuple[int, int] | None = None) -> Prompt:
        """See `formats.PromptFormat`."""
        name = f"prompt {path}"
        header = safetensors_header_of(path, name)
        if _MODULE not in header.metadata:
            return safetensors_prompts.read(path, header, _PROMPT, shape)
        plain = Prompt(None, safetensors_prompts.provenance_of(header.metadata, name))
        if _PROMPT in header.tensors:
            plain = safetensors_prompts.read(path, header, _PROMPT, shape)
        arrays = {
            key: readable.cast(read_tensor(path, tensor, name), "float32", f"{name}, {key}")
            for key, tensor in header.tensors.items()
            if key != _PROMPT
        }
        module = module_files.parse(header.metadata[_MODULE], arrays, name)
        return dataclasses.replace(plain, module=module)

    def write_prompt(self, path: str, array: np.ndarray, provenance: Mapping[str, Any]) -> None:
        """See `formats.PromptFormat`."""
        metadata = safetensors_prompts.metadata(array, provenance)
        with _writing(path), prompt_files.atomic_write(path) as file:
            file.write(safetensors_prompts.encoded({_PROMPT: array}, metadata))


class SafetensorsModel:
    """A model in one safetensors file; see `formats.ModelFile`.

    Args:
      file: The file.

    Raises:
      InputError: If its header is damaged or describes another file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._name = f"model {file}"
        header = safetensors_header_of(file, self._name)
        self._tensors = header.tensors
        # The header is read once; rows may be read many times.
        self._table = functools.cache(functools.partial(embeddings.safetensors_load, file))
        self.variables = {name: _variable(tensor) for name, tensor in header.tensors.items()}
        step = header.metadata.get("step", "0")
        if not step.isdecimal():
            raise InputError(
                f"{self._name}: the step in its metadata is {step!r}, expected a number"
            )
        self.step = int(step)

    def read(self, name: str) -> np.ndarray:
        """See `formats.ModelFile`."""
        return read_tensor(self._file, self._tensors[name], self._name)

    def rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """See `formats.ModelFile`."""
        return self._table(name).rows(ids)


def _is_of_model(name: str) -> bool:
    """Checks whether a tensor's name belongs to a model, and not to a prompt module."""
    return "/" in name and not name.startswith(("encoder/prompt/", "decoder/prompt/"))


def _variable(tensor: Tensor) -> Variable:
    return Variable(tensor.shape, tensor.code if tensor.dtype is None else tensor.dtype.name)


def _names(file: Path) -> list[str] | None:
    """Returns the tensor names in a safetensors file; [] if it is damaged, None for another file.

    A name that ends in `.safetensors` is enough: the reader then reports a damaged file.
    """
    if not file.is_file() or file.suffix != ".safetensors":
        return None
    try:
        return list(safetensors_header_of(file, str(file)).tensors)
    except InputError:
        return []


def _begins(path: str, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    if os.path.isdir(path):  # Before anything is written: a prompt may have two files.
        raise InputError(f"{path}: can't be written: it is a directory; name a file")
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None
