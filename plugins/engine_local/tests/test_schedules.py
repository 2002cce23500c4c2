"""The values of learning rates by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
