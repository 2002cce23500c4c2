"""Both engines' Adafactor takes the same steps, in sizes that are factored and in others."""

from __future__ import annotations

import adafactor_cases
import numpy as np
import pytest
from golden_arrays import WARNINGS

pytestmark = [
    pytest.mark.t5x,
    # T5X's MultiOptimizer is made of them.
    pytest.mark.filterwarnings("ignore:`flax.traverse_util.Traversal`:DeprecationWarning"),
    *WARNINGS,
]


@pytest.mark.parametrize("case", adafactor_cases.CASES)
def test_the_local_engine_takes_t5xs_steps(case):
    import t5x_adafactor

    setting, shape = adafactor_cases.CASES[case]
    np.testing.assert_allclose(
        adafactor_cases.local_prompts(setting, shape),
        t5x_adafactor.prompts(setting, shape),
        rtol=1e-5,
        atol=1e-5,
    )
