"""A folder with a tiny model as T5X has it, and a task; and whether T5X is here at all."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# pytest's importlib mode leaves these folders off the path.
sys.path.insert(0, str(Path(__file__).parents[2] / "engine_local" / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from runs import make_project

_MISSING = [n for n in ("t5x", "flaxformer") if importlib.util.find_spec(n) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked `t5x` where they cannot run."""
    if not _MISSING:
        return
    reason = f"{' and '.join(_MISSING)} not installed; tests/t5x_environment.sh sets them up"
    for item in items:
        if item.get_closest_marker("t5x") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of one test."""
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the tests of a module."""
    return make_project(tmp_path_factory.mktemp("project"))
