"""Metrics, in percent and by T5's names.

Each is a function of the targets and predictions that the postprocessors in `answers` return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics

from prompt_tuning_tasks import metrics

Score = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share of predicted classes that equal the target's class."""
    return {"accuracy": 100 * metrics.accuracy(targets, predictions)["accuracy"]}


def mean_f1(classes: Sequence[str]) -> Score:
    """Returns the metric `mean_Nclass_f1`: the mean of the F1 of each of N classes."""

    def mean_class_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        value = metrics.macro_f1(targets, predictions, classes)["macro_f1"]
        return {f"mean_{len(classes)}class_f1": 100 * value}

    return mean_class_f1


def f1(negative: str, positive: str) -> Score:
    """Returns the metric `f1` of two classes, the F1 of the positive one.

    A prediction that is neither class counts as wrong.
    """
    opposite = {negative: positive, positive: negative}

    def binary_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        valid = [
            prediction if prediction in opposite else opposite.get(target, negative)
            for target, prediction in zip(targets, predictions, strict=True)
        ]
        return {"f1": 100 * metrics.macro_f1(targets, valid, [positive])["macro_f1"]}

    return binary_f1


def matthews_corrcoef(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns Matthews' correlation of classes; predictions of no class count as another class.

    It is 0 if it is undefined, for example if all predictions are the same.
    """
    value = sklearn.metrics.matthews_corrcoef(list(targets), list(predictions))
    return {"matthews_corrcoef": 100 * float(value)}


def pearson_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns Pearson's correlation of numbers; 0 if it is undefined."""
    return {"pearson_corrcoef": _correlation(scipy.stats.pearsonr, targets, predictions)}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns Spearman's correlation of numbers, computed on their ranks; 0 if it is undefined."""
    return {"spearman_corrcoef": _correlation(scipy.stats.spearmanr, targets, predictions)}


def _correlation(
    function: Callable[..., Any], targets: Sequence[float], predictions: Sequence[float]
) -> float:
    if min(np.ptp(targets), np.ptp(predictions)) == 0:
        return 0.0
    return 100 * float(function(targets, predictions).statistic)


def f1_of_values(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Returns the metric `f1` of MultiRC, over all answers to all questions."""
    function = f1("False", "True")
    return dict(function([t["value"] for t in targets], [p["value"] for p in predictions]))


def exact_match_of_groups(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Returns the share of MultiRC's questions for which every answer is judged correctly."""
    right: dict[Any, bool] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        equal = target["value"] == prediction["value"]
        right[target["group"]] = right.get(target["group"], True) and equal
    return {"exact_match": 100 * sum(right.values()) / len(right)}


def best_of_answers(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Returns ReCoRD's `em` and `f1`; each query counts once, with its nearest right answer.

    Texts are compared as in SQuAD: see `prompt_tuning_tasks.metrics.token_f1`.
    """
    queries: dict[Any, tuple[Sequence[str], str]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        queries.setdefault(target["group"], (target["value"], prediction["value"]))
    exact = [is_an_answer(answers, said) for answers, said in queries.values()]
    overlaps = [
        max((metrics.token_f1([answer], [said])["token_f1"] for answer in answers), default=0.0)
        for answers, said in queries.values()
    ]
    return {name: 100 * sum(v) / len(queries) for name, v in (("em", exact), ("f1", overlaps))}


def is_an_answer(answers: Sequence[str], text: str) -> bool:
    """Returns True if a text is one of the answers, compared as in SQuAD."""
    return any(metrics.answer_words(answer) == metrics.answer_words(text) for answer in answers)
