"""Follows the pages for users to the letter: the tutorials, how-to, the notebook and examples/.

`helpers/pages.py` says what becomes of each kind of block. Every page but the first begins in the
folder that the page `your-own-task.md` leaves: its tables, its task and its run. That page is
followed once.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import notebooks
import pytest
from pages import DOCS, Main, Reader

from prompt_tuning_testing.pytest_plugin import Site

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

TASK = "tutorials/your-own-task.md"
FIRST = ("tutorials/first-prompt.md", TASK)
# test_author_docs.py follows it, in a shell of its own.
ELSEWHERE = "tutorials/first-initializer.md"
PAGES = [
    *FIRST,
    *sorted(
        {
            str(page.relative_to(DOCS))
            for part in ("tutorials", "how-to")
            for page in DOCS.glob(f"{part}/*.md")
        }
        - {*FIRST, ELSEWHERE}
    ),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a person who has followed `your-own-task.md`; empty until somebody has."""
    return tmp_path_factory.mktemp("begun")


@pytest.fixture
def reader(in_process: Site, main: Main, capsys: pytest.CaptureFixture[str]) -> Reader:
    """A reader in an empty folder."""
    return Reader(in_process, main, capsys)


@pytest.fixture
def begin(reader: Reader, begun: Path, in_process: Site) -> Callable[[], None]:
    """Returns a function that follows `your-own-task.md`, or copies what that left."""

    def follow() -> None:
        if any(begun.iterdir()):
            shutil.copytree(begun, in_process.cwd, dirs_exist_ok=True)
        else:
            reader.follow(TASK)
            shutil.copytree(in_process.cwd, begun, dirs_exist_ok=True)

    return follow


@pytest.mark.parametrize("page", PAGES)
def test_each_page_works(page: str, reader: Reader, begin: Callable[[], None]) -> None:
    if page != FIRST[0]:
        begin()
    if page != TASK:
        reader.follow(page)


def test_the_notebook_has_the_outputs_of_its_cells() -> None:
    notebook = json.loads((DOCS / "tutorials" / "from_python.ipynb").read_text(encoding="utf-8"))

    def outputs(of: dict[str, Any]) -> list[str]:
        # Numbers, the lengths of bars and near pieces differ from machine to machine.
        texts = [json.dumps(cell.get("outputs"), ensure_ascii=False) for cell in of["cells"]]
        return [re.sub(r"#+|\d+\.\d+|▁?(?:\w+|[^\w\s\"])(?=[ \\])", "_", text) for text in texts]

    assert outputs(notebooks.executed(notebook)) == outputs(notebook)


def test_the_examples_work(reader: Reader, in_process: Site) -> None:
    shutil.copytree(DOCS.parent / "examples", in_process.cwd, dirs_exist_ok=True)

    reader.follow("../examples/README.md")
    page = (DOCS.parent / "examples" / "README.md").read_text(encoding="utf-8")
    files = {file.name for file in (DOCS.parent / "examples").iterdir() if file.is_file()}
    assert files - {"README.md"} == set(re.findall(r"`(\w+\.(?:py|gin))`", page))
