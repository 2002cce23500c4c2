"""Predicts targets by greedy decoding and scores them with a task's metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from prompt_tuning_core import metrics
from prompt_tuning_core.tasks import Example, TextTask
from prompt_tuning_engine_local import data
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


class Predictor:
    """A frozen model that answers texts, with any prompt or none.

    Args:
      model: The model.
      frozen: Its frozen parameters.
      lengths: The most ids of inputs and of predictions; longer inputs are cut, and that is said.
      batch_size: Texts decoded at once.

    Attributes:
      frozen: The frozen parameters, by name.
    """

    def __init__(
        self,
        model: EncoderDecoderModel,
        frozen: Params,
        lengths: data.FeatureLengths,
        batch_size: int,
    ) -> None:
        self._vocabulary = model.vocabulary
        self.frozen = frozen
        self._lengths = lengths
        self._batch_size = batch_size
        self._generate = jax.jit(model.generate, static_argnums=3)

    def predict(
        self,
        texts: Sequence[str],
        prompt: Params | None,
        what: str = "inputs",
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Returns the decoded answer to each text, in order.

        Args:
          texts: Inputs.
          prompt: The prompt's parameters; None for the bare model.
          what: Names the texts in warnings.
          progress: Called with the number of texts answered so far.
        """
        examples = data.tokenize(
            [Example(text, "") for text in texts], self._vocabulary, self._lengths, what
        )
        answers: list[str] = []
        for batch, real in data.evaluation_batches(examples, self._lengths, self._batch_size):
            ids = self._generate(
                prompt, self.frozen, batch["encoder_input_tokens"], self._lengths.targets
            )
            answers += [self._vocabulary.decode(row) for row in np.asarray(ids)[:real]]
            progress(len(answers))
        return answers

    def evaluate(self, task: TextTask, split: str, prompt: Params | None) -> Evaluation:
        """Scores the predictions for a split with the task's metrics."""
        return self.evaluate_examples(task, task.examples(split), prompt, split)

    def evaluate_examples(
        self, task: TextTask, examples: Sequence[Example], prompt: Params | None, split: str
    ) -> Evaluation:
        """Scores the predictions for given examples of a split."""
        predictions = self.predict(
            [e.inputs for e in examples], prompt, f"task {task.name!r}, split {split!r}"
        )
        targets = [e.targets for e in examples]
        values: dict[str, float] = {}
        for name in task.metrics:
            values.update(metrics.get(name)(targets, predictions))
        return Evaluation(values, examples, predictions)
