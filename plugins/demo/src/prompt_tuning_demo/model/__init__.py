"""The frozen T5 that `prompt_tuning_demo.pretrain` made, and its vocabulary."""

from __future__ import annotations

import hashlib
from pathlib import Path

_DIRECTORY = Path(__file__).parent


def checkpoint_path() -> str:
    """Returns the path of the model's `.safetensors` file."""
    return str(_DIRECTORY / "model.safetensors")


def checkpoint_sha256() -> str:
    """Returns the SHA-256 of that file, which identifies the base of a measurement."""
    return hashlib.sha256(Path(checkpoint_path()).read_bytes()).hexdigest()


def vocabulary_path() -> str:
    """Returns the path of its SentencePiece `.model` file."""
    return str(_DIRECTORY / "spiece.model")
