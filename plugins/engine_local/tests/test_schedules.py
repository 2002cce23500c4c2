"""Learning rates by name: their values, and their effect on a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tiny import training_flags

from prompt_tuning_engine_local.model import schedules


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("constant", 4), {0: 0, 1: 0.2, 4: 0.8, 9: 0.8}),
        (("linear", 0, 8), {0: 0.8, 2: 0.6, 8: 0, 9: 0}),
        (("linear", 4, 8), {0: 0, 3: 0.6, 4: 0.8, 5: 0.6, 8: 0, 9: 0}),
        (("cosine", 0, 8), {0: 0.8, 2: 0.4 * (1 + math.sqrt(0.5)), 4: 0.4, 8: 0, 9: 0}),
        (("cosine", 4, 8), {0: 0, 2: 0.4, 4: 0.8, 6: 0.4, 8: 0}),
        # T5X's rsqrt_normalized_decay.
        (("rsqrt", 0), {0: 0.8, 1: 0.8, 4: 0.4, 16: 0.2}),
        (("rsqrt", 4), {0: 0, 2: 0.4, 4: 0.8, 16: 0.4, 64: 0.2}),
    ],
)
def test_the_values_of_a_schedule(settings, expected):
    schedule = schedules.learning_rate(0.8, *settings)
    found = [schedule(np.int32(step)) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-7)


def test_a_rate_that_never_changes_is_the_number():
    assert schedules.learning_rate(0.8) == 0.8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning")
def test_a_run_follows_the_schedule_and_keeps_the_rate_and_norms_of_each_step(project, run_here):
    flags = training_flags(
        LEARNING_RATE=0.8, LEARNING_RATE_SCHEDULE="linear", WARMUP_STEPS=2, DECAY_STEPS=4,
        SAVE_PERIOD=1,
    )  # fmt: skip
    finished = run_here(["train", *flags], project)
    assert finished.returncode == 0, finished.stderr
    rows = map(json.loads, (project / "run" / "metrics.jsonl").read_text().splitlines())
    steps = [row for row in rows if "train/loss" in row]
    np.testing.assert_allclose([row["train/learning_rate"] for row in steps], [0, 0.4, 0.8, 0.4])
    prompts = np.stack([np.load(project / "run" / f"prompt_{step}.npy") for step in range(5)])
    norms = np.sqrt(np.square(prompts[1:]).sum((1, 2)))
    np.testing.assert_allclose([row["train/prompt_norm"] for row in steps], norms, rtol=1e-6)
    assert all(row["train/gradient_norm"] > 0 for row in steps)
    # Of the first update only the weight decay is left at rate 0.
    moved = np.abs(np.diff(prompts, axis=0)).max((1, 2))
    assert moved[0] < 1e-3 < min(moved[1:])
