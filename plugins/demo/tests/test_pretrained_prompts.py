"""The prompts that the demo carries, called by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_tuning_demo import model
from prompt_tuning_demo.demo_tasks import DEMO_PLOT_OR_REVIEW, DEMO_REVIEWS
from prompt_tuning_files import formats, names
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

NAMES = {f"demo/{task.name}" for task in (DEMO_REVIEWS, DEMO_PLOT_OR_REVIEW)}


def carried():
    carriers = [one for one in names.prompts() if one.distribution == "prompt-tuning-demo"]
    return {one.entry.name: one.entry.locate() for one in carriers}


def scores():
    """Maps each prompt in the README's table to its score and how many sentences that is of."""
    text = Path(carried()["demo/demo_reviews"]).with_name("README.md").read_text()
    rows = re.findall(r"(?m)^\| `(\S+)` \|[^|]*\| ([\d.]+) of ([\d,]+) sentences", text)
    return {name: (float(score), int(count.replace(",", ""))) for name, score, count in rows}


def test_each_task_has_a_prompt_for_the_model_that_is_carried():
    assert set(carried()) == set(scores()) == NAMES
    for name in NAMES:
        prompt = formats.read_prompt(name)
        facts = prompt.provenance
        assert prompt.array.shape == (20, 128)
        assert name == f"demo/{facts['task']['name']}"
        vocabulary = SentencePieceVocabulary(model.vocabulary_path())
        assert facts["vocabulary"]["sha256"] == vocabulary.sha256
        # Of this distribution, not of the machine that trained it.
        for part in ("model", "vocabulary"):
            assert facts[part]["path"].startswith("prompt_tuning_demo/model/")


@pytest.mark.slow
def test_the_score_in_the_table_is_what_the_prompt_reaches(tmp_path):
    process = subprocess.run(
        [
            sys.executable,
            *("-m", "prompt_tuning_core", "eval"),
            "--gin_file=models/demo_prompt.gin",
            "--gin_file=runs/prompt_eval.gin",
            "--gin.PROMPT_FILE='demo/demo_reviews'",
            "--gin.MIXTURE_OR_TASK_NAME='demo_reviews'",
            "--gin.MIXTURE_OR_TASK_MODULE='demo_tasks'",
            "--gin.EVAL_OUTPUT_DIR='scores'",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    measured = json.loads((tmp_path / "scores" / "demo_reviews-test-metrics.json").read_text())
    score, count = scores()["demo/demo_reviews"]
    assert measured["examples"] == count
    # Other versions of JAX may sum in another order: 3 of the 1,378 sentences.
    assert abs(measured["exact_match"] - score) < 0.003
