"""Every reader names a pointer of Git LFS that a clone left in place of a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

import prompt_tuning_catalog_google as released
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import formats, prompt_files
from prompt_tuning_files.embeddings import checkpoint_load, np_load, safetensors_load
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_init_labels import init_labels
from prompt_tuning_tasks import TextTask

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0a' * 32}\nsize 307867048\n"
TABLE = np.zeros((4, 2), np.float32)


def read_labels(path):
    init_labels(TABLE, SentencePieceVocabulary("unread.model"), path)(None, (1, 2))


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("table.npy", lambda path: np_load(path).shape),
        ("table.safetensors", lambda path: safetensors_load(path).shape),
        ("model.safetensors", formats.open_model),
        ("model.safetensors", lambda path: checkpoint_load(path.parent).shape),
        # A T5X checkpoint, which its content alone tells from other directories.
        ("checkpoint", lambda path: formats.open_model(path.parent)),
        ("checkpoint", formats.open_model),
        ("prompt.npy", formats.read_prompt),
        ("prompt_7.npy", lambda path: formats.read_prompt(path.parent)),
        ("prompt.safetensors", formats.read_prompt),
        # The reference's prompts have no ending.
        ("encoder.prompt.prompt.prompt", formats.read_prompt),
        ("prompt.json", lambda path: prompt_files.read(path.with_suffix(".npy"))),
        ("adapter_config.json", lambda path: formats.read_prompt(path.parent)),
        ("adapter_model.safetensors", lambda path: formats.read_prompt(path.parent)),
        ("spiece.model", lambda path: SentencePieceVocabulary(path).encode("a")),
        ("tokenizer.json", lambda path: SentencePieceVocabulary(path.parent).encode("a")),
        ("labels.txt", read_labels),
        ("rows.tsv", lambda path: TextTask("t", {"train": path}).examples("train")),
        ("rows.jsonl", lambda path: TextTask("t", {"train": path}).examples("train")),
    ],
)
def test_pointers(tmp_path, file, read):
    prompt_files.save(tmp_path / "prompt.npy", TABLE, {})
    if file == "adapter_model.safetensors":
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 2}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    path = tmp_path / file
    path.write_text(POINTER)
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "a Git LFS pointer, not the file that it stands for; run git lfs pull in" in message
    assert "\n" not in message


def test_a_released_prompt(tmp_path, monkeypatch):
    monkeypatch.setenv(released.PROMPTS_VARIABLE, str(tmp_path))
    prompt = released.released_prompts()[0]
    prompt.path.parent.mkdir()
    prompt.path.write_text(POINTER)
    with pytest.raises(InputError, match="a Git LFS pointer"):
        formats.read_prompt(prompt.name)


def test_pointers_beside_what_is_read_are_fine(tmp_path):
    prompt_files.save(tmp_path / "prompt_7.npy", TABLE, {})
    (tmp_path / "model.safetensors").write_text(POINTER)
    assert formats.read_prompt(tmp_path).array.shape == (4, 2)
