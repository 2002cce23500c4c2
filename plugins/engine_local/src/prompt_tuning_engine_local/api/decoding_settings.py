"""Settings of decoding as keywords, and the decode functions for them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.model import decoding
from prompt_tuning_engine_local.model.decoding import DecodeFn


class Decoding(TypedDict, total=False):
    """Settings of decoding, with T5X's names (see `model.decoding`).

    Attributes:
      num_beams: Beams of a beam search; 1 decodes greedily.
      alpha: Exponent of the length penalty of a beam search, by default 0.6.
      temperature: Draws ids at this temperature instead.
      topk: Draws from this number of the most probable ids.
      topp: Draws from the most probable ids, which together have this probability.
      seed: Determines the drawn answers.
    """

    num_beams: int
    alpha: float
    temperature: float
    topk: int
    topp: float
    seed: int


SAMPLING = frozenset({"temperature", "topk", "topp", "seed"})
"""The settings that draw answers."""


def decode_fn(n: int, **settings: Unpack[Decoding]) -> DecodeFn:
    """Returns the decode function for settings; the same object for the same settings.

    Args:
      n: Number of samples to draw.
      **settings: See `Decoding`.

    Raises:
      InputError: If settings of a beam search and of sampling are mixed.
    """
    beams = settings.get("num_beams", 1)
    sampling = SAMPLING & set(settings)
    if sampling and (beams != 1 or "alpha" in settings):
        raise InputError(
            f"{min(sampling)} draws answers, and num_beams and alpha are of a beam search; give "
            "settings of one of the two"
        )
    if beams == 1 and "alpha" in settings:
        raise InputError("alpha is of a beam search, and num_beams is 1; raise num_beams")
    return _decode_fn(n, tuple(sorted(settings.items())))


@functools.lru_cache(maxsize=64)
def _decode_fn(n: int, settings: tuple[tuple[str, Any], ...]) -> DecodeFn:
    # Cached, since JAX would compile again for a new function object.
    given = dict(settings)
    if SAMPLING & set(given):
        given.pop("num_beams", None)
        return functools.partial(decoding.temperature_sample, num_decodes=n, **given)
    beams = given.pop("num_beams", 1)
    if beams == 1:
        return decoding.greedy
    return functools.partial(decoding.beam_search, num_decodes=beams, **given)


def ranking(labels: Sequence[str]) -> DecodeFn:
    """Returns the decode function that ranks labels; the same object for the same labels.

    Raises:
      InputError: If `labels` is one text.
    """
    if isinstance(labels, str):
        raise InputError(f"labels is {labels!r}, expected a list of texts such as ['yes', 'no']")
    return _ranking(tuple(labels))


@functools.lru_cache(maxsize=64)
def _ranking(labels: tuple[str, ...]) -> DecodeFn:
    return functools.partial(decoding.rank_classification, labels=labels)
