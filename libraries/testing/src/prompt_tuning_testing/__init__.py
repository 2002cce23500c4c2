"""Checks that show whether a plugin keeps its contract. They need the package hypothesis."""

from __future__ import annotations

from prompt_tuning_testing.checks import (
    Check,
    CheckResult,
    CheckResults,
    ContractError,
)
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
    "check_prompt",
    "parametrize_with_checks",
]
