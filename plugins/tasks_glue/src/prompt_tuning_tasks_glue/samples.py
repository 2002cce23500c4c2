"""Texts for TensorBoard: examples with their predictions, for the tasks named `…_examples`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from prompt_tuning_tasks_glue.answers import Postprocessor
from prompt_tuning_tasks_glue.scores import Score

_SHOWN = 8
"""The number of examples to show, and the number of wrong answers to show."""


def with_texts(postprocessor: Postprocessor) -> Postprocessor:
    """Returns a postprocessor that converts a prediction to a mapping with its texts.

    The mapping has the result of `postprocessor` as `prediction`, and the texts of the prediction,
    the inputs and the targets as `…_pretokenized`. `postprocessor` converts targets as before.
    """

    def postprocess(
        text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
    ) -> Any:
        value = postprocessor(text, example=example, is_target=is_target)
        if is_target:
            return value
        texts = {
            name: _text((example or {})[name])
            for name in ("inputs_pretokenized", "targets_pretokenized")
        }
        return {"prediction": value, "prediction_pretokenized": text, **texts}

    return postprocess


def without_texts(score: Score) -> Score:
    """Returns a metric for the results of `with_texts`; it ignores the texts."""

    def metric(targets: Sequence[Any], predictions: Sequence[Any]) -> Mapping[str, float]:
        return score(targets, [prediction["prediction"] for prediction in predictions])

    metric.__name__ = score.__name__
    return metric


def samples(benchmark: str, is_right: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    """Returns a metric whose values are texts: some examples, and some answered wrong.

    Each evaluation of a split shows the same examples, as long as they are still wrong.

    Args:
      benchmark: The beginning of the names of the values, `BENCHMARK samples` and
        `BENCHMARK negative samples`.
      is_right: Returns True if a prediction is right. It gets the results of the postprocessor
        for target and prediction.
    """

    def examples(
        targets: Sequence[Any], predictions: Sequence[Any]
    ) -> dict[str, seqio.metrics.Text]:
        wrong = [
            prediction
            for target, prediction in zip(targets, predictions, strict=True)
            if not is_right(target, prediction["prediction"])
        ]
        return {
            f"{benchmark} samples": _page(predictions),
            f"{benchmark} negative samples": _page(wrong),
        }

    return examples


def _page(predictions: Sequence[Mapping[str, str]]) -> seqio.metrics.Text:
    shown = sorted(random.Random(0).sample(range(len(predictions)), min(_SHOWN, len(predictions))))
    return seqio.metrics.Text("\n\n---\n\n".join(_entry(predictions[number]) for number in shown))


def _entry(prediction: Mapping[str, str]) -> str:
    # TensorBoard renders Markdown, in which an empty line ends a paragraph.
    return "\n\n".join(
        f"{heading}: {prediction[f'{key}_pretokenized']}"
        for heading, key in (
            ("example", "inputs"), ("target", "targets"), ("prediction", "prediction")
        )
    )  # fmt: skip


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
