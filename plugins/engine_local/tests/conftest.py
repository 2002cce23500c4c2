"""A tiny T5 with the reference's outputs, and the folder of a person who has it and a task."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import golden_data
import numpy as np
import pytest
import safetensors.numpy

# pytest's importlib mode leaves this folder off the path.
sys.path.insert(0, str(Path(__file__).parent))

from tiny import ROWS, TASK

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Reads one of the reference's files; see the README of tests/golden."""

    def load(name: str) -> dict[str, np.ndarray]:
        return golden_data.read(name, GOLDEN)

    return load


@pytest.fixture
def project(tmp_path: Path, golden: Callable[[str], dict[str, np.ndarray]]) -> Path:
    """A folder with a model, its vocabulary, a task and its data."""
    (tmp_path / "model").mkdir()
    safetensors.numpy.save_file(golden("tiny_params"), tmp_path / "model" / "model.safetensors")
    shutil.copy(golden_data.VOCABULARY, tmp_path / "vocabulary.model")
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "task.gin").write_text(TASK)
    return tmp_path
