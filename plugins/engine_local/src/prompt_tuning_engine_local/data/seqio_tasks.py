"""Reads tasks and mixtures that are registered with seqio, for the embedded engine.

This module imports seqio and TensorFlow, which the extra `seqio` installs. It calls a task's
preprocessors, postprocessor and metric objects as seqio does. The engine makes the batches and
decides their order and padding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from prompt_tuning_core.errors import InputError, nearest, one_line
from prompt_tuning_engine_local.data import batching, engine_task
from prompt_tuning_engine_local.data.engine_task import Answers, Component, Reading, Split
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks import Example
from prompt_tuning_tasks.feature_lengths import FeatureLengths, LengthCheck

_FEATURES = ("inputs", "targets")

_ANSWERS = {
    seqio.metrics.ModelOutputType.PREDICTION: lambda answers: answers.ids,
    seqio.metrics.ModelOutputType.SCORE: lambda answers: answers.scores,
}
"""The arguments of each kind of metric."""

_SEEDS = 2**30
"""Seeds from 0 up to this one stay distinct in seqio, which adds to them in signed 32 bits."""


def names() -> list[str]:
    """Returns the names of the tasks and mixtures that are registered with seqio."""
    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def find(name: str) -> SeqioEngineTask | None:
    """Returns the task or mixture that is registered with seqio under this name, or None."""
    if name not in names():
        return None
    # Keep TensorFlow from taking all memory of the accelerator, which JAX needs.
    with contextlib.suppress(RuntimeError):  # Raised if TensorFlow already uses it.
        tf.config.set_visible_devices([], "GPU")
    source = seqio.get_mixture_or_task(name)
    default = inspect.signature(seqio.Mixture).parameters["sample_fn"].default
    if getattr(source, "_sample_fn", default) is not default:
        warnings.warn(
            f"mixture {name!r} has a sample_fn of its own, which this engine does not call: the "
            "tasks take turns at the mixture's rates",
            stacklevel=2,
        )
    return SeqioEngineTask(source)


@dataclasses.dataclass(frozen=True)
class SeqioEngineTask:
    """A task or mixture of seqio.

    Attributes:
      source: The task or mixture.
    """

    source: seqio.Task | seqio.Mixture

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.source.name)

    @property
    def is_mixture(self) -> bool:
        """True for a mixture."""
        return isinstance(self.source, seqio.Mixture)

    def components(self, split: str) -> Sequence[Component]:
        """Returns its tasks that have the split; skips its other tasks, as seqio does.

        Raises:
          InputError: If there are none, or the engine cannot use one of them.
        """
        tasks = seqio.get_subtasks(self.source)
        splits = {task.name: _splits(task) for task in tasks}
        with_split = [task for task in tasks if split in splits[task.name]]
        if not with_split:
            known = {name for names in splits.values() for name in names}
            kind = "mixture" if self.is_mixture else "task"
            raise InputError(f"{kind} {self.name!r} has no split {split!r}{nearest(split, known)}")
        if len(with_split) < len(tasks):
            without = [task.name for task in tasks if task not in with_split]
            warnings.warn(
                f"mixture {self.name!r}: skips {', '.join(without)}, without a split {split!r}",
                stacklevel=2,
            )
        return [SeqioComponent(task) for task in with_split]

    def rate(self, component: Component) -> float:
        """Returns the mixture's rate of a component; 0 for a component that is only evaluated.

        Raises:
          InputError: If it is not a positive number or 0, or the function that computes it fails.
        """
        if not self.is_mixture:
            return 1.0
        (task,) = (t for t in seqio.get_subtasks(self.source) if t.name == component.name)
        what = f"mixture {self.name!r}: the rate of {component.name!r}"
        try:
            rate = float(self.source.get_rate(task))
        except Exception as e:  # A rate may be any function.
            raise InputError(f"{what} cannot be computed: {one_line(e)}") from e
        if not (rate >= 0 and np.isfinite(rate)):
            raise InputError(f"{what} is {rate!r}, expected a number that is not negative")
        return rate


@dataclasses.dataclass(frozen=True)
class SeqioComponent:
    """A task of seqio.

    Attributes:
      task: The task.

    Raises:
      InputError: If the engine does not support its features or metrics.
    """

    task: seqio.Task

    def __post_init__(self) -> None:
        features = self.task.output_features
        lacking = [name for name in _FEATURES if name not in features]
        if lacking:
            raise InputError(
                f"task {self.name!r} has no feature {lacking[0]!r}; the engine needs 'inputs' and "
                f"'targets', and its output features are {', '.join(map(repr, features))}"
            )
        for number, metric in enumerate(self._metric_objects()):
            if metric.model_output_type not in _ANSWERS:
                kind = getattr(metric.model_output_type, "name", metric.model_output_type)
                raise InputError(
                    f"task {self.name!r}: the metric {self._metric_name(number)} needs {kind}, and "
                    f"the engine has {' and '.join(known.name for known in _ANSWERS)}"
                )

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.name)

    def read(self, split: str, reading: Reading) -> Split:
        """Runs the task's preprocessors over a split.

        The seed determines the random numbers of a preprocessor. The preprocessors run once: each
        epoch has the same examples.

        Raises:
          InputError: If the vocabulary is not the model's, the split cannot be read or is empty,
            or an example is too long and lengths are strict.
        """
        for name in _FEATURES:
            _check_vocabulary(
                f"task {self.name!r}, feature {name!r}",
                self.task.output_features[name].vocabulary,
                reading.vocabulary,
            )
        what = f"task {self.name!r}, split {split!r}"
        lengths = reading.lengths
        try:
            dataset = _dataset(self.task, split, dataclasses.asdict(lengths), reading.seed)
            examples = list(dataset.as_numpy_iterator())
        except Exception as e:  # Data sources and preprocessors may raise anything.
            raise InputError(f"{what}: seqio cannot read it: {one_line(e)}") from e
        if not examples:
            raise InputError(f"task {self.name!r}: split {split!r} is empty")
        check = LengthCheck(lengths, what, reading.strict)
        whole = _whole_lengths(self.task, split, reading.seed)
        for number, example in enumerate(examples):
            inputs, targets = (len(example[name]) for name in _FEATURES)
            if len(whole) == len(examples):
                inputs, targets = np.maximum((inputs, targets), whole[number])
            check.see(inputs, targets)
        check.report()
        return _SeqioSplit(self, [_cut(example, lengths) for example in examples])

    def values(self, examples: Sequence[Mapping[str, Any]], answers: Answers) -> dict[str, float]:
        """Returns the values of the task's metrics, computed as `seqio.Evaluator` does.

        It leaves out values that are texts, such as examples with their predictions.

        Args:
          examples: The output of the preprocessors.
          answers: The model's answers.

        Raises:
          InputError: If a metric does not return numbers, or two metrics return the same name.
        """
        values: dict[str, float] = {}
        for number, metric in enumerate(self._metric_objects()):
            answered = _ANSWERS[metric.model_output_type](answers)
            made = metric.from_model_output(examples, answered, self.task.output_features)
            if isinstance(made, seqio.metrics.CollectingMetric):
                result, _ = made.actual_compute(examples, self.task.output_features)
            else:
                result = made.compute()
            name = f"{self._metric_name(number)} of task {self.name!r}"
            if isinstance(result, Mapping):
                # Texts are samples for TensorBoard; `eval` writes all predictions.
                result = {
                    key: getattr(value, "value", value)
                    for key, value in result.items()
                    if not isinstance(value, seqio.metrics.Text)
                }
            numbers = engine_task.as_numbers(result, name)
            twice = values.keys() & numbers.keys()
            if twice:
                raise InputError(f"two metrics return {min(twice)!r}; the second is {name}")
            values |= numbers
        return values

    @property
    def needs_scores(self) -> bool:
        """True if a metric needs the log-likelihood of the targets."""
        score = seqio.metrics.ModelOutputType.SCORE
        return any(metric.model_output_type is score for metric in self._metric_objects())

    def _metric_objects(self) -> Sequence[Any]:
        try:
            return self.task.metric_objs
        except ValueError as e:  # The function has parameters that no metric has.
            raise InputError(f"task {self.name!r}: {one_line(e)}") from e

    def _metric_name(self, number: int) -> str:
        """Returns the name of a metric object for messages."""
        # seqio wraps functions in objects without their names, and puts these last.
        functions = self.task.metric_fns
        metric = [*self.task.metric_objs[: -len(functions) or None], *functions][number]
        return getattr(metric, "__name__", type(metric).__name__)


@dataclasses.dataclass(frozen=True)
class _SeqioSplit:
    component: SeqioComponent
    made: Sequence[Mapping[str, Any]]

    @property
    def task_name(self) -> str:
        return self.component.name

    @functools.cached_property
    def tokenized(self) -> Sequence[batching.TokenizedExample]:
        return [
            batching.TokenizedExample(*(np.asarray(example[name], np.int32) for name in _FEATURES))
            for example in self.made
        ]

    @functools.cached_property
    def examples(self) -> Sequence[Example]:
        return [
            Example(self._text(example, "inputs"), self._text(example, "targets"))
            for example in self.made
        ]

    @property
    def needs_scores(self) -> bool:
        return self.component.needs_scores

    def metrics(self, answers: Answers) -> dict[str, float]:
        return self.component.values(self.made, answers)

    def _text(self, example: Mapping[str, Any], feature: str) -> str:
        text = example.get(f"{feature}_pretokenized")
        if isinstance(text, bytes):
            return text.decode()
        vocabulary = self.component.task.output_features[feature].vocabulary
        return vocabulary.decode(example[feature].tolist())


def _splits(task: seqio.Task) -> Sequence[str]:
    try:
        return list(task.splits)
    except Exception as e:  # A data source may raise anything while it looks for its splits.
        raise InputError(f"task {task.name!r}: seqio cannot tell its splits: {one_line(e)}") from e


def _dataset(
    task: seqio.Task, split: str, lengths: Mapping[str, int] | None, seed: int
) -> tf.data.Dataset:
    """Returns the output of a task's preprocessors, before seqio cuts it."""
    # A preprocessor may use random operations without a seed. These repeat their values only if
    # the maps that hold them do not run in parallel.
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(seed)
    dataset = task.get_dataset(
        sequence_length=lengths,
        split=split,
        use_cached=task.requires_caching,
        shuffle=False,
        seed=seed % _SEEDS,
        trim_output_features=False,
    )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("it has no end")
    for name in _FEATURES:
        axes = dataset.element_spec[name].shape.rank
        if axes != 1:
            raise ValueError(f"feature {name!r} has {axes} axes, expected one of ids")
    return dataset


