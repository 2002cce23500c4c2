"""Prompts as PEFT saves them: a directory of `adapter_config.json` and safetensors.

PEFT (https://github.com/huggingface/peft) calls prompt tuning PROMPT_TUNING. For an
encoder-decoder it trains two prompts, one for either stack, unless `num_transformer_submodules` is
1; the prompt of this project is the encoder's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_tuning_core import safetensors_prompts
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.formats import Prompt
from prompt_tuning_core.safetensors_header import safetensors_header_of
from prompt_tuning_format_huggingface.json_files import read_object

if TYPE_CHECKING:
    import numpy as np

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"

_PICKLED = "adapter_model.bin"
_TENSOR = "prompt_embeddings"
_CONFIG = "adapter_config"  # In the provenance.
_ENCODER_DECODER = "SEQ_2_SEQ_LM"
# Facts about the base model that a prompt keeps on its way from PEFT to PEFT.
_KEPT = (
    "base_model_name_or_path",
    "num_attention_heads",
    "num_layers",
    "revision",
    "tokenizer_name_or_path",
)


class PeftFormat:
    """The format `peft`; see `formats.PromptFormat`."""

    prompt_endings = ("/",)

    def recognizes_prompt(self, path: str) -> bool:
        """See `formats.PromptFormat`."""
        return any(Path(path, name).exists() for name in (CONFIG_FILE, TENSOR_FILE, _PICKLED))

    def read_prompt(self, path: str, shape: tuple[int, int] | None = None) -> Prompt:
        """See `formats.PromptFormat`.

        The provenance is that of a prompt of this project that was written as an adapter, with the
        content of `adapter_config.json` as `adapter_config`.
        """
        name = f"prompt {path}"
        config = _read_config(Path(path), name)
        file = Path(path, TENSOR_FILE)
        if not file.exists():
            raise InputError(f"{name}: {_why_no_tensors(Path(path))}")
        header = safetensors_header_of(file, f"prompt {file}")
        if list(header.tensors) != [_TENSOR]:
            held = ", ".join(map(repr, header.tensors)) or "nothing"
            raise InputError(f"prompt {file}: holds {held}, expected {_TENSOR} alone")
        found = header.tensors[_TENSOR].shape
        expected = (config["num_virtual_tokens"], config["token_dim"])
        if found != expected:
            raise InputError(
                f"prompt {file}: has shape {found}, and by {CONFIG_FILE} it is {expected}; "
                "are these files of one adapter?"
            )
        prompt = safetensors_prompts.read(file, header, _TENSOR, shape)
        return Prompt(prompt.array, {**prompt.provenance, _CONFIG: config})

    def write_prompt(self, path: str, array: np.ndarray, provenance: Mapping[str, Any]) -> None:
        """See `formats.PromptFormat`; an adapter that is there already is replaced."""
        import numpy as np
        import safetensors.numpy

        array = np.ascontiguousarray(array, np.float32)
        facts = {key: value for key, value in provenance.items() if key != _CONFIG}
        # PEFT takes what other metadata a file has as it comes.
        metadata = {"format": "pt", **safetensors_prompts.metadata(array, facts)}
        config = json.dumps(_config_of(array, provenance), indent=2, ensure_ascii=False)
        _write_directory(
            path,
            {
                TENSOR_FILE: safetensors.numpy.save({_TENSOR: array}, metadata),
                CONFIG_FILE: f"{config}\n".encode(),
            },
        )


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    """Reads an adapter's config and checks that it is one prompt, for the input."""
    if not (folder / CONFIG_FILE).exists():
        raise InputError(f"{name}: holds an adapter of PEFT without its {CONFIG_FILE}")
    file = f"prompt {folder / CONFIG_FILE}"
    config = read_object(folder / CONFIG_FILE, file)
    if config.get("peft_type") != "PROMPT_TUNING":
        raise InputError(
            f"{file}: an adapter of the type {config.get('peft_type')!r}, expected PROMPT_TUNING"
        )
    for key in ("num_virtual_tokens", "token_dim"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise InputError(f"{file}: {key} is {config.get(key)!r}, expected a positive integer")
    prompts = config.get("num_transformer_submodules")
    if prompts is None:
        prompts = 2 if config.get("task_type") == _ENCODER_DECODER else 1
    if type(prompts) is not int or prompts != 1:
        raise InputError(
            f"{file}: num_transformer_submodules is {prompts!r}: {prompts!r} times "
            f"{config['num_virtual_tokens']} rows, one prompt for the encoder and one for the "
            "decoder, and prompts here are the encoder's alone; train with "
            "num_transformer_submodules=1"
        )
    return config


def _why_no_tensors(folder: Path) -> str:
    if (folder / _PICKLED).exists():
        return (
            f"holds pickled weights ({_PICKLED}), which are never loaded; load it with PEFT and "
            "save it with safe_serialization=True"
        )
    return f"holds no {TENSOR_FILE}"


def _config_of(array: np.ndarray, provenance: Mapping[str, Any]) -> dict[str, Any]:
    before = provenance.get(_CONFIG)
    kept = before if isinstance(before, Mapping) else {}
    return {
        **{key: kept.get(key) for key in _KEPT},
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": array.shape[0],
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "task_type": kept.get("task_type", _ENCODER_DECODER),
        "token_dim": array.shape[1],
    }


def _write_directory(path: str, files: Mapping[str, bytes]) -> None:
    """Writes a directory of files under another name, and then gives it its own."""
    target = Path(os.path.realpath(path))
    others = _not_an_adapter(target, files)
    if others is not None:
        raise InputError(f"{path}: can't be replaced by a PEFT adapter: {others}; name another")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new"))
        try:
            for name, content in files.items():
                with (made / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _sync(made)
            # mkdtemp makes directories for their owner only.
            umask = os.umask(0)
            os.umask(umask)
            made.chmod(0o777 & ~umask)
            _put(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        _sync(target.parent)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None


def _not_an_adapter(target: Path, files: Mapping[str, bytes]) -> str | None:
    """Says what is at `target` that must not be lost; None if nothing is."""
    if not os.path.lexists(target):
        return None
    if not target.is_dir():
        return "it is a file"
    foreign = sorted(set(os.listdir(target)) - set(files))
    return f"it holds {foreign[0]}" if foreign else None


def _put(made: Path, target: Path) -> None:
    """Renames `made` to `target`; what is there is kept until that is done."""
    if not target.exists():
        made.rename(target)
        return
    # No rename replaces a directory that is not empty.
    aside = made.with_suffix(".old")
    target.rename(aside)
    try:
        made.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Has the names in a directory written to the disk, where that can be asked for."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
