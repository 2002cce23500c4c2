"""Checks that a plugin keeps its contract. They need the package hypothesis.

A name is imported only when it is used. The reason is that pytest imports this package in every
session, for its fixtures, and that the import of JAX takes half a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_tuning_testing.checks import (
        Check,
        CheckResult,
        CheckResults,
        ContractError,
    )
    from prompt_tuning_testing.contracts import check_plugin
    from prompt_tuning_testing.initializers import INITIALIZER_CHECKS, check_initializer
    from prompt_tuning_testing.parametrizing import parametrize_with_checks
    from prompt_tuning_testing.prompt_modules import PROMPT_CHECKS, check_prompt
    from prompt_tuning_testing.sample_values import Samples, SampleTable, SampleVocabulary

__all__ = [
    "INITIALIZER_CHECKS",
    "PROMPT_CHECKS",
    "Check",
    "CheckResult",
    "CheckResults",
    "ContractError",
    "SampleTable",
    "SampleVocabulary",
    "Samples",
    "check_initializer",
    "check_plugin",
    "check_prompt",
    "parametrize_with_checks",
]

_MODULES = (
    "checks", "contracts", "initializers", "parametrizing", "prompt_modules", "sample_values",
)  # fmt: skip


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
