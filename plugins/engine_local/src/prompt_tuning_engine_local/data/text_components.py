"""Adapts text tasks to the protocols of `engine_task`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.data.engine_task import (
    Answers,
    Component,
    Reading,
    Split,
    as_numbers,
)
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks import Example, Mixture, Task, TextTask, metrics


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
        """True for a mixture."""
        return isinstance(self.source, Mixture)

    def components(self, split: str) -> Sequence[Component]:
        """Returns all of its tasks; a task without the split raises when it is read."""
        del split
        return [TextComponent(task) for task, _ in self.source.components]

    def rate(self, component: Component) -> float:
        """Returns the rate at which training draws from a component; only proportions matter."""
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
        examples = self.task.examples(split, reading.columns)
        _warn_of_targets(examples, reading.vocabulary, f"task {self.name!r}, split {split!r}")
        return self.read_examples(examples, split, reading)

    def read_examples(self, examples: Sequence[Example], split: str, reading: Reading) -> Split:
        """Tokenizes given examples of a split."""
        what = f"task {self.name!r}, split {split!r}"
        tokenized = batching.tokenize(
            examples, reading.vocabulary, reading.lengths, what, strict=reading.strict
        )
        return _TextSplit(self.task, examples, tokenized)


@dataclasses.dataclass(frozen=True)
class _TextSplit:
    task: TextTask
    examples: Sequence[Example]
    tokenized: Sequence[batching.TokenizedExample]
    needs_scores: bool = False

    @property
    def task_name(self) -> str:
        return self.task.name

    def metrics(self, answers: Answers) -> dict[str, float]:
        targets = [example.targets for example in self.examples]
        values: dict[str, float] = {}
        for metric in self.task.metrics:
            function = metrics.get(metric)
            name = metrics.name_of(function)
            found = as_numbers(function(targets, answers.texts), name)
            for twice in found.keys() & values.keys():
                raise InputError(
                    f"task {self.task_name!r}: the metric {name} returns {twice!r}, and so does "
                    "one before it; leave one out, or give its value another name"
                )
            values.update(found)
        return values


def _warn_of_targets(
    examples: Sequence[Example], vocabulary: SentencePieceVocabulary, what: str
) -> None:
    """Warns of empty targets, and of targets that the vocabulary cannot write."""
    empty = [example for example in examples if not example.targets]
    if empty:
        warnings.warn(
            f"{what}: {len(empty)} of {len(examples)} targets are empty, which teaches the prompt "
            f"to answer nothing; the first, {empty[0].place}",
            stacklevel=2,
        )
    texts = dict.fromkeys(example.targets for example in examples)
    written = {text: vocabulary.decode(vocabulary.encode(text)) for text in texts}
    lost = [example for example in examples if written[example.targets] != example.targets]
    if lost:
        first = lost[0]
        warnings.warn(
            f"{what}: no answer can equal {len(lost)} of {len(examples)} targets, which the "
            f"vocabulary cannot write; the first, {first.place}: {first.targets!r} becomes "
            f"{written[first.targets]!r}",
            stacklevel=2,
        )
