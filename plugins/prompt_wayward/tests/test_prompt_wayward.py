"""Wayward prompts: the distance from the target, which is not trained."""

from __future__ import annotations

import numpy as np
import pytest
from bound_prompts import P, called, made, normal

from prompt_tuning_core.errors import InputError
from prompt_tuning_prompt_wayward import PromptWayward


def test_the_distance_is_in_penalty_and_report():
    module, parameters = made(PromptWayward(P, prompt_init=normal, target_init=normal, gamma=0.25))
    assert sorted(parameters) == ["prompt", "target"]
    assert [module.is_trained(name) for name in sorted(parameters)] == [True, False]
    difference = parameters["prompt"] - parameters["target"]
    distance = (difference.astype(np.float64) ** 2).sum() / P
    np.testing.assert_allclose(called(module, parameters, "penalty"), 0.25 * distance, rtol=1e-5)
    report = called(module, parameters, "report")
    np.testing.assert_allclose(report["distance"], distance, rtol=1e-5)
    np.testing.assert_array_equal(called(module, parameters, "matrix"), parameters["prompt"])


def test_a_target_is_needed():
    with pytest.raises(InputError, match="parameter 'target' of the prompt has no initializer"):
        made(PromptWayward(P, prompt_init=normal))
