"""Registers text tasks with seqio, the library that reads data for T5X.

In a module that T5X imports (MIXTURE_OR_TASK_MODULE):

```
import seqio
import prompt_tuning_tasks as tasks
from prompt_tuning_tasks import seqio_registration

vocabulary = seqio.SentencePieceVocabulary("sentencepiece.model", extra_ids=100)
seqio_registration.register(tasks.get("sst2"), vocabulary)
```

T5X then gets the same ids, targets and metric values as the embedded engine.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prompt_tuning_core.errors import InputError, one_line
from prompt_tuning_tasks import Mixture, Task, TextTask, metrics

if TYPE_CHECKING:
    import seqio
    import tensorflow as tf

_registered: dict[str, tuple[Task, Any]] = {}


def register(task: Task, vocabulary: seqio.Vocabulary) -> seqio.Task | seqio.Mixture:
    """Registers a text task, or a mixture and its tasks, with seqio under its name.

    Files are read when seqio asks for a split. As in T5, inputs and targets are tokenized, and EOS
    is appended before seqio cuts them. Registering the same task again changes nothing.

    Args:
      task: The task. `prompt_tuning_tasks.get` returns a task that is described in gin.
      vocabulary: The vocabulary of inputs and targets.

    Returns:
      seqio's task or mixture.

    Raises:
      InputError: If the name is taken or seqio does not allow it, or the vocabulary is not seqio's.
    """
    import seqio

    if not isinstance(vocabulary, seqio.Vocabulary):
        raise InputError(
            f"the vocabulary of task {task.name!r} is a {type(vocabulary).__name__}, expected "
            "seqio's, such as seqio.SentencePieceVocabulary"
        )
    if _registered.get(task.name) == (task, vocabulary):
        return seqio.get_mixture_or_task(task.name)
    if task.name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}:
        raise InputError(f"seqio has another task or mixture called {task.name!r} already")
    try:
        added = (
            _add_mixture(task, vocabulary)
            if isinstance(task, Mixture)
            else _add_task(task, vocabulary)
        )
    except ValueError as e:  # A name with a character that seqio does not allow.
        raise e if isinstance(e, InputError) else InputError(one_line(e)) from e
    _registered[task.name] = (task, vocabulary)
    return added


def _add_mixture(mixture: Mixture, vocabulary: seqio.Vocabulary) -> seqio.Mixture:
    import seqio

    for task, _ in mixture.components:
        register(task, vocabulary)
    rates = [(task.name, float(rate)) for task, rate in mixture.components]
    return seqio.MixtureRegistry.add(mixture.name, rates)


def _add_task(task: TextTask, vocabulary: seqio.Vocabulary) -> seqio.Task:
    import seqio

    feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
    return seqio.TaskRegistry.add(
        task.name,
        source=seqio.FunctionDataSource(
            functools.partial(_dataset, task), splits=list(task.splits)
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[_as_seqio_has_it(metrics.get(metric)) for metric in task.metrics],
    )


def _dataset(
    task: TextTask, split: str, shuffle_files: bool, seed: int | None = None
) -> tf.data.Dataset:
    """Returns a split as texts. seqio requires these parameters."""
    import tensorflow as tf

    del shuffle_files, seed  # seqio shuffles the examples.
    examples = task.examples(split)
    text = tf.TensorSpec((), tf.string)
    return tf.data.Dataset.from_generator(
        lambda: ({"inputs": e.inputs, "targets": e.targets} for e in examples),
        output_signature={"inputs": text, "targets": text},
    )


def _as_seqio_has_it(metric: metrics.Metric) -> metrics.Metric:
    """Gives a metric the parameter names by which seqio knows a metric of predictions."""

    def metric_fn(targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
        return metric(targets, predictions)

    metric_fn.__name__ = metrics.name_of(metric)
    return metric_fn
