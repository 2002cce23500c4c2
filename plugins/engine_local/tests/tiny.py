"""The flags that run the tiny model, and the command that takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SIZES = {
    "NUM_HEADS": 4,
    "NUM_ENCODER_LAYERS": 2,
    "NUM_DECODER_LAYERS": 2,
    "HEAD_DIM": 8,
    "EMBED_DIM": 32,
    "MLP_DIM": 64,
    "NUM_EMBEDDINGS": 64,
}

ROWS = [
    {"text": "this is a test", "label": 1},
    {"text": "that was sad", "label": 0},
    {"text": "this is that", "label": 1},
    {"text": "a bad test", "label": 0},
    {"text": "this was", "label": 1},
]

TASK = """
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks

toy/tasks.TextTask:
  splits = {'train': 'rows.jsonl', 'validation': 'rows.jsonl', 'test': 'rows.jsonl'}
  inputs = '{text}'
  targets = '{label}'
  target_names = {'0': 'that', '1': 'this'}
  metrics = ['exact_match', 'accuracy']

mix/tasks.Mixture.rates = {'toy': 1}
"""


def gin_flags(**macros: object) -> list[str]:
    """Returns `--gin.NAME=VALUE` for each macro; a value of None leaves the macro out."""
    return [f"--gin.{name}={value!r}" for name, value in macros.items() if value is not None]


TINY: dict[str, object] = {
    **SIZES,
    "VOCABULARY_FILE": "vocabulary.model",
    "vocabularies.SentencePieceVocabulary.extra_ids": 38,
    "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 6},
    "MIXTURE_OR_TASK_NAME": "toy",
    "BATCH_SIZE": 3,
    "PROMPT_LENGTH": 5,
}
"""Settings of every command of these tests."""

TRAINING: dict[str, object] = {
    **TINY,
    "INITIAL_CHECKPOINT_PATH": "model",
    "MODEL_DIR": "run",
    "TRAIN_STEPS": 4,
    "EVAL_PERIOD": 2,
    "SAVE_PERIOD": 2,
    "RANDOM_SEED": 0,
}


def training_flags(
    prompt_file: str = "prompts/from_class_labels.gin", **changes: object
) -> list[str]:
    """Returns the flags of a training run of the tiny model."""
    files = [
        "models/t5_1_1_small_prompt.gin", prompt_file, "task.gin", "runs/prompt_finetune.gin"
    ]  # fmt: skip
    labels = {"CLASS_LABELS": ["bad", "this"]} if "class_labels" in prompt_file else {}
    return [
        *(f"--gin_file={file}" for file in files),
        *gin_flags(**{**TRAINING, **labels, **changes}),
    ]


def run_command(
    arguments: Sequence[str], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `prompt-tuning` in a folder."""
    return run_python(["-m", "prompt_tuning_core", *arguments], folder, **environment)


def run_python(
    arguments: Sequence[str], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
