"""Registers GLUE and SuperGLUE with seqio, for any vocabulary.

For your own vocabulary, in the module that MIXTURE_OR_TASK_MODULE names:

```
import seqio
from prompt_tuning_tasks_glue import registration

registration.register_glue(seqio.SentencePieceVocabulary("my/sentencepiece.model"))
```

T5X compares the task's vocabulary with the model's: give both the same path and number of extra
ids.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import seqio
import tensorflow as tf

from prompt_tuning_core.errors import InputError
from prompt_tuning_tasks_glue import benchmarks, samples
from prompt_tuning_tasks_glue.benchmarks import Benchmark

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
"""The vocabulary of T5, with 100 extra ids among its pieces, as T5X's gin files name it."""

MT5_VOCABULARY = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
"""The vocabulary of mT5, as T5X's gin files name it."""

GLUE_VERSIONS = {"v002": "1.0.0", "v200": "2.0.0"}
"""The versions of GLUE in TensorFlow Datasets, by their form in the names of tasks."""

SUPER_GLUE_VERSION = "1.0.2"
"""The version of SuperGLUE, v102 in the names of tasks."""


def released_vocabularies() -> dict[str, seqio.Vocabulary]:
    """Returns the vocabularies of T5, mT5 and ByT5, by the beginning of their tasks' names.

    seqio reads their files when it reads a task.
    """
    return {
        "": seqio.SentencePieceVocabulary(T5_VOCABULARY),
        "mt5_": seqio.SentencePieceVocabulary(MT5_VOCABULARY),
        "byt5_": seqio.ByteVocabulary(),
    }


def register_glue(vocabulary: seqio.Vocabulary, prefix: str = "") -> None:
    """Registers the tasks of GLUE, and mixtures of MNLI and its two validation sets.

    Args:
      vocabulary: The vocabulary of inputs and targets.
      prefix: The beginning of all names, to distinguish the tasks of several vocabularies.

    Raises:
      InputError: If a name is taken; nothing is registered then.
    """
    tasks: dict[str, seqio.Task] = {}
    mixtures: dict[str, Mapping[str, float]] = {}
    for version, release in GLUE_VERSIONS.items():
        for variant in _variants(vocabulary, prefix, benchmarks.GLUE):
            for benchmark in benchmarks.GLUE:
                name = variant.name(f"glue_{benchmark.config}_{version}")
                tasks[name] = variant.task(name, benchmark, f"glue/{benchmark.config}:{release}")
            if variant.shows_examples:
                mixtures[variant.name(f"glue_mnli_and_dev_{version}")] = {
                    variant.name(f"glue_{config}_{version}"): 1.0
                    for config in ("mnli", "mnli_mismatched", "mnli_matched")
                }
    _add(tasks, mixtures)


def register_super_glue(vocabulary: seqio.Vocabulary, prefix: str = "") -> None:
    """Registers the tasks of SuperGLUE, mixtures for WSC's training and evaluation, and one of all.

    Args:
      vocabulary: The vocabulary of inputs and targets.
      prefix: The beginning of all names, to distinguish the tasks of several vocabularies.

    Raises:
      InputError: If a name is taken; nothing is registered then.
    """
    wsc = {"train": benchmarks.WSC_TRAIN, "eval": benchmarks.WSC_EVAL}
    named = {f"super_glue_{b.config}_v102": b for b in benchmarks.SUPER_GLUE}
    named |= {f"super_glue_wsc_v102_simple_{use}": b for use, b in wsc.items()}
    tasks: dict[str, seqio.Task] = {}
    mixtures: dict[str, Mapping[str, float]] = {}
    for variant in _variants(vocabulary, prefix, tuple(named.values())):
        for base, benchmark in named.items():
            name = variant.name(base)
            source = f"super_glue/{benchmark.config}:{SUPER_GLUE_VERSION}"
            tasks[name] = variant.task(name, benchmark, source)
        mixtures[variant.name("super_glue_wsc_and_dev_v102_simple")] = {
            variant.name(f"super_glue_wsc_v102_simple_{use}"): 1.0 for use in wsc
        }
        if variant.shows_examples and variant.has_number:
            mixtures[f"{variant.name('super_glue_v102')}_proportional"] = {
                variant.name(f"super_glue_{task}"): float(rate)
                for task, rate in benchmarks.SUPER_GLUE_RATES.items()
            }
    _add(tasks, mixtures)


