"""The flags that run the tiny model with either engine, and the command that takes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import golden_data
import numpy as np
from golden_arrays import golden

from prompt_tuning_core import gin_config

GOLDEN = Path(__file__).parent / "golden"

WORDS = ["this is a test", "that was sad", "this is that", "a bad test", "this was", "that is bad"]
ROWS = [
    {"text": f"{first} {second}", "label": (i + j) % 2}
    for i, first in enumerate(WORDS)
    for j, second in enumerate(WORDS)
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
"""

# The one line that makes a text task seqio's, for what T5X's own configuration runs.
TASK_MODULE = """
import seqio
import prompt_tuning_tasks as tasks
from prompt_tuning_tasks import seqio_registration

vocabulary = seqio.SentencePieceVocabulary("vocabulary.model", extra_ids=38)
seqio_registration.register(tasks.get("toy"), vocabulary)
"""

TINY: dict[str, object] = {
    "NUM_HEADS": 4,
    "NUM_ENCODER_LAYERS": 2,
    "NUM_DECODER_LAYERS": 2,
    "HEAD_DIM": 8,
    "EMBED_DIM": 32,
    "MLP_DIM": 64,
    "NUM_EMBEDDINGS": 64,
    "ACTIVATION_DTYPE": "float32",
    "VOCABULARY_FILE": "vocabulary.model",
    "VOCABULARY_EXTRA_IDS": 38,
    "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 6},
    "MIXTURE_OR_TASK_NAME": "toy",
    "BATCH_SIZE": 8,
    "PROMPT_LENGTH": 5,
}

TRAINING: dict[str, object] = {
    **TINY,
    "INITIAL_CHECKPOINT_PATH": "t5x_checkpoint/checkpoint_0",
    "MODEL_DIR": "run",
    "TRAIN_STEPS": 4,
    "EVAL_PERIOD": 4,
    "SAVE_PERIOD": 2,
    "RANDOM_SEED": 0,
    "SHUFFLE": False,
    "BUCKETING": False,
    "DROPOUT_RATE": 0.0,
}
"""The same batches in the same order, whatever the engine."""


def gin_flags(
    files: Sequence[str], values: dict[str, object], changes: dict[str, object]
) -> list[str]:
    """Returns `--gin_file` and `--gin.NAME=VALUE` flags; a change to None leaves a value out."""
    merged = {name: value for name, value in {**values, **changes}.items() if value is not None}
    return [
        *(f"--gin_file={file}" for file in files),
        *(f"--gin.{name}={value!r}" for name, value in merged.items()),
    ]


def training_flags(prompt_file: str = "prompts/from_file.gin", **changes: object) -> list[str]:
    """Returns the flags of a training run."""
    files = [
        "models/t5_1_1_small_prompt.gin", prompt_file, "task.gin", "runs/prompt_finetune.gin"
    ]  # fmt: skip
    file = {"PROMPT_FILE": "prompt.npy"} if prompt_file == "prompts/from_file.gin" else {}
    return gin_flags(files, {**TRAINING, **file}, changes)


def evaluation_flags(**changes: object) -> list[str]:
    """Returns the flags of an evaluation of a prompt file."""
    files = [
        "models/t5_1_1_small_prompt.gin", "models/decoding/greedy.gin", "task.gin",
        "runs/prompt_eval.gin",
    ]  # fmt: skip
    values = {
        **TINY,
        "CHECKPOINT_PATH": "t5x_checkpoint/checkpoint_0",
        "EVAL_OUTPUT_DIR": "evaluation",
        "PROMPT_FILE": "run",
    }
    return gin_flags(files, values, changes)


def command(arguments: Sequence[str]) -> list[str]:
    """Returns the command line `prompt-tuning …`."""
    return [sys.executable, "-m", "prompt_tuning_core", *arguments]


def t5x_itself(action: str, flags: list[str]) -> list[str]:
    """Returns the command line of T5X's own script, with the folders of our gin files."""
    ours = [folder.path for folder in gin_config.search_paths("t5x")]
    searched = ",".join(map(str, [*ours, gin_config.find_module("t5x").parent]))
    return [sys.executable, "-m", f"t5x.{action}", f"--gin_search_paths={searched}", *flags]


def run(
    arguments: Sequence[str], folder: Path, expected: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, and checks its exit code."""
    process = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == expected, process.stderr[-4000:]
    return process


def refusal(arguments: Sequence[str], folder: Path, **environment: str) -> str:
    """Returns the one line with which the command refuses its arguments, without its beginning."""
    process = run(command(arguments), folder, expected=2, **environment)
    assert "Traceback" not in process.stderr
    line = process.stderr.strip().splitlines()[-1]
    beginning = "prompt-tuning: error: "
    assert line.startswith(beginning), process.stderr
    return line.removeprefix(beginning)


def make_project(folder: Path) -> Path:
    """Puts a model, its vocabulary, a prompt, a task and its data into a folder."""
    with tarfile.open(GOLDEN / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(golden_data.VOCABULARY, folder / "vocabulary.model")
    np.save(folder / "prompt.npy", golden("tiny_prompt")["encoder/prompt/prompt/prompt"])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "task.gin").write_text(TASK)
    return folder