def _whole_lengths(task: seqio.Task, split: str, seed: int) -> np.ndarray:
    """Returns the lengths of the examples when no preprocessor gets a feature length to cut to.

    Returns:
      `[N, 2]`, the lengths of inputs and targets of each example; no rows if no preprocessor takes
      feature lengths, or if one cannot run without them. If the task makes examples of a given
      length, as span corruption does, these are different examples, and N may differ too.
    """
    none = np.zeros((0, 2), int)
    if not any("sequence_length" in _parameters(function) for function in task.preprocessors):
        return none
    try:
        dataset = _dataset(task, split, None, seed)
        # In batches, since TensorFlow passes single examples to Python slowly.
        lengths = dataset.map(lambda e: tf.stack([tf.size(e[name]) for name in _FEATURES]))
        return np.concatenate([none, *lengths.batch(1024).as_numpy_iterator()])
    except Exception:  # A preprocessor without its lengths may raise anything.
        return none


def _parameters(function: Any) -> Sequence[str]:
    if dataclasses.is_dataclass(function):
        return [field.name for field in dataclasses.fields(function)]
    return list(inspect.signature(function).parameters)


def _cut(example: Mapping[str, Any], lengths: FeatureLengths) -> dict[str, Any]:
    return {
        name: value[: getattr(lengths, name)] if name in _FEATURES else value
        for name, value in example.items()
    }


