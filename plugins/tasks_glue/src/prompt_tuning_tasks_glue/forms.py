"""Text-to-text forms: convert examples of TensorFlow Datasets to inputs and targets.

The forms are T5's (Raffel et al. 2020, appendix D). Each form is a callable that takes a
dataset of examples from TensorFlow Datasets. It returns a dataset of examples with `inputs`,
`targets` and the fields that the metrics need. In T5, inputs begin with the name of the task; for
prompt tuning, they begin with the first field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from prompt_tuning_tasks_glue.answers import NOT_TOLD

_Example = dict[str, Any]


class Form(Protocol):
    """A dataset's examples as inputs and targets."""

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset with `inputs` and `targets`, both scalar strings."""


class WithPrefix(Protocol):
    """A form that still needs the prefix of inputs."""

    def __call__(self, prefix: str | None) -> Form:
        """Returns the form whose inputs begin with `prefix` and a space; with nothing for None."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """`PREFIX FIELD: text FIELD: text` to the name of a class.

    Attributes:
      prefix: The beginning of inputs.
      fields: The names of the fields in inputs, in order, and of their keys in the dataset.
      labels: The names of the classes by number. An example without a known class has the number
        -1, and the target `<unk>`.
    """

    prefix: str | None
    fields: Mapping[str, str]
    labels: Sequence[str]

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset in this form, `idx` kept."""

        def convert(example: _Example) -> _Example:
            return {
                "idx": example["idx"],
                "inputs": _fields(self.prefix, self.fields, example),
                "targets": _label(self.labels, example["label"]),
            }

        return _map(dataset, convert)


@dataclasses.dataclass(frozen=True)
class Similarity:
    """STS-B: two sentences to their similarity, from 0 to 5 in steps of 0.2, such as `3.4`.

    Attributes:
      prefix: The beginning of inputs.
    """

    prefix: str | None

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset in this form, `idx` kept."""
        fields = {"sentence1": "sentence1", "sentence2": "sentence2"}

        def convert(example: _Example) -> _Example:
            return {
                "idx": example["idx"],
                "inputs": _fields(self.prefix, fields, example),
                "targets": tf.strings.as_string(tf.round(example["label"] * 5) / 5, precision=1),
            }

        return _map(dataset, convert)


@dataclasses.dataclass(frozen=True)
class MultiRC:
    """MultiRC: a question, one of its answers and a paragraph to `True` or `False`.

    HTML is removed from the paragraph. Each example keeps the numbers of paragraph and question, by
    which the metrics group the answers to a question.

    Attributes:
      prefix: The beginning of inputs.
    """

    prefix: str | None

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset in this form, `idx/paragraph`, `idx/question`, `idx/answer` kept."""
        fields = {name: name for name in ("question", "answer", "paragraph")}

        def convert(example: _Example) -> _Example:
            inputs = _fields(self.prefix, fields, example)
            inputs = tf.strings.regex_replace(inputs, "<br>", " ")
            return {
                **{f"idx/{name}": number for name, number in example["idx"].items()},
                "inputs": tf.strings.regex_replace(inputs, "</?b>", ""),
                "targets": _label(("False", "True"), example["label"]),
            }

        return _map(dataset, convert)


@dataclasses.dataclass(frozen=True)
class Record:
    """ReCoRD: a query with a gap, entities and a passage to the entity that fills the gap.

    A query with three right answers gives three examples. A query without a right answer, as in the
    test split, gives one example with the target `<unk>`. Marks of highlights become ends of
    sentences.

    Attributes:
      prefix: The beginning of inputs.
    """

    prefix: str | None

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset in this form, `answers`, `idx/passage` and `idx/query` kept."""
        fields = {name: name for name in ("query", "entities", "passage")}

        def convert(example: _Example) -> tf.data.Dataset:
            answers = example["answers"]
            passage = tf.strings.regex_replace(
                example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 "
            )
            texts = {
                "query": example["query"],
                "entities": tf.strings.reduce_join(example["entities"], separator=", "),
                "passage": tf.strings.regex_replace(passage, r"\n@highlight\n", ". "),
            }
            targets = tf.cond(
                tf.size(answers) > 0, lambda: answers, lambda: tf.constant([NOT_TOLD])
            )
            common = {
                **{f"idx/{name}": number for name, number in example["idx"].items()},
                "inputs": _fields(self.prefix, fields, texts),
                "answers": answers,
            }
            each = tf.data.Dataset.from_tensor_slices(targets)
            return each.map(lambda target: {**common, "targets": target})

        return dataset.flat_map(convert)


@dataclasses.dataclass(frozen=True)
class Winograd:
    """WSC: a sentence with a pronoun between asterisks to the noun that it stands for.

    An example has a noun and the question whether it is right. The model does not judge this noun:
    it names one. So only examples with a right noun can be trained on. In the rest, an answer
    counts as right if it differs from the noun.

    Attributes:
      prefix: The beginning of inputs.
      only_right: True leaves out the examples whose noun is wrong.
    """

    prefix: str | None
    only_right: bool = False

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset in this form, `label` and `idx` kept.

        Raises:
          tf.errors.InvalidArgumentError: While the dataset is read, if a pronoun is not at the
            place that the example states.
        """
        if self.only_right:
            dataset = dataset.filter(lambda example: tf.equal(example["label"], 1))

        def convert(example: _Example) -> _Example:
            return {
                "idx": example["idx"],
                "inputs": _join(self.prefix, _with_marked_pronoun(example)),
                "targets": example["span1_text"],
                "label": example["label"],
            }

        return _map(dataset, convert)


def _with_marked_pronoun(example: _Example) -> tf.Tensor:
    words = tf.strings.split(example["text"], sep=" ")
    pronoun, index = example["span2_text"], example["span2_index"]
    # In some examples the position is wrong by a word, or the pronoun has punctuation.
    escaped = tf.strings.regex_replace(pronoun, r"(\W)", r"\\\1")
    pattern = tf.strings.join([escaped, r"\W*"])
    found = tf.where(tf.strings.regex_full_match(words, pattern))[:, 0]
    at_all = tf.debugging.Assert(tf.size(found) > 0, ["WSC: no pronoun", pronoun, "in", words])
    with tf.control_dependencies([at_all]):
        distance = tf.abs(found - tf.cast(index, tf.int64))
    here = found[tf.argmin(distance)]
    rest = tf.strings.substr(words[here], tf.strings.length(pronoun), -1)
    marked = tf.stack([tf.strings.join(["*", pronoun, "*"]), rest])
    joined = tf.concat([words[:here], marked, words[here + 1 :]], axis=0)
    joined = tf.boolean_mask(joined, tf.strings.length(joined) > 0)
    return tf.strings.reduce_join(joined, separator=" ")


def _label(labels: Sequence[str], number: tf.Tensor) -> tf.Tensor:
    return tf.gather([NOT_TOLD, *labels], number + 1)


def _fields(prefix: str | None, fields: Mapping[str, str], example: _Example) -> tf.Tensor:
    parts = [part for name, key in fields.items() for part in (f"{name}:", example[key])]
    return _join(prefix, *parts)


def _join(prefix: str | None, *parts: str | tf.Tensor) -> tf.Tensor:
    return tf.strings.join([*([] if prefix is None else [prefix]), *parts], separator=" ")


def _map(dataset: tf.data.Dataset, function: Any) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
