"""Metrics of text tasks: functions of target and predicted texts that return named values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prompt_tuning_core.errors import InputError, nearest

Metric = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share, from 0 to 1, of predictions that equal their target to the letter."""
    return {"exact_match": _share_equal(targets, predictions)}


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the share, from 0 to 1, of predicted labels that are the target's.

    A prediction that is no label at all counts as wrong, as in T5; on text, the value is that of
    `exact_match`.
    """
    return {"accuracy": _share_equal(targets, predictions)}


def _share_equal(targets: Sequence[str], predictions: Sequence[str]) -> float:
    equal = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return equal / len(targets)


METRICS: dict[str, Metric] = {"exact_match": exact_match, "accuracy": accuracy}


def get(name: str) -> Metric:
    """Returns the metric called `name`.

    Raises:
      InputError: If there is none of that name.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise InputError(f"unknown metric {name!r}{nearest(name, METRICS)}") from None
