"""The Python of docs/python.md runs, block after block, and prints what it should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {"__name__": "docs"}
    printed = []
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
        printed.append(capsys.readouterr().out)
    training, prompts, answers, steps = printed
    assert "exact_match" in training
    assert training.splitlines()[-1] == "['positive', 'negative']"
    assert prompts.startswith("(20, 128) demo_plot_or_review\n['positive', 'plot']\n")
    assert answers.startswith("positive\n['positive', ")
    numbered = [line.split()[0] for line in steps.splitlines() if line[:1].isdigit()]
    assert numbered == ["1", "2", "3"]
    assert Path("reviews.npy").exists()
