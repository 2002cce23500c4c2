"""The protocols of a task: it reads its splits as ids, and scores a model's answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks import Example
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
    def tokenized(self) -> Sequence[batching.TokenizedExample]:
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
