"""Prompts as PEFT saves them: a directory of `adapter_config.json` and safetensors.

PEFT (https://github.com/huggingface/peft) has two methods that train a prompt: PROMPT_TUNING, and
P_TUNING, whose adapters hold the finished prompt, without the network that made it.

For an encoder-decoder, an adapter has N = `num_virtual_tokens` rows once or, by default, twice
(`num_transformer_submodules`). PEFT puts the first N rows in front of the encoder's input and never
uses the others. This format reads only the first N rows. Before version 0.4, PEFT put the second N
in front of the decoder's input. Nothing in the file shows such an old adapter, and PEFT itself uses
only its first N rows today.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import names, safetensors_prompts
from prompt_tuning_files.formats import Prompt
from prompt_tuning_files.safetensors_header import SafetensorsHeader, safetensors_header_of
from prompt_tuning_files.strict_json import read_object
from prompt_tuning_format_huggingface import t5_config

if TYPE_CHECKING:
    import numpy as np

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"

_PICKLED = "adapter_model.bin"
_TENSOR = "prompt_embeddings"
_CONFIG = "adapter_config"  # In the provenance.
_ENCODER_DECODER = "SEQ_2_SEQ_LM"
_METHODS = ("PROMPT_TUNING", "P_TUNING")
# `save_embedding_layers=True` adds these tensors of the base model; PEFT does not read them.
_EMBEDDING_LAYERS = ("shared.weight", "embed_tokens.weight", "lm_head.weight")
_BASE = "base_model_name_or_path"
# Facts about the base model that a prompt keeps when it is read and written again.
_KEPT = (_BASE, "num_attention_heads", "num_layers", "revision", "tokenizer_name_or_path")


class PeftFormat:
    """The format `peft`; see `formats.PromptFormat`."""

    prompt_endings = ("/",)

    def recognizes_prompt(self, path: str) -> bool:
        """See `formats.PromptFormat`.

        Also recognizes a directory of several adapters, so that the error can name them.
        """
        return _holds_adapter(Path(path)) or bool(_adapters_in(Path(path)))

    def read_prompt(self, path: str, shape: tuple[int, int] | None = None) -> Prompt:
        """See `formats.PromptFormat`.

        The array has the rows that PEFT puts in front of the input. If this project wrote the
        adapter, the provenance is the one of the written prompt. The provenance always has the
        content of `adapter_config.json` as `adapter_config`.
        """
        name = f"prompt {path}"
        folder = Path(path)
        if not _holds_adapter(folder):
            adapters = _adapters_in(folder)
            raise InputError(
                f"{name}: holds {len(adapters)} adapter{'s' if len(adapters) > 1 else ''} in "
                f"sub-folders, expected one; give one of {', '.join(map(str, adapters))}"
            )
        config = _read_config(folder, name)
        file = folder / TENSOR_FILE
        if not file.exists():
            raise InputError(f"{name}: {_why_no_tensors(folder)}")
        header = safetensors_header_of(file, f"prompt {file}")
        used = _rows_in_use(header, config, f"prompt {file}")
        prompt = safetensors_prompts.read(file, used, _TENSOR, shape)
        return Prompt(prompt.array, {**prompt.provenance, _CONFIG: config})

    def write_prompt(self, path: str, array: np.ndarray, provenance: Mapping[str, Any]) -> None:
        """See `formats.PromptWriter`; replaces an adapter that exists.

        `AutoPeftModelForSeq2SeqLM` loads the base model that the adapter names. The name is the
        first of these: the provenance's `model.hugging_face`; its `model.path`, if that is a
        directory, a name at Hugging Face or a released model; the base of the adapter that the
        prompt was read from. Warns if there is none.
        """
        import numpy as np
        import safetensors.numpy

        array = np.ascontiguousarray(array, np.float32)
        facts = {key: value for key, value in provenance.items() if key != _CONFIG}
        # PEFT ignores other metadata of the file.
        metadata = {"format": "pt", **safetensors_prompts.metadata(array, facts)}
        config = _config_of(array, provenance)
        text = json.dumps(config, indent=2, ensure_ascii=False)
        _write_directory(
            path,
            {
                TENSOR_FILE: safetensors.numpy.save({_TENSOR: array}, metadata),
                CONFIG_FILE: f"{text}\n".encode(),
            },
        )
        if config[_BASE] is None:
            warnings.warn(
                f"{path}: {_BASE} is null in {CONFIG_FILE}, since the prompt's provenance names "
                "no model of Hugging Face; AutoPeftModel needs it: name the model with "
                "prompt-tuning prompt convert --hugging-face NAME",
                stacklevel=2,
            )


def _holds_adapter(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG_FILE, TENSOR_FILE, _PICKLED))


def _adapters_in(folder: Path) -> list[Path]:
    """Finds the adapters in sub-folders: PEFT writes each named adapter into its own folder."""
    return sorted(file.parent for file in folder.glob(f"*/{CONFIG_FILE}"))


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    """Reads an adapter's config, and checks that the adapter is one prompt for the input."""
    if not (folder / CONFIG_FILE).exists():
        raise InputError(f"{name}: holds an adapter of PEFT without its {CONFIG_FILE}")
    file = f"prompt {folder / CONFIG_FILE}"
    config = read_object(folder / CONFIG_FILE, file)
    method = config.get("peft_type")
    if method not in _METHODS:
        raise InputError(
            f"{file}: an adapter of the type {method!r}, expected {' or '.join(_METHODS)}"
        )
    for key in ("num_virtual_tokens", "token_dim"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise InputError(f"{file}: {key} is {config.get(key)!r}, expected a positive integer")
    copies, task_type = _copies(config), config.get("task_type")
    if type(copies) is not int or copies < 1:
        raise InputError(
            f"{file}: num_transformer_submodules is {copies!r}, expected a positive integer"
        )
    if copies != 1 and task_type != _ENCODER_DECODER:
        raise InputError(
            f"{file}: num_transformer_submodules is {copies} for the task_type {task_type!r}; "
            f"PEFT uses the first num_virtual_tokens rows only for {_ENCODER_DECODER}; train with "
            "num_transformer_submodules=1"
        )
    if config.get("modules_to_save"):
        raise InputError(
            f"{file}: modules_to_save is {config['modules_to_save']!r}: parts of the model were "
            "trained with the prompt, and here the model is frozen; train without modules_to_save"
        )
    return config


def _copies(config: Mapping[str, Any]) -> Any:
    """Returns the number of copies of `num_virtual_tokens` rows in an adapter, by its config."""
    copies = config.get("num_transformer_submodules")
    if copies is None:
        return 2 if config.get("task_type") == _ENCODER_DECODER else 1
    return copies


def _rows_in_use(
    header: SafetensorsHeader, config: Mapping[str, Any], name: str
) -> SafetensorsHeader:
    """Returns a header in which the prompt has only the rows that PEFT uses."""
    others = [
        tensor
        for tensor in header.tensors
        if tensor != _TENSOR and not tensor.endswith(_EMBEDDING_LAYERS)
    ]
    if _TENSOR not in header.tensors or others:
        held = ", ".join(map(repr, header.tensors)) or "nothing"
        raise InputError(
            f"{name}: holds {held}, expected {_TENSOR} and at most the embedding layers "
            f"(…{', …'.join(_EMBEDDING_LAYERS)})"
        )
    rows, copies = config["num_virtual_tokens"], _copies(config)
    tensor = header.tensors[_TENSOR]
    expected = (rows * copies, config["token_dim"])
    if tensor.shape != expected:
        raise InputError(
            f"{name}: has shape {tensor.shape}, and by {CONFIG_FILE} it is {expected}; "
            "are these files of one adapter?"
        )
    # The first rows are the first bytes.
    used = dataclasses.replace(
        tensor, shape=(rows, config["token_dim"]), size=tensor.size // copies
    )
    return SafetensorsHeader({_TENSOR: used}, header.metadata)


def _why_no_tensors(folder: Path) -> str:
    if (folder / _PICKLED).exists():
        return (
            f"holds pickled weights ({_PICKLED}), which are never loaded; load it with PEFT and "
            "save it with safe_serialization=True"
        )
    return f"holds no {TENSOR_FILE}"


def _config_of(array: np.ndarray, provenance: Mapping[str, Any]) -> dict[str, Any]:
    before = provenance.get(_CONFIG)
    kept = dict(before) if isinstance(before, Mapping) else {}
    base = _base_model(provenance)
    if base is not None and base != kept.get(_BASE):
        # The remaining facts belong to another model.
        kept = {_BASE: base, "task_type": kept.get("task_type", _ENCODER_DECODER)}
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


def _base_model(provenance: Mapping[str, Any]) -> str | None:
    """Returns the name or the folder of the model at Hugging Face that a prompt is for, if known.

    A folder becomes an absolute path, so that the adapter works from any directory.
    """
    model = provenance.get("model")
    if not isinstance(model, Mapping):
        return None
    named, path = model.get("hugging_face"), model.get("path")
    if isinstance(named, str) and named:
        folder = os.path.expanduser(named)
        return os.path.abspath(folder) if os.path.isdir(folder) else named
    if not isinstance(path, str) or not path:
        return None
    folder = os.path.expanduser(path)
    name = names.hugging_face_name(folder)
    if name is None and os.path.isfile(os.path.join(folder, t5_config.FILE_NAME)):
        return os.path.abspath(folder)
    return name


def _write_directory(path: str, files: Mapping[str, bytes]) -> None:
    """Writes a directory of files under a temporary name, and then renames it."""
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
            # mkdtemp lets only the owner read its directories.
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
    """Describes the content of `target` that must not be lost; None if there is none."""
    if not os.path.lexists(target):
        return None
    if not target.is_dir():
        return "it is a file"
    foreign = sorted(set(os.listdir(target)) - set(files))
    return f"it holds {foreign[0]}" if foreign else None


def _put(made: Path, target: Path) -> None:
    """Renames `made` to `target`; keeps the old content of `target` until then."""
    if not target.exists():
        made.rename(target)
        return
    # No rename replaces a directory that is not empty.
    aside = made.with_suffix(".old")
    target.rename(aside)
    try:
        made.rename(target)
    except BaseException:  # An interruption, too, keeps the old adapter.
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Writes the names in a directory to the disk, if the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
