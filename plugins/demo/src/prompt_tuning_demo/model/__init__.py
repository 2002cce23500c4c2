"""The frozen T5 that `prompt_tuning_demo.pretrain` made, and its vocabulary."""

from __future__ import annotations

from pathlib import Path

_DIRECTORY = Path(__file__).parent


def checkpoint_path() -> str:
    """Returns the path of the model's `.safetensors` file."""
    return str(_DIRECTORY / "model.safetensors")


def vocabulary_path() -> str:
    """Returns the path of its SentencePiece `.model` file."""
    return str(_DIRECTORY / "vocabulary.model")
