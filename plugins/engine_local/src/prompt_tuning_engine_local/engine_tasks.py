"""What the engine needs of a task, and how a task is found by its name.

A task reads its splits as ids, and scores what a model answers. Text tasks are read here, seqio's
in `seqio_tasks`, which is imported only when a module has imported seqio.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_engine_local import data, extras
from prompt_tuning_engine_local.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks import Example, Mixture, Task, TextTask, metrics
from prompt_tuning_tasks.feature_lengths import FeatureLengths

EVALUATION_SEED = 42
"""The seed with which splits are read to be evaluated, whatever the run's: it is T5X's."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the splits of a run's tasks are read.

    Attributes:
      vocabulary: The model's.
      lengths: The most ids.
      strict: Whether an example that is longer is an error (STRICT_LENGTHS).
      seed: For tasks that draw while they make their examples.
    """

    vocabulary: SentencePieceVocabulary
    lengths: FeatureLengths
    strict: bool = False
    seed: int = EVALUATION_SEED


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answers to the examples of a split, in their order.

    Attributes:
      ids: int32 `[N, T]`, 0 behind EOS.
      texts: The same, decoded.
      scores: float32 `[N]`, the log-likelihood of each example's targets, or None if the split
        does not need it.
    """

    ids: np.ndarray
    texts: Sequence[str]
    scores: np.ndarray | None = None


class Split(Protocol):
    """The examples of a split, read."""

    @property
    def task_name(self) -> str:
        """The name of the task whose split it is."""

    @property
    def tokenized(self) -> Sequence[data.TokenizedExample]:
        """The examples as ids."""

    @property
    def examples(self) -> Sequence[Example]:
        """The examples as text."""

    @property
    def needs_scores(self) -> bool:
        """Whether `metrics` needs `Answers.scores`."""

    def metrics(self, answers: Answers) -> dict[str, float]:
        """Returns the values of the task's metrics by name."""


class Component(Protocol):
    """A task that is no mixture."""

    @property
    def name(self) -> str:
        """The task's name."""

    def read(self, split: str, reading: Reading) -> Split:
        """Reads a split.

        Raises:
          InputError: If there is no such split, or it cannot be used.
        """


class EngineTask(Protocol):
    """A task or a mixture of tasks."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def source(self) -> Any:
        """What was described or registered by that name."""

    @property
    def is_mixture(self) -> bool:
        """Whether it is a mixture."""

    def components(self, split: str) -> Sequence[Component]:
        """Returns the tasks that have a split; reading it may still be an error.

        Raises:
          InputError: If there are none.
        """

    def rate(self, component: Component) -> float:
        """Returns how often training draws from a component; only proportions matter.

        Raises:
          InputError: If that cannot be told.
        """


def find(name: str, module: str | None) -> EngineTask:
    """Returns a task or mixture by name, after importing the module that may register it.

    Text tasks come first, then those registered with seqio, if anything has imported that.

    Raises:
      InputError: If the module fails to import or there is no such task.
    """
    if module:
        _import(module)
    if "seqio" in sys.modules and name not in tasks.names():
        from prompt_tuning_engine_local import seqio_tasks

        found = seqio_tasks.find(name)
        if found is None:
            known = [*tasks.names(), *seqio_tasks.names()]
            raise InputError(
                f"unknown task {name!r}{nearest(name, known)} (neither a text task nor one of "
                "seqio's has that name)"
            )
        return found
    return TextEngineTask(tasks.get(name))


def drawn_from(task: EngineTask, split: str) -> list[tuple[Component, float]]:
    """Returns the components that training on a split draws from, with their rates.

    Raises:
      InputError: If there are none.
    """
    rates = [(component, task.rate(component)) for component in task.components(split)]
    drawn = [(component, rate) for component, rate in rates if rate]
    if not drawn:
        raise InputError(f"mixture {task.name!r}: all of its rates are 0; nothing is trained on")
    return drawn


def _import(module: str) -> None:
    try:
        tasks.import_module(module)
    except InputError as e:
        raise InputError(f"{e}{extras.how_to_install(e.__cause__)}") from e


@dataclasses.dataclass(frozen=True)
class TextEngineTask:
    """A text task or a mixture of them.

    Attributes:
      source: The task.
    """

    source: Task

    @property
    def name(self) -> str:
        """Its name."""
        return self.source.name

    @property
    def is_mixture(self) -> bool:
        """Whether it is a mixture."""
        return isinstance(self.source, Mixture)

    def components(self, split: str) -> Sequence[Component]:
        """Returns all of its tasks; reading one without the split is an error."""
        del split
        return [TextComponent(task) for task, _ in self.source.components]

    def rate(self, component: Component) -> float:
        """Returns how often training draws from a component; only proportions matter."""
        return {task.name: rate for task, rate in self.source.components}[component.name]


@dataclasses.dataclass(frozen=True)
class TextComponent:
    """A text task.

    Attributes:
      task: The task.
    """

    task: TextTask

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def read(self, split: str, reading: Reading) -> Split:
        """Reads and tokenizes a split.

        Raises:
          InputError: If it cannot be read, or a text is too long and lengths are strict.
        """
        return self.read_examples(self.task.examples(split), split, reading)

    def read_examples(self, examples: Sequence[Example], split: str, reading: Reading) -> Split:
        """Tokenizes given examples of a split."""
        what = f"task {self.name!r}, split {split!r}"
        tokenized = data.tokenize(
            examples, reading.vocabulary, reading.lengths, what, reading.strict
        )
        return _TextSplit(self.task, examples, tokenized)


@dataclasses.dataclass(frozen=True)
class _TextSplit:
    task: TextTask
    examples: Sequence[Example]
    tokenized: Sequence[data.TokenizedExample]
    needs_scores: bool = False

    @property
    def task_name(self) -> str:
        return self.task.name

    def metrics(self, answers: Answers) -> dict[str, float]:
        targets = [example.targets for example in self.examples]
        values: dict[str, float] = {}
        for metric in self.task.metrics:
            function = metrics.get(metric)
            values.update(as_numbers(function(targets, answers.texts), metrics.name_of(function)))
        return values


def as_numbers(values: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Returns what a metric returned as numbers by name.

    Raises:
      InputError: If it is something else; `metric` is named.
    """
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError):  # A metric may be anyone's function.
        raise InputError(
            f"the metric {metric} returned {values!r}; expected a mapping of names to numbers, "
            "such as {'my_metric': 0.5}"
        ) from None
