"""The page of error lines names messages that the code still has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pages import DOCS

ROOT = DOCS.parent
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)


def as_shown(node: ast.AST) -> str:
    """Returns a text of the code with `…` for each value that is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(as_shown(part) for part in node.values)
    return "…"


def messages_in(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {as_shown(node) for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant)}


@pytest.fixture(scope="module")
def messages() -> set[str]:
    folders = ("prompt_tuning_core", "libraries/*/src", "plugins/*/src")
    files = [file for folder in folders for file in ROOT.glob(f"{folder}/**/*.py")]
    return set().union(*map(messages_in, files))


def test_each_heading_is_a_message_of_the_code(messages: set[str]) -> None:
    assert len(HEADINGS) >= 50
    everything = "\n".join(messages)
    assert [heading for heading in HEADINGS if heading not in everything] == []
