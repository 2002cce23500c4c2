"""A tiny T5 with the reference's outputs, and the folder of a person who has it and a task."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
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


@pytest.fixture(scope="session")
def make_project(
    golden: Callable[[str], dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Puts a model, its vocabulary, a task and its data into a folder, or into a new one."""

    def make(folder: Path | None = None) -> Path:
        folder = folder or tmp_path_factory.mktemp("project")
        (folder / "model").mkdir()
        safetensors.numpy.save_file(golden("tiny_params"), folder / "model" / "model.safetensors")
        shutil.copy(golden_data.VOCABULARY, folder / "vocabulary.model")
        rows = "".join(json.dumps(row) + "\n" for row in ROWS)
        (folder / "rows.jsonl").write_text(rows)
        (folder / "task.gin").write_text(TASK)
        return folder

    return make


@pytest.fixture
def project(tmp_path: Path, make_project: Callable[..., Path]) -> Path:
    """The folder of one test."""
    return make_project(tmp_path)


@pytest.fixture
def run_here(
    main: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sequence[str], Path], subprocess.CompletedProcess[str]]:
    """Runs a command in a folder as `tiny.run_command` does, but in this process."""

    def run(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        return subprocess.CompletedProcess(arguments, *main(*arguments))

    return run
