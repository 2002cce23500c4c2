"""No function of the repository is longer than a screen; ruff counts statements, not lines."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 60
FOLDERS = (
    "prompt_tuning_core", "configs", "libraries", "plugins", "benchmarks", "docs", "scripts",
    "tests",
)  # fmt: skip


def too_long(source: str) -> list[str]:
    """Names the functions of a module that take more lines than `LIMIT`, docstrings included."""
    return [
        f"{node.name} ({lines} lines)"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LIMIT
    ]


@pytest.mark.parametrize(("lines", "found"), [(60, []), (61, ["f (61 lines)"])])
def test_the_limit(lines: int, found: list[str]) -> None:
    assert too_long("def f():\n" + "    pass\n" * (lines - 1)) == found


def test_no_function_is_longer() -> None:
    modules = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(modules) > 100
    long = {path: found for path in modules if (found := too_long(path.read_text("utf-8")))}
    assert not long
