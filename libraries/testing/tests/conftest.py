"""Fixtures for the tests of the kit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def new_module(
    main: Callable[..., tuple[int, str, str]],
) -> Callable[[str, str], ModuleType]:
    """Returns a function that writes a new project of a name and a kind, and loads its package."""

    def load(name: str, kind: str) -> ModuleType:
        code, _, error = main("new-plugin", name, f"--kind={kind}", "--folder=new")
        assert code == 0, error
        (file,) = Path("new", "src").glob("*/__init__.py")
        spec = importlib.util.spec_from_file_location(name.replace("-", "_"), file.absolute())
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
