"""Checks of a plugin, one for each clause of its kind's contract, and their results.

A check tries examples, and the seed alone determines them. So hypothesis only draws booleans: it
would take some numbers from the modules of the plugin's author.
"""

from __future__ import annotations

import dataclasses
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from prompt_tuning_core.errors import PromptTuningError
from prompt_tuning_testing.watching import restored

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

S = TypeVar("S")
"""The type of the subject that a check tries."""

Outcome = Literal["passed", "failed", "not tried", "expected failure"]


class BrokenClauseError(AssertionError):
    """A clause does not hold for an example."""


class NotTriedError(Exception):
    """A check cannot be tried here; the message is the reason."""


class ContractError(AssertionError):
    """A plugin breaks its contract; the message is the table of the results."""


@dataclasses.dataclass(frozen=True)
class Check(Generic[S]):
    """A clause of a contract.

    Attributes:
      name: Its name.
      clause: Its number in the contract.
      statement: The clause in a sentence.
      run: Tries one example `(subject, example)`; raises if the clause does not hold for it.
      examples: Makes the strategy of the examples for a subject. None if there is a single example,
        None.
      first: Makes the examples that are always tried, before the examples of the strategy.
      most: The largest number of examples for this check, if it is slow.
      is_needed: True if the other checks cannot be tried after this one has failed.
    """

    name: str
    clause: int
    statement: str
    run: Callable[[S, Any], None]
    examples: Callable[[S], SearchStrategy[Any]] | None = None
    first: Callable[[S], Sequence[Any]] = lambda subject: ()
    most: int | None = None
    is_needed: bool = False


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
      name: The check's name.
      clause: The number of the contract's clause.
      statement: The clause.
      outcome: "passed", "failed", "not tried", or "expected failure".
      detail: The smallest failing example and what happened, or the reason; "" if it passed.
      examples: Number of examples tried.
    """

    name: str
    clause: int
    statement: str
    outcome: Outcome
    detail: str
    examples: int

    @property
    def passed(self) -> bool:
        """False if the check failed; a check that could not be tried did not fail."""
        return self.outcome != "failed"


class CheckResults(Sequence[CheckResult]):
    """The results of all checks of one plugin; `print` shows them as a table.

    Args:
      subject: The name of the plugin.
      results: One for each check, in the contract's order.
      again: The call that runs the checks again with the same examples.
    """

    def __init__(self, subject: str, results: Sequence[CheckResult], again: str) -> None:
        self.subject = subject
        self._results = tuple(results)
        self.again = again

    @overload
    def __getitem__(self, index: int) -> CheckResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CheckResult]: ...
    def __getitem__(self, index: int | slice) -> CheckResult | Sequence[CheckResult]:
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    @property
    def failed(self) -> list[CheckResult]:
        """The results of the checks that failed."""
        return [result for result in self if not result.passed]

    def raise_if_failed(self) -> None:
        """Raises a `ContractError` with the table, if a check failed."""
        if self.failed:
            raise ContractError(str(self))

    def __str__(self) -> str:
        """Returns the table: the failed checks first, each with its example."""
        failed = len(self.failed)
        summary = f"breaks {failed} of {len(self)} clauses" if failed else "keeps its contract"
        lines = [f"{self.subject} {summary}"]
        for result in sorted(self, key=lambda result: result.passed):
            by_outcome = {"passed": f"{result.examples} tried", "not tried": result.detail}
            tried = by_outcome.get(result.outcome, "")
            lines.append(f"  {result.outcome:<16}  {result.clause}  {result.name:<24}  {tried}")
            if result.outcome not in by_outcome:
                said = f"{result.statement}: {result.detail}"
                lines += textwrap.wrap(said, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        if failed:
            lines.append(f"again: {self.again}")
        return "\n".join(line.rstrip() for line in lines)


def integers(least: int, most: int) -> SearchStrategy[int]:
    """Returns a strategy for whole numbers from `least` to `most` that draws booleans only."""
    from hypothesis import strategies

    span = most - least + 1
    bits = strategies.tuples(*[strategies.booleans()] * (span - 1).bit_length())
    return bits.map(lambda drawn: least + sum(b << n for n, b in enumerate(drawn)) % span)


def run_all(
    checks: Sequence[Check[S]],
    subject: S,
    *,
    seed: int = 0,
    max_examples: int = 20,
    expected_failures: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Runs all checks of a kind, in order; see `run`."""
    results: list[CheckResult] = []
    failed = ""
    for check in checks:
        if failed:
            reason = f"{failed} failed"
            results.append(
                CheckResult(check.name, check.clause, check.statement, "not tried", reason, 0)
            )
            continue
        result = run(
            check,
            subject,
            seed=seed,
            max_examples=max_examples,
            expected_failures=expected_failures,
        )
        results.append(result)
        if check.is_needed and not result.passed:
            failed = check.name
    return results


def run(
    check: Check[S],
    subject: S,
    *,
    seed: int = 0,
    max_examples: int = 20,
    expected_failures: Mapping[str, str] | None = None,
) -> CheckResult:
    """Tries the examples of one check, and returns its result.

    Args:
      check: The check.
      subject: The subject to check.
      seed: Determines the examples.
      max_examples: The most examples.
      expected_failures: The checks that must fail: reasons by the names of checks.
    """
    tried: list[Any] = []

    def attempt(example: Any) -> None:
        tried.append(example)
        with restored(), warnings.catch_warnings():
            # A plugin may warn, for example that it draws some rows twice.
            warnings.simplefilter("ignore")
            check.run(subject, example)

    outcome: Outcome = "passed"
    detail = ""
    try:
        for example in check.first(subject):
            attempt(example)
        if check.examples is None:
            attempt(None)
        else:
            _drawn(check.examples(subject), attempt, seed, min(max_examples, check.most or 10**9))
    except NotTriedError as error:
        outcome, detail = "not tried", str(error)
    except Exception as error:  # A plugin may raise anything; the result reports it.
        # The last example tried is the smallest that hypothesis found.
        is_told = isinstance(error, BrokenClauseError | PromptTuningError)
        found = str(error) if is_told else repr(error)
        example = tried[-1] if tried else None
        outcome, detail = "failed", found if example is None else f"{example}: {found}"
    reason = (expected_failures or {}).get(check.name)
    if reason is not None and outcome == "failed":
        outcome, detail = "expected failure", f"{reason} ({detail})"
    elif reason is not None and outcome == "passed":
        outcome, detail = "failed", f"passes, and is declared to fail: {reason}"
    return CheckResult(check.name, check.clause, check.statement, outcome, detail, len(tried))


def _drawn(
    strategy: SearchStrategy[Any], attempt: Callable[[Any], None], seed: int, count: int
) -> None:
    import hypothesis

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    @hypothesis.given(strategy)
    def examples(example: Any) -> None:
        attempt(example)

    examples()


def collected(strategy: SearchStrategy[S], seed: int, count: int) -> Iterator[S]:
    """Yields different examples of a strategy, at most `count`."""
    found: list[S] = []
    _drawn(strategy, lambda one: found.append(one) if one not in found else None, seed, count)
    yield from found


def require(condition: object, found: str) -> None:
    """Raises a `BrokenClauseError` with what was found, if the condition does not hold."""
    if not condition:
        raise BrokenClauseError(found)
