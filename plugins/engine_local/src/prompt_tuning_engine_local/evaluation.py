"""Predicts targets by greedy decoding and scores them with a task's metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from prompt_tuning_core import metrics
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.tasks import Example, Mixture, Task, TextTask
from prompt_tuning_engine_local import data
from prompt_tuning_engine_local.devices import Placement
from prompt_tuning_engine_local.models import EncoderDecoderModel, Params


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation and what they were computed from.

    Attributes:
      metrics: Values by name.
      examples: The evaluated examples.
      predictions: The decoded text of each, in the same order.
    """

    metrics: dict[str, float]
    examples: Sequence[Example]
    predictions: Sequence[str]


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Examples of a task, ready to be evaluated as often as one likes; see `Predictor.prepare`.

    Attributes:
      task: The task, whose metrics score the predictions.
      examples: The examples as text.
      tokenized: The same as ids.
    """

    task: TextTask
    examples: Sequence[Example]
    tokenized: Sequence[data.TokenizedExample]


class Predictor:
    """A frozen model that answers texts, with any prompt or none.

    Args:
      model: The model.
      frozen: Its frozen parameters.
      lengths: The most ids of inputs and of predictions; longer inputs are cut, and that is said.
      batch_size: Texts decoded at once.
      placement: The devices that share a batch.
      bucketing: Whether texts of similar length are decoded together, padded no further than they
        need; otherwise they are padded to `lengths` (BUCKETING).
      strict_lengths: Whether a text that is too long is an error (STRICT_LENGTHS).

    Attributes:
      frozen: The frozen parameters, by name.
    """

    def __init__(
        self,
        model: EncoderDecoderModel,
        frozen: Params,
        lengths: data.FeatureLengths,
        batch_size: int,
        placement: Placement,
        bucketing: bool = True,
        strict_lengths: bool = False,
    ) -> None:
        self._vocabulary = model.vocabulary
        self.frozen = frozen
        self._lengths = lengths
        self._batch_size = batch_size
        self._placement = placement
        self._padded = lengths.padded(bucketing)
        self._strict_lengths = strict_lengths
        self._generate = jax.jit(model.generate, static_argnums=3)

    def predict(
        self,
        texts: Sequence[str | Example],
        prompt: Params | None,
        what: str = "inputs",
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Returns the decoded answer to each text, in order.

        Args:
          texts: Inputs, as text, or as examples whose targets do not matter.
          prompt: The prompt's parameters; None for the bare model.
          what: Names the texts in warnings.
          progress: Called with the number of texts answered so far.

        Raises:
          InputError: If a text is too long and lengths are strict.
        """
        examples = [
            Example(text, "") if isinstance(text, str) else dataclasses.replace(text, targets="")
            for text in texts
        ]
        return self._answer(self._tokenize(examples, what), prompt, progress)

    def prepare(
        self, task: TextTask, split: str, examples: Sequence[Example] | None = None
    ) -> EvaluationSet:
        """Tokenizes a split, or given examples of it, once for many evaluations.

        Raises:
          InputError: If the split cannot be read, or a text is too long and lengths are strict.
        """
        if examples is None:
            examples = task.examples(split)
        what = f"task {task.name!r}, split {split!r}"
        return EvaluationSet(task, examples, self._tokenize(examples, what))

    def evaluate_prepared(self, prepared: EvaluationSet, prompt: Params | None) -> Evaluation:
        """Scores the predictions for what `prepare` returned with the task's metrics."""
        predictions = self._answer(prepared.tokenized, prompt)
        targets = [example.targets for example in prepared.examples]
        values: dict[str, float] = {}
        for metric in prepared.task.metrics:
            values.update(_values(metric, targets, predictions))
        return Evaluation(values, prepared.examples, predictions)

    def evaluate(self, task: TextTask, split: str, prompt: Params | None) -> Evaluation:
        """Scores the predictions for a split with the task's metrics."""
        return self.evaluate_prepared(self.prepare(task, split), prompt)

    def evaluate_examples(
        self, task: TextTask, examples: Sequence[Example], prompt: Params | None, split: str
    ) -> Evaluation:
        """Scores the predictions for given examples of a split."""
        return self.evaluate_prepared(self.prepare(task, split, examples), prompt)

    def _tokenize(self, examples: Sequence[Example], what: str) -> list[data.TokenizedExample]:
        return data.tokenize(examples, self._vocabulary, self._lengths, what, self._strict_lengths)

    def _answer(
        self,
        examples: Sequence[data.TokenizedExample],
        prompt: Params | None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        answers = [""] * len(examples)
        done = 0
        for batch, rows in data.evaluation_batches(examples, self._padded, self._batch_size):
            tokens = self._placement.split(batch["encoder_input_tokens"])
            ids = self._generate(prompt, self.frozen, tokens, self._lengths.targets)
            # The rows behind these only fill the batch up.
            for row, answer in zip(rows, np.asarray(ids), strict=False):
                answers[row] = self._vocabulary.decode(answer)
            done += len(rows)
            progress(done)
        return answers


def metrics_of(task: Task, evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Returns the metrics of a task, or of a mixture's tasks together, named `TASK/METRIC`.

    Args:
      task: The task or mixture.
      evaluations: One for each of its components.
    """
    return {
        f"{component.name}/{name}" if isinstance(task, Mixture) else name: value
        for (component, _), evaluation in zip(task.components, evaluations, strict=True)
        for name, value in evaluation.metrics.items()
    }


def _values(
    metric: str | metrics.Metric, targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
    function = metrics.get(metric)
    values = function(targets, predictions)
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError):  # A metric may be anyone's function.
        raise InputError(
            f"the metric {metrics.name_of(function)} returned {values!r}; expected a mapping of "
            "names to numbers, such as {'my_metric': 0.5}"
        ) from None
