"""Prints the largest difference of the embedded engine from the reference, for each test.

The tests compare with arrays that google-research/prompt-tuning computed (`tests/golden`). They
pass within their tolerances; this script prints the differences that they found.

    python benchmarks/parity.py
"""

from __future__ import annotations

import argparse
import collections
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import results

COMPARE = np.testing.assert_allclose
ROOT = Path(__file__).parents[1]
TESTS = {
    "tests/test_initializer_parity.py": ("uniform", "vocab", "labels", "string", "file"),
    "plugins/engine_local/tests/test_parity.py": (
        "logits_and_encoder_outputs", "losses", "gradient_of_the_prompt", "greedy_tokens", "beams",
        "adafactor_follows_the_references_trajectory",
        "adafactor_takes_t5xs_steps_factored_and_not",
    ),
}  # fmt: skip


class Differences:
    """A pytest plugin that records the differences that each test finds."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = collections.defaultdict(list)
        self._test = ""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Notes the name of the next test."""
        self._test = item.name.partition("[")[0]

    def assert_allclose(self, found: Any, expected: Any, **tolerances: Any) -> None:
        """Replaces NumPy's; records the difference, relative to the largest expected value."""
        COMPARE(found, expected, **tolerances)
        found, expected = np.broadcast_arrays(found, expected)
        finite = np.isfinite(expected)
        found, expected = (array[finite].astype(np.float64) for array in (found, expected))
        scale = np.abs(expected).max(initial=0.0) or 1.0
        self.found[self._test].append(float(np.abs(found - expected).max(initial=0.0) / scale))

    def assert_array_equal(self, found: Any, expected: Any) -> None:
        """Replaces NumPy's, with no difference allowed."""
        self.assert_allclose(found, expected, rtol=0)


def main() -> int:
    """Runs the tests and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_output_flag(parser, "parity")
    arguments = parser.parse_args()
    differences = Differences()
    tests = [f"{ROOT / file}::test_{name}" for file, names in TESTS.items() for name in names]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("assert_allclose", "assert_array_equal"):
            patch.setattr(np.testing, name, getattr(differences, name))
        code = pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[differences])
    figures = {name: max(values) for name, values in differences.found.items()}
    results.write(arguments, {"largest_relative_difference": figures})
    rows = [[name, f"{value:.1e}"] for name, value in figures.items()]
    print(results.table(["test", "largest difference"], rows))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