@dataclasses.dataclass(frozen=True)
class _Variant:
    """One way of making a task of each benchmark.

    Attributes:
      vocabulary: The vocabulary of inputs and targets.
      name_prefix: The beginning of the names of tasks.
      has_prefix: True if inputs begin with T5's name of the task.
      has_number: True if inputs begin with an extra id instead, a different one for each task.
      shows_examples: True if the metrics include examples.
      numbers: The number of each benchmark's extra id, by T5's name of the task.
    """

    vocabulary: seqio.Vocabulary
    name_prefix: str
    has_prefix: bool
    has_number: bool
    shows_examples: bool
    numbers: Mapping[str, int]

    def name(self, base: str) -> str:
        return f"{self.name_prefix}{base}{'_examples' if self.shows_examples else ''}"

    def task(self, name: str, benchmark: Benchmark, tfds_name: str) -> seqio.Task:
        number = self.numbers[benchmark.prefix]
        feature = seqio.Feature(vocabulary=self.vocabulary, add_eos=True)
        postprocessor, metrics = benchmark.postprocessor, list(benchmark.scores)
        if self.shows_examples:
            postprocessor = samples.with_texts(postprocessor)
            metrics = [samples.without_texts(score) for score in metrics]
        if self.shows_examples and metrics:
            metrics.append(samples.samples(benchmark.shown_as, benchmark.is_right))
        return seqio.Task(
            name,
            source=seqio.TfdsDataSource(tfds_name=tfds_name, splits=benchmark.splits),
            preprocessors=[
                benchmark.form(benchmark.prefix if self.has_prefix else None),
                seqio.preprocessors.tokenize,
                *([functools.partial(_number_inputs, number=number)] if self.has_number else []),
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos_after_trim,
            ],
            postprocess_fn=postprocessor,
            metric_fns=metrics,
            output_features={"inputs": feature, "targets": feature},
        )


def _variants(
    vocabulary: seqio.Vocabulary, prefix: str, all_benchmarks: Sequence[Benchmark]
) -> Iterator[_Variant]:
    """Yields the variants of the reference; T5's own has its prefix and no examples."""
    words = sorted({benchmark.prefix for benchmark in all_benchmarks})
    numbers = {word: number for number, word in enumerate(words)}
    for shows in (True, False):
        if shows:
            yield _Variant(vocabulary, prefix, True, False, shows, numbers)
        yield _Variant(vocabulary, f"{prefix}taskless_", False, False, shows, numbers)
        yield _Variant(vocabulary, f"{prefix}task_index_", False, True, shows, numbers)


def _number_inputs(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature], number: int
) -> tf.data.Dataset:
    # The first of the extra ids is the last of the vocabulary.
    extra_id = output_features["inputs"].vocabulary.vocab_size - 1 - number

    def prepend(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = example["inputs"]
        return {**example, "inputs": tf.concat([tf.cast([extra_id], ids.dtype), ids], axis=0)}

    return dataset.map(prepend, num_parallel_calls=tf.data.AUTOTUNE)


def _add(tasks: Mapping[str, seqio.Task], mixtures: Mapping[str, Mapping[str, float]]) -> None:
    registered = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    taken = registered & {*tasks, *mixtures}
    if taken:
        raise InputError(
            f"seqio has a task called {min(taken)!r} already; for tasks of another vocabulary, "
            "give a prefix of names; for your own vocabulary instead of T5's, do not import "
            "prompt_tuning_tasks_glue.glue and .super_glue"
        )
    for task in tasks.values():
        seqio.TaskRegistry.add_provider(task.name, task)
    for name, rates in mixtures.items():
        seqio.MixtureRegistry.add(name, list(rates.items()))
