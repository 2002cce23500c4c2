"""Predicts targets by decoding and scores them with a task's metrics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.data.engine_task import (
    Answers,
    Component,
    EngineTask,
    Reading,
    Split,
)
from prompt_tuning_engine_local.data.text_components import TextComponent
from prompt_tuning_engine_local.model import decoding
from prompt_tuning_engine_local.model.prompt_of_each import (
    JointPrompts,
    PromptChoice,
    PromptTable,
    VotingPrompts,
)
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_tasks import Example, TextTask
from prompt_tuning_tasks.feature_lengths import FeatureLengths

LOSS = "loss"
"""The metric of the validation loss (EVAL_LOSS)."""

# Texts of similar length share a batch within a part, so a part should have many batches.
_BATCHES_OF_A_PART = 32


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation, with its examples and predictions.

    Attributes:
      task_name: The task's name.
      metrics: Values by name.
      examples: The evaluated examples.
      predictions: The decoded answer to each example, in the same order.
      scores: The log-likelihood of each example's targets, if a metric or the loss needed it.
      columns: Other facts about each prediction, by column.
    """

    task_name: str
    metrics: dict[str, float]
    examples: Sequence[Example]
    predictions: Sequence[str]
    scores: Sequence[float] | None = None
    columns: Sequence[Mapping[str, object]] = ()


OnePrompt = Params | PromptChoice | JointPrompts | None
"""A prompt's parameters; several plain prompts, for a model with `PromptOfEach`; or no prompt."""

AnyPrompt = OnePrompt | VotingPrompts
"""`OnePrompt`, or several prompts that decode each text separately, and vote."""


class Answer(NamedTuple):
    """One of several answers to a text.

    Attributes:
      text: The decoded text.
      score: Higher is better. Each function of `decoding` documents its score.
    """

    text: str
    score: float


class _Batch(NamedTuple):
    """A batch of examples, on the devices.

    Attributes:
      arrays: See `batching.make_batch`.
      rows: int64 `[n]`, the numbers of the examples in its first rows; later rows fill it.
      filled: The numbers of the examples of all rows.
      prompt: The prompt's parameters, or None.
      members: The number of copies of each example, which follow each other.
    """

    arrays: batching.Batch
    rows: np.ndarray
    filled: np.ndarray
    prompt: Params | None
    members: int


