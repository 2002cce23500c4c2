"""Checks that show whether a plugin keeps its contract. They need the package hypothesis."""

from __future__ import annotations

from prompt_tuning_testing.initializers import (
    INITIALIZER_CHECKS,
    Check,
    CheckResult,
    SampleTable,
    check_initializer,
)

__all__ = [
    "INITIALIZER_CHECKS",
    "Check",
    "CheckResult",
    "SampleTable",
    "check_initializer",
]
