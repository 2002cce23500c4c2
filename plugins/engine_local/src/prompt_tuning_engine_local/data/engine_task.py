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
"""The seed for reading splits to evaluate: T5X's seed, the same in every run."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """Settings for reading the splits of a run's tasks.

    Attributes:
      vocabulary: The model's vocabulary.
      lengths: The largest numbers of ids.
      strict: True makes a longer example an error (STRICT_LENGTHS).
      seed: The seed for tasks whose examples are partly random.
      columns: Columns of the rows that `Split.examples` keep.
    """

    vocabulary: SentencePieceVocabulary
    lengths: FeatureLengths
    strict: bool = False
    seed: int = EVALUATION_SEED
    columns: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Answers:
    """A model's answers to the examples of a split, in the same order.

    Attributes:
      ids: int32 `[N, T]`, 0 after EOS.
      texts: The decoded answers.
      scores: float32 `[N]`, the log-likelihood of each example's targets, or None if the split
        does not need it.
    """

    ids: np.ndarray
    texts: Sequence[str]
    scores: np.ndarray | None = None


class Split(Protocol):
    """The examples of a split, after they have been read."""

    @property
    def task_name(self) -> str:
        """The name of the task that the split belongs to."""

    @property
    def tokenized(self) -> Sequence[batching.TokenizedExample]:
        """The examples as ids."""

    @property
    def examples(self) -> Sequence[Example]:
        """The examples as text."""

    @property
    def needs_scores(self) -> bool:
        """True if `metrics` needs `Answers.scores`."""

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
        """The task or mixture as it was described or registered."""

    @property
    def is_mixture(self) -> bool:
        """True for a mixture."""

    def components(self, split: str) -> Sequence[Component]:
        """Returns the tasks that have a split; a read of the split may still raise an error.

        Raises:
          InputError: If there are none.
        """

    def rate(self, component: Component) -> float:
        """Returns the rate at which training draws from a component; only proportions matter.

        Raises:
          InputError: If the rate cannot be computed.
        """


def as_numbers(values: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Converts the values of a metric to numbers by name.

    Raises:
      InputError: If `values` is something else. The message names `metric`.
    """
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError):  # A metric may be any function.
        raise InputError(
            f"the metric {metric} returned {values!r}; expected a mapping of names to numbers, "
            "such as {'my_metric': 0.5}"
        ) from None
