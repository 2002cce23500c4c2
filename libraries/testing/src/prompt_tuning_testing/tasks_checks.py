"""The contract of modules that register tasks, as checks.

They try the text tasks of `prompt_tuning_tasks`. Another process finds the tasks that a module
registers: in this process, others may be registered too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import InputError, PromptTuningError, one_line
from prompt_tuning_core.kinds import KINDS
from prompt_tuning_tasks import metrics
from prompt_tuning_testing import child_processes, watching
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract

_MOST = 20
"""Number of examples that are tried of each split."""

_NAME = re.compile(r"[\w.:]+")  # The names that seqio, and so T5X, allows.


class Imported(NamedTuple):
    """The effects of importing a module in a new process.

    Attributes:
      names: The text tasks and mixtures that it registered.
      others: The number of tasks and mixtures that it registered with seqio.
      does: Its effects outside of the process, such as "connected a socket".
    """

    names: list[str]
    others: int
    does: list[str]


@dataclasses.dataclass(frozen=True)
class TasksSubject:
    """A module that registers tasks.

    Attributes:
      module: The module.
      given: The names of its tasks; None for those that a new process finds.
    """

    module: Any
    given: Sequence[str] | None = None

    @functools.cached_property
    def imported(self) -> Imported:
        """The effects of importing the module."""
        if self.given is not None:
            return Imported(list(self.given), 0, [])
        return _in_another_process(self.module.__name__)

    @functools.cached_property
    def text_tasks(self) -> list[tasks.TextTask]:
        """Its text tasks, without mixtures.

        Raises:
          NotTriedError: If it registers tasks with seqio alone.
        """
        found = [tasks.get(name) for name in self.imported.names]
        if not found:
            raise NotTriedError("it registers tasks of seqio, which these checks do not read")
        return [task for task in found if isinstance(task, tasks.TextTask)]

    @functools.cached_property
    def _examples(self) -> dict[tuple[str, str], list[tasks.Example]]:
        return {}

    def read(self, task: tasks.TextTask, split: str) -> None:
        """Reads a split, and keeps its first examples; raises what the task raises."""
        self._examples[task.name, split] = task.examples(split)[:_MOST]

    def examples(self, task: tasks.TextTask, split: str) -> list[tasks.Example]:
        """Returns the first examples of a split.

        Raises:
          NotTriedError: If it cannot be read here.
        """
        if (task.name, split) not in self._examples:
            try:
                self.read(task, split)
            except Exception as error:  # Another check reports what it raises.
                raise NotTriedError(
                    f"{_place(task, split)} cannot be read here: {one_line(error)}"
                ) from error
        return self._examples[task.name, split]

    def splits(self) -> Iterator[tuple[tasks.TextTask, str]]:
        """Yields each split of each task."""
        return ((task, split) for task in self.text_tasks for split in task.splits)


def tasks_subject(
    plugin: Any,
    arguments: Sequence[str] | None = None,
    *,
    seed: int = 0,
    max_examples: int = 1,
) -> TasksSubject:
    """Returns the subject of the checks.

    Args:
      plugin: The module, which has been imported.
      arguments: The names of its tasks; None for those that it registers in a new
        process.
      seed: Not used: nothing is drawn.
      max_examples: Not used.

    Raises:
      InputError: If the arguments are no list of names.
    """
    del seed, max_examples
    if isinstance(arguments, str) or not isinstance(arguments, Sequence | None):
        raise InputError(
            f"the arguments of tasks are {arguments!r}, expected a list of names of tasks"
        )
    return TasksSubject(plugin, arguments)


def _place(task: tasks.TextTask, split: str) -> str:
    return f"task {task.name!r}, split {split!r}"


def _check_registers(subject: TasksSubject, nothing: None) -> None:
    complaint = KINDS["tasks"].complaint(subject.module)
    require(complaint is None, f"the plugin {complaint}")
    found = subject.imported
    require(
        found.names or found.others,
        "importing the module registers no task: call tasks.register in it, outside of any "
        "function",
    )
    require(not found.does, f"importing the module {', '.join(found.does)}")
    for name in found.names:
        require(
            _NAME.fullmatch(name),
            f"a task is named {name!r}, expected letters, digits, '_', '.' and ':', which are "
            "what seqio allows",
        )
        try:
            parts = tasks.get(name).components
        except InputError as error:
            raise BrokenClauseError(str(error)) from error
        for task, _ in parts:
            require(task.splits, f"task {task.name!r} has no splits")


def _check_reads(subject: TasksSubject, nothing: None) -> None:
    lacks = ""
    for task, split in subject.splits():
        place = _place(task, split)
        address = next((s for s in _paths(task.splits[split]) if "://" in s), None)
        if address is not None:
            lacks = lacks or f"{place} is at {address}, and the checks read nothing from a network"
            continue
        with watching.Audit.watch() as audit:
            try:
                subject.read(task, split)
            except PromptTuningError as error:
                text = str(error)
                require("\n" not in text.strip(), f"{place}: an error has several lines: {text!r}")
                require(_is_missing(task.splits[split]), f"{place} cannot be read: {text}")
                lacks = lacks or f"{place} cannot be read here: {text}"
            except Exception as error:  # A source may raise anything.
                raise BrokenClauseError(
                    f"{place}: raises {one_line(error)}, expected an InputError that names what is "
                    "missing"
                ) from error
        require(not audit.does, f"to read {place} {', '.join(audit.does)}")
    if lacks:
        raise NotTriedError(lacks)


def _is_missing(sources: tasks.Sources) -> bool:
    """True if a file is missing, or a function raises an error about its data."""
    if callable(sources):
        try:
            next(iter(sources()), None)
        except PromptTuningError:
            return True
        return False
    if isinstance(sources, str | os.PathLike):
        return not Path(sources).expanduser().exists()
    return any(map(_is_missing, sources))


def _paths(sources: tasks.Sources) -> Iterator[str]:
    """Yields the paths among the sources of a split."""
    if isinstance(sources, str | os.PathLike):
        yield os.fspath(sources)
    elif isinstance(sources, Sequence):
        for source in sources:
            yield from _paths(source)


def _check_texts(subject: TasksSubject, nothing: None) -> None:
    for task, split in subject.splits():
        require(
            task.input_columns,
            f"task {task.name!r}: its inputs {task.inputs!r} name no column, so that all are the "
            "same",
        )
        for number, example in enumerate(subject.examples(task, split), 1):
            place = example.place or f"{_place(task, split)}, example {number}"
            for field in ("inputs", "targets"):
                text, template = getattr(example, field), getattr(task, field)
                require(text.strip(), f"{place}: its {field} are {text!r}, expected a text")
                for column in re.findall(r"\{\{(\w+)\}\}", template):
                    require(
                        f"{{{column}}}" not in text,
                        f"{place}: its {field} hold {{{column}}} as it is; write it with single "
                        f"braces in {template!r}",
                    )


def _check_same(subject: TasksSubject, nothing: None) -> None:
    for task, split in subject.splits():
        first = subject.examples(task, split)
        place = _place(task, split)
        try:
            again = task.examples(split)[: len(first)]
        except PromptTuningError as error:
            raise BrokenClauseError(f"{place} is read once only: {error}") from error
        for number, (one, other) in enumerate(itertools.zip_longest(first, again), 1):
            require(
                one == other,
                f"{place}: example {number} is {_shown(one)}, and {_shown(other)} when it is read "
                "again; a run that resumes needs the same order",
            )


def _shown(example: tasks.Example | None) -> str:
    return "missing" if example is None else f"{example.inputs[:60]!r} → {example.targets[:60]!r}"


def _check_metrics(subject: TasksSubject, nothing: None) -> None:
    for task in subject.text_tasks:
        require(task.metrics, f"task {task.name!r} has no metrics, so that no run can be compared")
        targets = [example.targets for example in subject.examples(task, next(iter(task.splits)))]
        for metric in task.metrics:
            place = f"task {task.name!r}: the metric {metrics.name_of(metric)!r}"
            given = list(targets)
            try:
                found = metrics.get(metric)(given, given)
            except Exception as error:  # A metric may raise anything.
                raise BrokenClauseError(f"{place} raises {one_line(error)}") from error
            require(given == targets, f"{place} changes the targets")
            _require_numbers(found, place)


def _require_numbers(found: Any, place: str) -> None:
    require(
        isinstance(found, Mapping) and found,
        f"{place} returns {found!r}, expected a mapping of names to numbers",
    )
    for name, value in found.items():
        try:
            is_finite = math.isfinite(value)
        except (TypeError, ValueError):
            is_finite = False
        require(
            isinstance(name, str) and is_finite,
            f"{place} gives {name!r} the value {value!r} for predictions that are the targets, "
            "expected a finite number",
        )


def _in_another_process(module: str) -> Imported:
    try:
        return Imported(*child_processes.ask(__name__, [module]))
    except child_processes.EndedEarlyError as error:
        raise BrokenClauseError(
            f"a new process cannot import {module}: {error}; or give the names of its tasks"
        ) from error


def answer() -> None:
    """Imports the module in the question; replies with the tasks that it registered."""
    ((module,), _) = child_processes.question()
    before = set(tasks.names())
    with watching.Audit.watch() as audit:
        importlib.import_module(module)
    seqio = sys.modules.get("seqio")
    registries = () if seqio is None else (seqio.TaskRegistry, seqio.MixtureRegistry)
    others = sum(len(registry.names()) for registry in registries)
    names = sorted(set(tasks.names()) - before)
    # seqio, TensorFlow and similar libraries may do anything while they are imported.
    does = [] if others else audit.does
    child_processes.reply(Imported(names, others, does))


TASKS_CHECKS: tuple[Check[TasksSubject], ...] = (
    Check(
        "registers",
        1,
        "importing it registers tasks with splits, under names that every engine can use, and "
        "does nothing else",
        _check_registers,
        is_needed=True,
    ),
    Check(
        "reads",
        2,
        "to read a split changes nothing and uses no network; if its data is missing, that is an "
        "InputError of one line",
        _check_reads,
    ),
    Check(
        "texts",
        3,
        "each example has an input and a target, with the values of its row in their places",
        _check_texts,
    ),
    Check("same", 4, "a split has the same examples in the same order each time", _check_same),
    Check(
        "metrics",
        5,
        "each metric gives finite numbers by name for predictions that are the targets",
        _check_metrics,
    ),
)

CONTRACT = Contract(TASKS_CHECKS, tasks_subject, examples=1)