def _check_vocabulary(what: str, found: Any, expected: SentencePieceVocabulary) -> None:
    """Refuses a vocabulary that gives ids another meaning than the model's vocabulary does.

    Raises:
      InputError: If the vocabularies differ. The message names the first difference.
    """
    ours = f"the model's vocabulary, {expected.sentencepiece_model_file},"
    if not isinstance(found, seqio.SentencePieceVocabulary):
        raise InputError(f"{what} has a {type(found).__name__}, and {ours} is one of SentencePiece")
    theirs = f"the vocabulary {found.sentencepiece_model_file}"
    try:
        size = found.vocab_size
    except Exception as e:  # TensorFlow's file systems raise many types.
        raise InputError(f"{what}: {theirs} cannot be read: {one_line(e)}") from e
    if size != expected.vocab_size:
        raise InputError(
            f"{what}: {theirs} has {size} ids ({found.extra_ids} extra ones among them), and "
            f"{ours} has {expected.vocab_size} ({expected.added_ids} added to the file); give the "
            "task the model's vocabulary, with as many extra ids"
        )
    pieces, our_pieces = (v.tokenizer.IdToPiece(list(range(size))) for v in (found, expected))
    for number, (piece, our_piece) in enumerate(zip(pieces, our_pieces, strict=True)):
        if piece != our_piece:
            raise InputError(
                f"{what}: {theirs} has {piece!r} for the id {number}, and {ours} {our_piece!r}; "
                "give the task the model's vocabulary"
            )
