"""What initializers have in common; for plugin authors, who may use it and need not.

An initializer factory checks what it can without reading a file, and returns a function
`(rng, shape) -> Array` that reads rows of tables when it is called.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_tuning_core.errors import InputError

if TYPE_CHECKING:
    import jax

    from prompt_tuning_core.protocols import EmbeddingTable, Initializer, Vocabulary

__all__ = [
    "WarnOnce",
    "check_ids",
    "check_vocabulary",
    "check_width",
    "fill",
    "piece_ids",
    "prompt_shape",
]

FALLBACK_SCALE = 0.01
"""Scale of the uniform values that fill positions nobody asked for, that of `flax.linen`."""


class WarnOnce:
    """Warns of each thing once, however often an initializer is traced.

    Python's own once-filter isn't enough: `warnings.catch_warnings`, which JAX uses, resets it.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: str) -> None:
        """Warns of `message`, unless it has."""
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=3)


def prompt_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns `shape` as `(P, H)`.

    Raises:
      InputError: If it isn't two integers of at least 1; names the size at fault.
    """
    try:
        length, width = map(operator.index, shape)
    except (TypeError, ValueError):
        raise InputError(
            f"shape of a prompt is {shape!r}, expected (P, H): its length and the model's width"
        ) from None
    if length < 1:
        raise InputError(f"prompt length P is {length}, expected at least 1; set PROMPT_LENGTH")
    if width < 1:
        raise InputError(f"prompt width H is {width}, expected at least 1")
    return length, width


def check_width(table: EmbeddingTable, width: int) -> None:
    """Checks that the vectors of `table` are as wide as the prompt's.

    Raises:
      InputError: If not; names both widths.
    """
    if table.shape[1] != width:
        raise InputError(
            f"{table}: has vectors of {table.shape[1]} numbers, but the prompt needs {width}; "
            "use the embedding table of this model"
        )


def check_vocabulary(vocab: Any) -> None:
    """Checks, without a call, that `vocab` is a vocabulary.

    Raises:
      InputError: If it has no `encode`.
    """
    # A str has an encode, too, and is what a vocabulary's path would be.
    if isinstance(vocab, str) or not callable(getattr(vocab, "encode", None)):
        raise InputError(
            f"vocab is {vocab!r}, expected something with encode(str) -> ids; set VOCABULARY"
        )


def piece_ids(vocab: Vocabulary, text: str, what: str) -> np.ndarray:
    """Returns the ids `[n]` of the pieces of `text`, at least one, as int64.

    Args:
      vocab: The vocabulary.
      text: The text to encode.
      what: What to call the text in errors.

    Raises:
      InputError: If there are no pieces, or they aren't integers.
    """
    ids = np.asarray(vocab.encode(text))
    if ids.size == 0:
        raise InputError(f"{what} {text!r} has no pieces in this vocabulary; give it other words")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(
            f"{what} {text!r}: vocab.encode returned {ids.dtype} of shape {ids.shape}, expected "
            "a sequence of ids"
        )
    return ids.astype(np.int64)


def check_ids(table: EmbeddingTable, ids: np.ndarray, text: str, what: str) -> None:
    """Checks that the ids `[n]` of the pieces of `text` are rows of `table`.

    Raises:
      InputError: If not; names the text, the id and the table's size.
    """
    outside = ids[(ids < 0) | (ids >= table.shape[0])]
    if outside.size:
        raise InputError(
            f"{what} {text!r} has a piece with id {outside[0]}, but {table} has "
            f"{table.shape[0]} rows; use the vocabulary and the table of one model"
        )


def fill(
    values: np.ndarray, initializer: Initializer | None, rng: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Puts `values` at the first positions of a prompt and fills the rest.

    Args:
      values: `[n, H]` float32, n at most P.
      initializer: What makes the rest: the values that it has there in a whole prompt. None is
        uniform with scale 0.01. Not called if there is no rest.
      rng: Passed to `initializer`.
      shape: `(P, H)`.

    Returns:
      `[P, H]` float32.

    Raises:
      ValueError: If `initializer` can't serve `shape`.
    """
    import jax
    import jax.numpy as jnp

    head = jnp.asarray(values, jnp.float32)
    if len(values) == shape[0]:
        return head
    if initializer is None:
        rest = jax.nn.initializers.uniform(FALLBACK_SCALE)(rng, shape, jnp.float32)
    else:
        rest = initializer(rng, shape)
        if tuple(rest.shape) != shape:
            raise InputError(
                f"the fallback initializer returned shape {tuple(rest.shape)}, expected {shape}"
            )
    return jnp.concatenate([head, rest[len(values) :].astype(jnp.float32)])
