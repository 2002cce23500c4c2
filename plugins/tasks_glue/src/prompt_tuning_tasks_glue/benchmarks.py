"""The tasks of GLUE and SuperGLUE: form, postprocessor and metrics of each.

The names of configurations, fields and classes come from TensorFlow Datasets. The metrics are the
ones in the papers (Wang et al. 2019a, 2019b), as in T5.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning_tasks_glue import answers, forms, scores


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One task of GLUE or SuperGLUE.

    Attributes:
      config: Its configuration in TensorFlow Datasets; the seqio task has the same name.
      prefix: The first word of inputs in T5.
      form: The form of its texts, without the prefix.
      postprocessor: Converts a decoded text for the metrics.
      scores: The metrics; none if only the organizers have the answers.
      splits: The splits to use; None for all.
      is_right: Returns True if a prediction is right. It gets the results of the postprocessor
        for target and prediction.
    """

    config: str
    prefix: str
    form: forms.WithPrefix
    postprocessor: answers.Postprocessor
    scores: Sequence[scores.Score]
    splits: Sequence[str] | None = None
    is_right: Callable[[Any, Any], bool] = operator.eq

    @property
    def shown_as(self) -> str:
        """The beginning of the names of metrics whose values are texts."""
        return self.config.removesuffix(".fixed")


def _of_classes(
    config: str,
    fields: Sequence[str] | Mapping[str, str],
    labels: Sequence[str],
    *metrics: scores.Score,
    cast_as: str | None = None,
    splits: Sequence[str] | None = None,
) -> Benchmark:
    keys = fields if isinstance(fields, Mapping) else {name: name for name in fields}
    return Benchmark(
        config,
        cast_as or config,
        functools.partial(forms.Labelled, fields=keys, labels=labels),
        answers.label(labels),
        metrics,
        splits,
    )


_ACCEPTABLE = ("unacceptable", "acceptable")
_SENTIMENT = ("negative", "positive")
_EQUIVALENT = ("not_equivalent", "equivalent")
_DUPLICATE = ("not_duplicate", "duplicate")
_MNLI = ("entailment", "neutral", "contradiction")
_CB = ("entailment", "contradiction", "neutral")
_ENTAILMENT = ("entailment", "not_entailment")
_WNLI = ("not_entailment", "entailment")
_CHOICES = ("choice1", "choice2")
_FALSE_OR_TRUE = ("False", "True")

_SENTENCES = ("sentence1", "sentence2")
_PREMISE = ("hypothesis", "premise")

GLUE = (
    _of_classes("cola", ("sentence",), _ACCEPTABLE, scores.matthews_corrcoef),
    _of_classes("sst2", ("sentence",), _SENTIMENT, scores.accuracy),
    _of_classes("mrpc", _SENTENCES, _EQUIVALENT, scores.f1(*_EQUIVALENT), scores.accuracy),
    _of_classes(
        "qqp", ("question1", "question2"), _DUPLICATE, scores.f1(*_DUPLICATE), scores.accuracy
    ),
    Benchmark(
        "stsb", "stsb", forms.Similarity, answers.number,
        (scores.pearson_corrcoef, scores.spearman_corrcoef),
    ),
    _of_classes("mnli", _PREMISE, _MNLI, scores.accuracy),
    _of_classes("mnli_mismatched", _PREMISE, _MNLI, scores.accuracy, cast_as="mnli"),
    _of_classes("mnli_matched", _PREMISE, _MNLI, scores.accuracy, cast_as="mnli"),
    _of_classes("qnli", ("question", "sentence"), _ENTAILMENT, scores.accuracy),
    _of_classes("rte", _SENTENCES, _ENTAILMENT, scores.accuracy),
    _of_classes("wnli", _SENTENCES, _WNLI, scores.accuracy),
    _of_classes("ax", _PREMISE, _MNLI, cast_as="mnli", splits=("test",)),
)  # fmt: skip
"""The tasks of GLUE (Wang et al. 2019a), with MNLI's two validation sets as separate tasks."""

SUPER_GLUE = (
    _of_classes("boolq", ("passage", "question"), _FALSE_OR_TRUE, scores.accuracy),
    _of_classes("cb", _PREMISE, _CB, scores.mean_f1(_CB), scores.accuracy),
    _of_classes("copa", ("choice1", "choice2", "premise", "question"), _CHOICES, scores.accuracy),
    Benchmark(
        "multirc", "multirc", forms.MultiRC, answers.answer_in_group,
        (scores.f1_of_values, scores.exact_match_of_groups),
        is_right=lambda target, prediction: target["value"] == prediction["value"],
    ),
    Benchmark(
        "record", "record", forms.Record, answers.entity, (scores.best_of_answers,),
        is_right=lambda target, said: scores.is_an_answer(target["value"], said["value"]),
    ),
    _of_classes("rte", _PREMISE, _ENTAILMENT, scores.accuracy),
    _of_classes("wic", (*_SENTENCES, "word"), _FALSE_OR_TRUE, scores.accuracy),
    # Cast as RTE. The first of the two has other names for RTE's fields.
    _of_classes(
        "axb", {"hypothesis": "sentence2", "premise": "sentence1"}, _ENTAILMENT,
        cast_as="rte", splits=("test",),
    ),
    _of_classes("axg", _PREMISE, _ENTAILMENT, cast_as="rte", splits=("test",)),
)  # fmt: skip
"""The tasks of SuperGLUE (Wang et al. 2019b), without WSC, which has tasks of its own below."""

_WSC = Benchmark("wsc.fixed", "wsc:", forms.Winograd, answers.names_the_noun, (scores.accuracy,))

WSC_TRAIN = dataclasses.replace(
    _WSC, form=functools.partial(forms.Winograd, only_right=True), scores=(), splits=("train",)
)
"""The examples of WSC that can be trained on."""

WSC_EVAL = dataclasses.replace(_WSC, splits=("validation", "test"))
"""All examples of WSC, for evaluation."""

SUPER_GLUE_RATES = {
    "wsc_v102_simple_train": 259,
    "wsc_v102_simple_eval": 0,
    "boolq_v102": 9_427,
    "cb_v102": 250,
    "copa_v102": 400,
    "multirc_v102": 27_243,
    "record_v102": 138_854,
    "rte_v102": 2_490,
    "wic_v102": 5_428,
}
"""The rates of a mixture of SuperGLUE: the numbers of training examples."""
