"""The checks of a plugin as tests of pytest, each with an id of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prompt_tuning_testing import checks
from prompt_tuning_testing.checks import Check, CheckResults
from prompt_tuning_testing.contracts import contract_of, name_of

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    plugin: object,
    arguments: Any = None,
    *,
    kind: str | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> pytest.MarkDecorator:
    """Makes a test of each check; the test function gets the check as `check`, and calls it.

    The ids are the names of the checks, so that `-k other_process` runs one. A check that is
    expected to fail is a strict xfail.

    ```
    @parametrize_with_checks(init_ramp, {"top": 0.5})
    def test_contract(check):
        check()
    ```

    Args:
      plugin: The object of the plugin's entry point: a factory, a class or a module.
      arguments: The arguments to try it with, as for `check_plugin`.
      kind: Its kind; None for a class of prompt modules or a factory of initializers.
      max_examples: The most examples that each check draws; None for the default of the kind.
      seed: Determines the examples.
      expected_failures: The checks that the plugin is known to fail: reasons by the names of
        checks.
      **options: The other options of `check_plugin`.

    Raises:
      InputError: In the cases of `check_plugin`.
    """
    import pytest

    contract = contract_of(kind or _kind_of(plugin))
    count = contract.examples if max_examples is None else max_examples
    subject = contract.subject(plugin, arguments, max_examples=count, seed=seed, **options)
    name = name_of(plugin)
    reasons = expected_failures or {}

    def run(check: Check[Any]) -> None:
        result = checks.run(check, subject, seed=seed, max_examples=count)
        if result.outcome == "not tried":
            pytest.skip(result.detail)
        CheckResults(name, [result], f"pytest -k {check.name}").raise_if_failed()

    def marks_of(check: Check[Any]) -> list[pytest.MarkDecorator]:
        reason = reasons.get(check.name)
        return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]

    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(functools.partial(run, check), id=check.name, marks=marks_of(check))
            for check in contract.checks
        ],
    )


def _kind_of(plugin: object) -> str:
    from prompt_tuning_core.prompts import PromptModule

    is_prompt = isinstance(plugin, type) and issubclass(plugin, PromptModule)
    return "prompt" if is_prompt else "initializer"
