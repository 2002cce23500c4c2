"""The engine keeps the contract of engines, on the tiny T5 as T5X saves it."""

from __future__ import annotations

import pytest
import runs

from prompt_tuning_core import registry
from prompt_tuning_testing import check_plugin

pytestmark = [pytest.mark.t5x, pytest.mark.slow]


def sample_flags(folder):
    runs.make_project(folder)
    return {
        "train": runs.training_flags(TRAIN_STEPS=2, EVAL_PERIOD=2),
        "eval": runs.evaluation_flags(),
    }


def test_the_engine_keeps_the_contract():
    engine = registry.process_registry().load("engine", "t5x")
    results = check_plugin(engine, "engine", sample_flags)
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}
