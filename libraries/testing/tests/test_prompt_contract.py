"""The contract of prompt modules: each check finds its faults, and our own modules pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest's importlib mode leaves this folder off the path.
sys.path.insert(0, str(Path(__file__).parent))

import planted_prompts as planted

from prompt_tuning_core import registry
from prompt_tuning_testing import PROMPT_CHECKS, checks, parametrize_with_checks
from prompt_tuning_testing.prompt_modules import prompt_subject
from prompt_tuning_testing.strange_prompt import Strange

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

BY_NAME = {check.name: check for check in PROMPT_CHECKS}
FIRST_PARTY = [
    plugin.name
    for plugin in registry.Registry().discover()
    if plugin.kind == "prompt" and plugin.distribution.startswith("prompt-tuning-prompt-")
    # The test of the command tries this one.
    if plugin.name != "prompt_multitask"
]


@pytest.mark.parametrize("case", planted.PLANTED, ids=lambda case: case.module.__name__)
def test_each_planted_fault_is_found_by_its_check(case):
    result = checks.run(BY_NAME[case.check], prompt_subject(case.module), max_examples=4)
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in planted.PLANTED} == BY_NAME.keys() - {"flaxformer"}


@pytest.mark.t5x
def test_a_module_that_differs_under_flaxformer_is_found():
    pytest.importorskip("flaxformer", reason="tests/t5x_environment.sh sets up Flaxformer")
    result = checks.run(BY_NAME["flaxformer"], prompt_subject(planted.OtherUnderFlaxformer))
    assert "logits under Flaxformer, and in the engine local" in result.detail


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_our_own_modules_keep_the_contract(name):
    subject = prompt_subject(registry.process_registry().load("prompt", name))
    # `tests/test_variants.py`, and the tests of the engine for T5X, try them in whole models.
    tried = [check for check in PROMPT_CHECKS if check.name not in ("cached", "flaxformer")]
    results = checks.run_all(tried, subject, max_examples=2)
    assert [result for result in results if result.outcome != "passed"] == []


@pytest.mark.t5x
def test_one_of_our_own_is_the_same_under_flaxformer():
    pytest.importorskip("flaxformer", reason="tests/t5x_environment.sh sets up Flaxformer")
    subject = prompt_subject(registry.process_registry().load("prompt", "prompt_deep"))
    assert checks.run(BY_NAME["flaxformer"], subject).outcome == "passed"


def test_there_are_six_more_of_our_own():
    assert len(FIRST_PARTY) == 6


@parametrize_with_checks(Strange, max_examples=2)
def test_a_strangers_module_keeps_the_contract(check):
    check()
