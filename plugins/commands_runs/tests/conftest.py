"""Directories of runs, written as the embedded engine writes them, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import golden_data
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning_files import prompt_files, run_files
from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

CONFIG = """\
from __gin__ import dynamic_registration
from prompt_tuning_core import plugins
from prompt_tuning_core import prompts

# Macros:
MODEL_DIR = {directory!r}
RANDOM_SEED = {seed}
BATCH_SIZE = {batch_size}

MODEL/prompts.make.prompt_init = @prompt_init/plugins.{initializer}()
prompt_init/plugins.{initializer}.scale = {scale}
options.TrainingOptions.best_metric = {best_metric!r}
options.TrainingOptions.best_is_lowest = None
options.TrainingOptions.eval_split = 'validation'
options.TrainingOptions.model_dir = \\
    %MODEL_DIR
options.TrainingOptions.random_seed = %RANDOM_SEED
"""

SETTINGS = {
    "seed": 0, "task": "reviews", "initializer": "init_random", "scale": 0.5, "batch_size": 4,
    "best_metric": None, "has_ended": True,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> dict[str, Any]:
    """A model with random embeddings of width 4 and its vocabulary, as a run's facts name them."""
    shutil.copy(golden_data.VOCABULARY, tmp_path / "vocabulary.model")
    vocabulary = SentencePieceVocabulary(tmp_path / "vocabulary.model")
    rows = np.random.default_rng(7).standard_normal((vocabulary.vocab_size, 4))
    table = {EMBEDDING_VARIABLE: rows.astype(np.float32)}
    safetensors.numpy.save_file(table, tmp_path / "model.safetensors")
    return {
        "model": {"path": str(tmp_path / "model.safetensors"), "sha256": "a" * 64},
        "vocabulary": {
            "path": str(tmp_path / "vocabulary.model"),
            "sha256": vocabulary.sha256,
            "size": vocabulary.vocab_size,
        },
    }


@pytest.fixture
def make_run(model: Mapping[str, Any]) -> Callable[..., Path]:
    """Returns a function that writes the directory of a run.

    It takes the directory, the lines of metrics, prompts by step, and values for `SETTINGS`.
    """

    def make(
        directory: Path,
        lines: Sequence[run_files.Logged],
        prompts: Mapping[int, np.ndarray] | None = None,
        **changes: Any,
    ) -> Path:
        values = SETTINGS | changes
        directory.mkdir(parents=True)
        facts = {
            **model,
            "task": {"name": values["task"], "training_examples_sha256": "b" * 64},
            "prompt_module": {"plugin": "prompt_basic", "fields": {}},
            "seed": values["seed"],
            "plugins": [{"kind": "prompt", "name": "p", "distribution": "ours", "version": "1.0"}],
            "versions": {"numpy": "2.0"},
        }
        run_files.write_run(directory, facts)
        config = CONFIG.format(directory=str(directory), **values)
        (directory / run_files.CONFIG_FILE).write_text(config)
        if values["has_ended"]:
            last = lines[-1]
            lines = [*lines, run_files.Logged(last.step, {}, last.seconds, has_ended=True)]
        text = "".join(line.line() for line in lines)
        (directory / run_files.METRICS_FILE).write_text(text)
        for step, array in (prompts or {}).items():
            prompt_files.save(directory / f"prompt_{step}.npy", array, {**facts, "step": step})
        return directory

    return make


@pytest.fixture
def answer() -> Callable[..., None]:
    """Returns a function that writes the predictions of a split into a run's directory."""

    def write(directory: Path, rows: Sequence[Mapping[str, Any]], task: str = "reviews") -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{task}-validation-predictions.jsonl").write_text(lines)
        facts = {"task": task, "split": "validation", "examples": len(rows)}
        prompt_files.write_json(directory / f"{task}-validation-metrics.json", facts)

    return write
