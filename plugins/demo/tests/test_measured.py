"""Results that scripts measured once, in the demo's table and the documentation."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prompt_tuning_demo import (
    baselines,
    compare_initializers,
    demo_tasks,
    full_fine_tuning,
    model,
)
from prompt_tuning_tasks import TextTask

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("module", [baselines, compare_initializers], ids=lambda m: m.__name__)
def test_the_file_is_what_the_script_writes_about_this_base(module):
    content = json.loads(module.FILE.read_text())
    assert dataclasses.asdict(module.read()) == content
    assert content["made_by"] == f"python -m {module.__name__}"
    today = datetime.datetime.now(datetime.UTC).date()
    assert datetime.date(2026, 1, 1) < datetime.date.fromisoformat(content["date"]) <= today
    weights = Path(model.checkpoint_path()).read_bytes()
    assert content["base_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (content["task"], content["metric"]) == ("demo_reviews", "exact_match")


def test_the_baselines_were_chosen_on_the_validation_films():
    measured = baselines.read()
    assert measured.examples == {
        split: len(demo_tasks.DEMO_REVIEWS.examples(split))
        for split in ("train", "validation", "test")
    }
    tuned, counted = measured.baselines
    assert (tuned.name, counted.name) == ("full fine-tuning", "TF-IDF + logistic regression")
    assert (tuned.seeds, counted.seeds) == ([0, 1, 2], [])
    for one in (tuned, counted):
        assert len(one.held_out) == len(one.validation) == max(1, len(one.seeds))
        # More than always saying "positive" gets, and no more than anything here ever did.
        assert all(0.7 < value < 0.85 for value in (*one.held_out, *one.validation))
        best = max(one.tried, key=lambda choice: choice["validation"])
        assert one.validation[0] == best["validation"]
        assert all(
            one.settings[name] == best[name] for name in best.keys() - {"validation", "steps"}
        )


def test_the_initializers_were_compared_with_the_same_seeds():
    comparison = compare_initializers.read()
    assert [one.initializer for one in comparison.initializers] == [*compare_initializers.SCHEMES]
    for one in comparison.initializers:
        for values in (one.untrained, one.validation, one.held_out, one.steps_to_level):
            assert len(values) == len(comparison.seeds) == 3
        assert max(one.untrained) < min(one.validation)
        assert all(0.65 < value < 0.85 for value in (*one.validation, *one.held_out))
    table = compare_initializers.markdown(comparison)
    assert table in (ROOT / "docs" / "demo.md").read_text()


@pytest.fixture
def few_sentences(monkeypatch):
    """The demo's task with a few sentences that are trained on, chosen on and scored alike."""

    def rows():
        # Short ones alone, so that few lengths are compiled.
        short = [row for row in demo_tasks.review_rows("train") if len(row["text"]) < 45]
        return short[:48]

    few = TextTask(
        "demo_reviews",
        dict.fromkeys(("train", "validation", "test"), rows),
        inputs="{text}",
        targets="{label}",
    )
    monkeypatch.setattr(demo_tasks, "DEMO_REVIEWS", few)
    monkeypatch.setattr(baselines, "SEEDS", (4, 5))
    monkeypatch.setattr(baselines, "_LEARNING_RATES", (0.0, 1e-3))
    monkeypatch.setattr(baselines, "_DROPOUT_RATES", (0.1,))
    limits = functools.partial(full_fine_tuning.Limits, steps=20, warmup_steps=1, eval_period=10)
    monkeypatch.setattr(full_fine_tuning, "Limits", limits)


@pytest.mark.slow
def test_the_baselines_learn_and_are_written_as_the_file_is(few_sentences, tmp_path):
    baselines.main([f"--output={tmp_path / 'new.json'}"])
    written = baselines.read(tmp_path / "new.json")
    assert dataclasses.asdict(written) == json.loads((tmp_path / "new.json").read_text())
    assert written.examples == {"train": 48, "validation": 48, "test": 48}
    tuned, counted = written.baselines
    assert (tuned.seeds, len(tuned.held_out)) == ([4, 5], 2)
    untuned, learned = tuned.tried
    assert (untuned["learning_rate"], untuned["steps"]) == (0.0, 0)
    # What is trained on is learned by heart, and what does best is chosen.
    assert untuned["validation"] < 0.5
    assert learned["validation"] == tuned.validation[0] == tuned.held_out[0] > 0.9
    assert tuned.settings["learning_rate"] == 1e-3
    assert tuned.of_seed(5) == tuned.held_out[1]
    assert tuned.of_seed(0) is None
    assert counted.held_out == counted.validation == [1.0]
    assert counted.of_seed(0) == counted.mean == 1.0


def test_missing_scikit_learn_is_named_with_its_command(tmp_path):
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.argv[1:] = ['--output=new.json']; "
        "from prompt_tuning_demo import baselines, scripts; "
        "scripts.run('baselines', baselines.main)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stderr == (
        "baselines: error: TF-IDF and logistic regression need scikit-learn, which is not "
        "installed; install it with: pip install 'prompt-tuning-demo[baselines]'\n"
    )
    assert not [*tmp_path.iterdir()]
