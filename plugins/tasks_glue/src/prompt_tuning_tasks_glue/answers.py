"""Postprocessors, which convert decoded texts, predictions and targets, for the metrics.

Each has the parameters of a postprocessor of seqio: the decoded text, the example, and whether the
text is the example's target rather than a prediction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Postprocessor = Callable[..., Any]

NOT_TOLD = "<unk>"
"""The target of an example without an answer in the dataset, as in test splits."""

NO_LABEL = ""
"""The value of a prediction that names no class."""


def label(labels: Sequence[str]) -> Postprocessor:
    """Returns a postprocessor that keeps targets, and returns `NO_LABEL` for unknown classes."""
    return functools.partial(_label, labels=tuple(labels))


def _label(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False, *,
    labels: Sequence[str],
) -> str:  # fmt: skip
    del example
    return text if is_target or text in labels else NO_LABEL


def number(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> float:
    """Converts a text to a number; -1, which no example has, if the text is no number."""
    del example, is_target
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


def answer_in_group(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> dict[str, Any]:
    """Returns MultiRC's `True` or `False` as `value`; for a target also its question as `group`."""
    if not is_target:
        return {"value": _label(text, labels=("False", "True"))}
    assert example is not None
    return {"value": text, "group": (int(example["idx/paragraph"]), int(example["idx/question"]))}


def entity(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> dict[str, Any]:
    """Returns ReCoRD's entity as `value`; for a target, all right entities, and its `group`."""
    if not is_target:
        return {"value": text}
    assert example is not None
    return {
        "value": [_text(answer) for answer in example["answers"]],
        "group": (int(example["idx/passage"]), int(example["idx/query"])),
    }


_DETERMINERS = {
    "a", "an", "the", "this", "that", "these", "those", "which", "whose", "my", "your", "his",
    "her", "our", "their", "each", "every", "few", "many", "much", "some",
}  # fmt: skip


def names_the_noun(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> str:
    """Returns `True` if a text names the noun of a WSC example, `False` if it does not.

    It ignores determiners and capitals. One name may be longer: "bunny" names "the fluffy bunny",
    but "Bob" does not name "Bob's hat". For a target, returns True if the noun of the example is
    the right one, or `<unk>`.
    """
    assert example is not None
    if is_target:
        return {1: "True", 0: "False"}.get(int(example["label"]), NOT_TOLD)
    said, noun = _noun_words(text), _noun_words(_text(example["targets_pretokenized"]))
    if not said:
        return NO_LABEL
    same_possession = any("'" in word for word in said) == any("'" in word for word in noun)
    return str(bool(noun) and same_possession and (said <= noun or noun <= said))


def _noun_words(text: str) -> set[str]:
    return set(text.lower().split()) - _DETERMINERS


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
