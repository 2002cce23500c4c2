"""The checks of a plugin as tests of pytest, each with an id of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_testing import checks
from prompt_tuning_testing.checks import Check, CheckResults
from prompt_tuning_testing.initializers import INITIALIZER_CHECKS, initializer_subject
from prompt_tuning_testing.prompt_modules import PROMPT_CHECKS, prompt_subject
from prompt_tuning_testing.sample_values import Arguments

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    factory: Callable[..., Any],
    arguments: Arguments | None = None,
    *,
    max_examples: int | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> pytest.MarkDecorator:
    """Makes a test of each check: the test function gets it as `check`, and calls it.

    The ids are the names of the checks, so that `-k other_process` runs one. A check that is
    expected to fail is a strict xfail.

    ```
    @parametrize_with_checks(init_ramp, {"top": 0.5})
    def test_contract(check):
        check()
    ```

    Args:
      factory: A factory of initializers, as for `check_initializer`, or a class of prompt modules,
        as for `check_prompt`.
      arguments: Its keyword arguments, or the fields of the prompt module.
      max_examples: The most examples that each check draws; None for the default of the kind.
      seed: Determines the examples.
      expected_failures: Reasons by the names of checks that the factory is known to fail.
      **options: The other arguments of `check_initializer` or of `check_prompt`.
    """
    import pytest

    all_checks, subject, count = _checks_of(factory, arguments, max_examples, seed, options)
    name = getattr(factory, "__qualname__", repr(factory))
    reasons = expected_failures or {}

    def test_of(check: Check[Any]) -> Callable[[], None]:
        def run() -> None:
            result = checks.run(check, subject, seed=seed, max_examples=count)
            if result.outcome == "not tried":
                pytest.skip(result.detail)
            CheckResults(name, [result], f"pytest -k {check.name}").raise_if_failed()

        return run

    def marks_of(check: Check[Any]) -> list[pytest.MarkDecorator]:
        reason = reasons.get(check.name)
        return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]

    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(test_of(check), id=check.name, marks=marks_of(check))
            for check in all_checks
        ],
    )


def _checks_of(
    factory: Any, arguments: Any, max_examples: int | None, seed: int, options: Mapping[str, Any]
) -> tuple[Sequence[Check[Any]], Any, int]:
    """Returns the checks of a kind, what they try, and the number of examples."""
    if isinstance(factory, type) and issubclass(factory, PromptModule):
        if callable(arguments):
            raise TypeError("the fields of a prompt module are a mapping, and no function")
        subject = prompt_subject(factory, arguments, seed=seed, **options)
        return PROMPT_CHECKS, subject, max_examples or 4
    count = max_examples or 20
    initializers = initializer_subject(factory, arguments, max_examples=count, seed=seed, **options)
    return INITIALIZER_CHECKS, initializers, count
