"""Metrics of text tasks: functions of target and predicted texts that return named values.

A task gives the name of a metric of this module, or a function of its own:

```
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks
import my_module

my_task/tasks.TextTask.metrics = ['exact_match', @my_module.my_metric]
```

To set the parameters of a metric such as `macro_f1` in gin, refer to the metric as
`@metrics.macro_f1`.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

from prompt_tuning_core.errors import InputError, nearest

Metric = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share, from 0 to 1, of predictions that equal their target exactly."""
    return {"exact_match": _share_equal(targets, predictions)}


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share, from 0 to 1, of predicted labels that equal the target's label.

    A prediction that is no label counts as wrong, as in T5. For text, this returns the same value
    as `exact_match`.
    """
    return {"accuracy": _share_equal(targets, predictions)}


def macro_f1(
    targets: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None = None
) -> dict[str, float]:
    """Returns the mean over classes of each class's F1, from 0 to 1.

    It is T5's `mean_multiclass_f1`, which gives percent. Every class has the same weight. A
    prediction that is no class counts as a miss for the class of its target.

    Args:
      targets: The class of each example.
      predictions: The predicted class of each.
      classes: The classes; None for the classes among the targets. A class that occurs in neither
        targets nor predictions has F1 0.
    """
    named = dict.fromkeys(targets if classes is None else classes)
    true, predicted = collections.Counter(targets), collections.Counter(predictions)
    right = collections.Counter(t for t, p in zip(targets, predictions, strict=True) if t == p)
    # 2 TP / (2 TP + FP + FN), whose denominator counts targets and predictions.
    f1 = [2 * right[c] / (true[c] + predicted[c]) if right[c] else 0.0 for c in named]
    return {"macro_f1": sum(f1) / len(f1)}


def token_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the mean F1, from 0 to 1, between the words of prediction and target.

    It is the F1 of SQuAD (Rajpurkar et al. 2016) as in T5's `squad` metric, which gives percent.
    Texts are compared in lower case, without ASCII punctuation and without the articles a, an and
    the. A word counts as often as it occurs in both texts. Texts that share no word have F1 0, even
    two empty texts.
    """
    f1 = [_word_f1(t, p) for t, p in zip(targets, predictions, strict=True)]
    return {"token_f1": sum(f1) / len(f1)}


def _share_equal(targets: Sequence[str], predictions: Sequence[str]) -> float:
    equal = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return equal / len(targets)


def _word_f1(target: str, prediction: str) -> float:
    expected, found = answer_words(target), answer_words(prediction)
    shared = sum((collections.Counter(expected) & collections.Counter(found)).values())
    return 2 * shared / (len(expected) + len(found)) if shared else 0.0


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_words(text: str) -> list[str]:
    """Returns the words of a text that `token_f1` compares, in order."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return re.sub(r"\b(?:the|an?)\b", " ", text).split()


METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "token_f1": token_f1,
}


def get(metric: str | Metric) -> Metric:
    """Returns the metric with this name; returns a function unchanged.

    Raises:
      InputError: If no metric has that name, or `metric` is neither a name nor a function.
    """
    if callable(metric):
        return metric
    if not isinstance(metric, str):
        raise InputError(
            f"a metric is {metric!r}, expected a name or a function: 'exact_match', "
            "@my_module.my_metric"
        )
    try:
        return METRICS[metric]
    except KeyError:
        raise InputError(f"unknown metric {metric!r}{nearest(metric, METRICS)}") from None


def name_of(metric: str | Metric) -> str:
    """Returns the name of a metric in messages."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