class Predictor:
    """A frozen model that answers texts, with any prompt or none.

    Args:
      model: The model.
      frozen: Its frozen parameters.
      lengths: The largest numbers of ids in inputs and predictions; longer inputs are cut, with a
        warning.
      batch_size: Number of texts decoded at once.
      placement: The devices that share a batch.
      bucketing: True decodes texts of similar length together and pads them only as far as they
        need; False pads all texts to `lengths` (BUCKETING).
      strict_lengths: True makes a text that is too long an error (STRICT_LENGTHS).
      decode_fn: Makes the answers; None for the model's own function.

    Attributes:
      frozen: The frozen parameters, by name.
    """

    def __init__(
        self,
        model: EncoderDecoderModel,
        frozen: Params,
        lengths: FeatureLengths,
        batch_size: int,
        placement: Placement,
        *,
        bucketing: bool = True,
        strict_lengths: bool = False,
        decode_fn: decoding.DecodeFn | None = None,
    ) -> None:
        self._reading = Reading(model.vocabulary, lengths, strict_lengths)
        self.frozen = frozen
        self._batch_size = batch_size
        self._placement = placement
        self._padded = batching.padded_lengths(lengths, bucketing=bucketing)
        self._model = model
        self._decode_fn = decode_fn

    def predict(
        self,
        texts: Sequence[str | Example],
        prompt: AnyPrompt,
        what: str = "inputs",
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Returns the decoded answer to each text, in order.

        Args:
          texts: Inputs, as text or as examples; the targets of examples are not used.
          prompt: The prompt; see `AnyPrompt`.
          what: The name of the texts in warnings.
          progress: Called with the number of texts answered so far.

        Raises:
          InputError: If a text is too long and lengths are strict.
        """
        return self.texts(self._answer(self._tokenized(texts, what), prompt, progress))

    def ranked_in_parts(
        self, texts: Sequence[str | Example], prompt: OnePrompt, n: int, what: str = "inputs"
    ) -> Iterator[list[list[Answer]]]:
        """Yields the n best answers to each text, a few batches at a time; the best comes first.

        Answers that the decoding did not find are left out.

        Args:
          texts: See `predict`.
          prompt: See `predict`.
          n: Number of answers.
          what: See `predict`.

        Raises:
          InputError: In the cases of `predict`, and if the decoding makes fewer answers.
        """
        made = self._model.check_decoding(self._reading.lengths.targets, self._decode_fn)
        if made < n:
            raise InputError(
                f"{n} answers to each text are asked for, and the decoding makes {made}; raise its "
                f"number, such as decoding.beam_search.num_decodes = {n}"
            )
        tokenized = self._tokenized(texts, what)
        size = self._batch_size * _BATCHES_OF_A_PART
        return (
            self._ranked(
                tokenized[start : start + size], _part(prompt, start, start + size), n, start
            )
            for start in range(0, len(tokenized), size)
        )

    def _ranked(
        self,
        examples: Sequence[batching.TokenizedExample],
        prompt: OnePrompt,
        n: int,
        first: int,
    ) -> list[list[Answer]]:
        answers: list[list[Answer]] = [[] for _ in examples]
        for batch in self._batches(examples, prompt):
            ids, scores = map(np.asarray, self._decode(self._model.compiled_generate, batch, first))
            for row, best, values in zip(batch.rows, ids, scores, strict=False):
                answers[row] = [
                    Answer(text, float(score))
                    for text, score in zip(self.texts(best[:n]), values[:n], strict=True)
                    if np.isfinite(score)
                ]
        return answers

    def predict_in_parts(
        self, texts: Sequence[str | Example], prompt: AnyPrompt, what: str = "inputs"
    ) -> Iterator[list[str]]:
        """Yields the answers of `predict` a few batches at a time, in order.

        It reads all texts before the first part, so that it finds a text that is too long at once.
        """
        tokenized = self._tokenized(texts, what)
        size = self._batch_size * _BATCHES_OF_A_PART
        return (
            self.texts(
                self._answer(
                    tokenized[start : start + size], _part(prompt, start, start + size), first=start
                )
            )
            for start in range(0, len(tokenized), size)
        )

    def _tokenized(
        self, texts: Sequence[str | Example], what: str
    ) -> Sequence[batching.TokenizedExample]:
        examples = [
            Example(text, "") if isinstance(text, str) else dataclasses.replace(text, targets="")
            for text in texts
        ]
        return self._ids_of(examples, what)

    def _ids_of(self, examples: Sequence[Example], what: str) -> list[batching.TokenizedExample]:
        reading = self._reading
        return batching.tokenize(
            examples, reading.vocabulary, reading.lengths, what, strict=reading.strict
        )

    def score(
        self, texts: Sequence[str], targets: Sequence[str], prompt: AnyPrompt, what: str = "inputs"
    ) -> np.ndarray:
        """Returns the log-likelihood of a target for each text, including EOS.

        Args:
          texts: Inputs.
          targets: The targets, one for each text.
          prompt: The prompt; see `AnyPrompt`.
          what: The name of the texts in warnings.

        Returns:
          float32 `[N]`.

        Raises:
          InputError: If a text is too long and lengths are strict.
        """
        examples = [Example(*pair) for pair in zip(texts, targets, strict=True)]
        return self._log_likelihoods(self._ids_of(examples, what), prompt)

    def prepare(self, component: Component, split: str) -> Split:
        """Reads a split of a task, once for many evaluations.

        Raises:
          InputError: If the split cannot be read, or a text is too long and lengths are strict.
        """
        return component.read(split, self._reading)

    def evaluate_prepared(
        self, split: Split, prompt: AnyPrompt, *, loss: bool = False
    ) -> Evaluation:
        """Scores the predictions for a split from `prepare` with the task's metrics.

        Args:
          split: The split.
          prompt: The prompt; see `AnyPrompt`.
          loss: True adds the metric `loss`: the mean of the negative log-likelihood of each target
            token, including EOS, without dropout, label smoothing and z-loss.
        """
        ids = self._answer(split.tokenized, prompt)
        needs_scores = loss or split.needs_scores
        scores = self._log_likelihoods(split.tokenized, prompt) if needs_scores else None
        answers = Answers(ids, self.texts(ids), scores if split.needs_scores else None)
        metrics = dict(split.metrics(answers))
        if loss and scores is not None:
            metrics = _with_loss(metrics, split, scores)
        return Evaluation(
            split.task_name,
            metrics,
            split.examples,
            answers.texts,
            None if scores is None else scores.tolist(),
        )

    def evaluate(self, task: TextTask, split: str, prompt: AnyPrompt) -> Evaluation:
        """Scores the predictions for a split of a text task with the task's metrics."""
        return self.evaluate_prepared(self.prepare(TextComponent(task), split), prompt)

    def evaluate_examples(
        self, task: TextTask, examples: Sequence[Example], prompt: AnyPrompt, split: str
    ) -> Evaluation:
        """Scores the predictions for given examples of a split of a text task."""
        read = TextComponent(task).read_examples(examples, split, self._reading)
        return self.evaluate_prepared(read, prompt)

    def _answer(
        self,
        examples: Sequence[batching.TokenizedExample],
        prompt: AnyPrompt,
        progress: Callable[[int], None] = lambda done: None,
        first: int = 0,
    ) -> np.ndarray:
        """Returns the ids of each answer, int32 `[N, T]`; `first` is the first example's number."""
        if isinstance(prompt, VotingPrompts):
            return VotingPrompts.elected(self.answers_of_each(examples, prompt.table))
        length = self._reading.lengths.targets
        answers = np.zeros((len(examples), length), np.int32)
        done = 0
        for batch in self._batches(examples, prompt):
            ids = self._decode(self._model.compiled_best_ids, batch, first)
            answers[batch.rows] = np.asarray(ids)[: len(batch.rows)]
            done += len(batch.rows)
            progress(done)
        return answers

    def _decode(self, function: Callable[..., Any], batch: _Batch, first: int) -> Any:
        return function(
            batch.prompt,
            self.frozen,
            batch.arrays["encoder_input_tokens"],
            max_length=self._reading.lengths.targets,
            keys=_keys(self._placement.split(batch.filled + first)),
            decode_fn=self._decode_fn,
            members=batch.members,
        )

    def answers_of_each(
        self, examples: Sequence[batching.TokenizedExample], table: PromptTable
    ) -> np.ndarray:
        """Returns the ids of the answers of each prompt, int32 `[prompts, examples, T]`.

        The prompts share batches: the copies of one example follow each other.
        """
        prompts = len(table.lengths)
        copies = [example for example in examples for _ in range(prompts)]
        numbers = np.tile(np.arange(prompts, dtype=np.int32), len(examples))
        answers = self._answer(copies, PromptChoice(table, numbers))
        return answers.reshape(len(examples), prompts, -1).swapaxes(0, 1)

    def _log_likelihoods(
        self, examples: Sequence[batching.TokenizedExample], prompt: AnyPrompt
    ) -> np.ndarray:
        """Returns the log-likelihood of each example's targets, float32 `[N]`."""
        if isinstance(prompt, JointPrompts | VotingPrompts):
            raise InputError(
                "several prompts that answer together give no log-likelihood of a target; score "
                "each of them alone"
            )
        scores = np.zeros(len(examples), np.float32)
        for batch in self._batches(examples, prompt):
            values = self._model.compiled_score(batch.prompt, self.frozen, batch.arrays)
            scores[batch.rows] = np.asarray(values)[: len(batch.rows)]
        return scores

    def _batches(
        self,
        examples: Sequence[batching.TokenizedExample],
        prompt: OnePrompt,
    ) -> Iterator[_Batch]:
        """Yields the batches of `batching.evaluation_batches`, each with its prompt."""
        members, size = 1, self._batch_size
        if isinstance(prompt, JointPrompts):
            members = len(prompt.table.lengths)
            devices = self._placement.num_devices
            size = max(size // members // devices, 1) * devices
        prompt_for = self._prompts(prompt)
        for arrays, rows in batching.evaluation_batches(examples, self._padded, size):
            filled = np.pad(rows, (0, size - len(rows)), mode="edge").repeat(members)
            arrays = {name: array.repeat(members, axis=0) for name, array in arrays.items()}
            yield _Batch(self._placement.split(arrays), rows, filled, prompt_for(filled), members)

    def _prompts(self, prompt: OnePrompt) -> Callable[[np.ndarray], Params | None]:
        """Returns a function from the numbers of a batch's examples to the prompt's parameters."""
        if not isinstance(prompt, PromptChoice | JointPrompts):
            return lambda examples: prompt
        table = self._placement.everywhere(prompt.table)

        def own(examples: np.ndarray) -> Params:
            if isinstance(prompt, PromptChoice):
                numbers = prompt.numbers[examples]
            else:  # Each copy of an example has another prompt.
                numbers = np.arange(len(examples), dtype=np.int32) % len(prompt.table.lengths)
            return table.parameters(self._placement.split(numbers))

        return own

    def texts(self, ids: np.ndarray) -> list[str]:
        """Returns the texts of answers, int32 `[N, T]`."""
        return [self._reading.vocabulary.decode(row) for row in ids]


_Prompt = TypeVar("_Prompt", OnePrompt, AnyPrompt)


def _part(prompt: _Prompt, start: int, stop: int) -> _Prompt:
    """Returns the prompt of some of the examples."""
    if isinstance(prompt, PromptChoice):
        return prompt._replace(numbers=prompt.numbers[start:stop])
    return prompt


@jax.jit
def _keys(numbers: jax.Array) -> jax.Array:
    """Returns a key for each example, so that a drawn answer does not depend on the batch.

    Args:
      numbers: int32 `[B]`, the examples' numbers.
    """
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(numbers)


def metrics_of(task: EngineTask, evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Returns the metrics of a task, or of all tasks of a mixture, named `TASK/METRIC`.

    Args:
      task: The task or mixture.
      evaluations: One for each of its components.
    """
    return {
        f"{evaluation.task_name}/{name}" if task.is_mixture else name: value
        for evaluation in evaluations
        for name, value in evaluation.metrics.items()
    }


def chosen(metrics: Mapping[str, float], name: str) -> float:
    """Returns the value of BEST_METRIC.

    Raises:
      InputError: If there is no such metric.
    """
    if name not in metrics:
        raise InputError(f"BEST_METRIC {name!r} is no metric here{nearest(name, metrics)}")
    return metrics[name]


def metrics_of_targets(
    task: EngineTask, splits: Iterable[Split], *, loss: bool = False
) -> dict[str, float]:
    """Returns the metrics of a model that is certain of the targets; see `metrics_of`.

    It needs no model, so a run learns the names of its metrics before it begins.

    Raises:
      InputError: If a task itself has a metric `loss`, and the argument `loss` is True.
    """

    def evaluation(split: Split) -> Evaluation:
        metrics = dict(split.metrics(_targets_of(split)))
        if loss:
            metrics = _with_loss(metrics, split, np.zeros(len(split.tokenized), np.float32))
        return Evaluation(split.task_name, metrics, split.examples, ())

    return metrics_of(task, [evaluation(split) for split in splits])


def _with_loss(metrics: dict[str, float], split: Split, scores: np.ndarray) -> dict[str, float]:
    """Adds the loss per target token to the metrics of a split."""
    if LOSS in metrics:
        raise InputError(
            f"task {split.task_name!r} has a metric {LOSS!r} of its own; set EVAL_LOSS = False"
        )
    tokens = sum(len(example.targets) for example in split.tokenized)
    return {**metrics, LOSS: -float(scores.sum(dtype=np.float64)) / max(tokens, 1)}


def _targets_of(split: Split) -> Answers:
    targets = [example.targets for example in split.tokenized]
    ids = np.zeros((len(targets), max(map(len, targets))), np.int32)
    for row, target in zip(ids, targets, strict=True):
        row[: len(target)] = target
    scores = np.zeros(len(targets), np.float32) if split.needs_scores else None
    return Answers(ids, [example.targets for example in split.examples], scores)
