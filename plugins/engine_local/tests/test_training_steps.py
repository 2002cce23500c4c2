"""The steps of one run: its curves, and the same run with its batches in parts."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from tiny import training_flags

from prompt_tuning_core.commands.main import main as run_main
from prompt_tuning_engine_local.model import microbatches

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]

FLAGS = training_flags(
    LEARNING_RATE=0.8, LEARNING_RATE_SCHEDULE="linear", WARMUP_STEPS=2, DECAY_STEPS=4,
    LOSS_NORMALIZING_FACTOR="AVERAGE_PER_SEQUENCE", BATCH_SIZE=4, DROPOUT_RATE=0.0,
    BUCKETING=False, SAVE_PERIOD=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run_once(make_project):
    folder = make_project()
    with contextlib.chdir(folder):
        assert run_main(["train", *FLAGS]) == 0
    return folder


def steps_of(run):
    """Returns the metrics of each step, without the time that it took."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [row for row in rows if "train/loss" in row]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in steps]


def prompts_of(run):
    return np.stack([np.load(run / f"prompt_{step}.npy") for step in range(5)])


def test_the_curves_have_the_rate_of_each_step_and_the_norms(run_once):
    steps, prompts = steps_of(run_once / "run"), prompts_of(run_once / "run")
    np.testing.assert_allclose([row["train/learning_rate"] for row in steps], [0, 0.4, 0.8, 0.4])
    norms = np.sqrt(np.square(prompts[1:]).sum((1, 2)))
    np.testing.assert_allclose([row["train/prompt_norm"] for row in steps], norms, rtol=1e-6)
    assert all(row["train/gradient_norm"] > 0 for row in steps)
    # Of the first update only the weight decay is left at rate 0.
    moved = np.abs(np.diff(prompts, axis=0)).max((1, 2))
    assert moved[0] < 1e-3 < min(moved[1:])


def test_a_run_in_parts_is_the_run_of_whole_batches(run_once, run_here, monkeypatch):
    numbers, in_parts = [], microbatches.loss_in_parts
    monkeypatch.setattr(
        microbatches, "loss_in_parts", lambda *args: numbers.append(args[-1]) or in_parts(*args)
    )
    flags = ["--gin.NUM_MICROBATCHES=2", "--gin.MODEL_DIR='parts'"]
    finished = run_here(["train", *FLAGS, *flags], run_once)
    assert finished.returncode == 0, finished.stderr
    assert set(numbers) == {2}
    whole, parts = run_once / "run", run_once / "parts"
    expected = prompts_of(whole)
    np.testing.assert_allclose(
        prompts_of(parts), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
    for found, row in zip(steps_of(parts), steps_of(whole), strict=True):
        assert found == pytest.approx(row, rel=1e-4)
