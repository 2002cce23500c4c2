"""Models and an adapter as Hugging Face's libraries saved them, and what those computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import golden_data
import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Reads one of the files of outputs; see the README of tests/golden."""

    def load(name: str) -> dict[str, np.ndarray]:
        return golden_data.read(name, GOLDEN)

    return load


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a directory of tests/golden to where it may be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(GOLDEN / name, tmp_path / name))

    return copy
