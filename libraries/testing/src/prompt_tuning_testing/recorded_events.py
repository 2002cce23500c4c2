"""A hooks plugin that records the events of a run, for tests: `--hooks=recorded_events`.

It records the events in its own process: a test clears them, runs an engine in the same process,
and reads the events.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prompt_tuning_core.hookspecs import hookimpl

NAME = "recorded_events"
"""The name of this plugin."""


class Event(NamedTuple):
    """A call of a hook.

    Attributes:
      hook: Its name.
      arguments: Its arguments by name. They are copies, apart from `run`.
    """

    hook: str
    arguments: Mapping[str, Any]


events: list[Event] = []
"""The events since `clear`."""


@dataclasses.dataclass
class Plan:
    """The accidents of the next run.

    Attributes:
      fails_at: A hook that raises a `RuntimeError`; "" for none.
      ends_at_step: The step at which `step_logged` returns True; None for none.
    """

    fails_at: str = ""
    ends_at_step: int | None = None


_plan = Plan()


def clear(*, fails_at: str = "", ends_at_step: int | None = None) -> None:
    """Forgets the events, and sets the accidents of the next run, as `Plan` says."""
    events.clear()
    _plan.fails_at, _plan.ends_at_step = fails_at, ends_at_step


def _record(hook: str, **arguments: Any) -> None:
    kept = {n: v if n == "run" else copy.deepcopy(v) for n, v in arguments.items()}
    events.append(Event(hook, kept))
    if hook == _plan.fails_at:
        raise RuntimeError(f"{NAME} fails at {hook}, as its plan says")


@hookimpl
def prompt_initialized(
    prompt: Any, parameters: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Records the event."""
    _record("prompt_initialized", prompt=prompt, parameters=parameters, provenance=provenance)


@hookimpl
def step_logged(step: int, metrics: Mapping[str, float]) -> bool | None:
    """Records the event; ends the run at the step that was set."""
    _record("step_logged", step=step, metrics=metrics)
    is_last = _plan.ends_at_step is not None and step >= _plan.ends_at_step
    return True if is_last else None


@hookimpl
def evaluated(step: int, metrics: Mapping[str, float]) -> None:
    """Records the event."""
    _record("evaluated", step=step, metrics=metrics)


@hookimpl
def prompt_saved(paths: Sequence[Any], provenance: Mapping[str, Any]) -> None:
    """Records the event."""
    _record("prompt_saved", paths=paths, provenance=provenance)


@hookimpl
def run_finished(run: object) -> None:
    """Records the event."""
    _record("run_finished", run=run)
