"""The contracts of the kinds of plugins: their checks, and how to try a plugin with them.

The module of a kind is imported only when it is needed: the modules of initializers and prompts
import JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_testing import checks
from prompt_tuning_testing.checks import Check, CheckResults


class Contract(NamedTuple):
    """The contract of a kind of plugin.

    Attributes:
      checks: The checks, in the order of the clauses.
      subject: Makes the subject of the checks:
        `subject(plugin, arguments, seed=…, max_examples=…, …)`. An option of another kind is a
        TypeError, as in any call.
      examples: The default of `max_examples`.
    """

    checks: Sequence[Check[Any]]
    subject: Callable[..., Any]
    examples: int = 20


_MODULES = {
    "initializer": "initializers",
    "prompt": "prompt_modules",
    "engine": "engine_checks",
    "hooks": "hooks_checks",
    "configs": "configs_checks",
    "tasks": "tasks_checks",
    "format": "format_checks",
    "catalog": "catalog_checks",
    "command": "command_checks",
}

KINDS = tuple(_MODULES)
"""The kinds of plugins that have a contract."""


def contract_of(kind: str) -> Contract:
    """Returns the contract of a kind.

    Raises:
      InputError: If there is none.
    """
    if kind not in _MODULES:
        raise InputError(f"{kind!r} is no kind of plugin{nearest(kind, _MODULES)}")
    contract: Contract = importlib.import_module(f"{__package__}.{_MODULES[kind]}").CONTRACT
    return contract


def check_plugin(
    plugin: object,
    kind: str,
    arguments: Any = None,
    *,
    max_examples: int | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> CheckResults:
    """Checks the object of a plugin's entry point against the contract of its kind.

    Args:
      plugin: The object: a factory, a class or a module.
      kind: Its kind, such as `"format"`.
      arguments: The arguments to try it with, if neither its types nor its own attributes give
        them. A table in docs/plugins.md lists the arguments of each kind.
      max_examples: The most examples that each check draws; None for the default of the kind.
      seed: Determines the examples.
      expected_failures: The checks that the plugin is known to fail: reasons by the names of
        checks. If the plugin passes one of them, that is a failure.
      **options: Other options of its kind; see `check_initializer` and `check_prompt`.

    Returns:
      One result for each check of the kind; a test calls its `raise_if_failed()`.

    Raises:
      InputError: If there is no such kind, or the plugin cannot be tried without arguments.
    """
    contract = contract_of(kind)
    count = contract.examples if max_examples is None else max_examples
    subject = contract.subject(plugin, arguments, max_examples=count, seed=seed, **options)
    results = checks.run_all(
        contract.checks,
        subject,
        seed=seed,
        max_examples=count,
        expected_failures=expected_failures,
    )
    name = name_of(plugin)
    again = f"check_plugin({name}, {kind!r}, …, max_examples={count}, seed={seed})"
    return CheckResults(name, results, again)


def name_of(plugin: object) -> str:
    """Returns the name of a factory, a class or a module, for people."""
    for attribute in ("__qualname__", "__name__"):
        if hasattr(plugin, attribute):
            return str(getattr(plugin, attribute))
    return type(plugin).__name__
