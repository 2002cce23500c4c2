"""Shared parts of initializers that read tables: checks, warnings, and the remaining positions.

An initializer factory checks what it can without reading a file. It returns a function
`(rng, shape) -> Array`, which reads rows of a table when it is called.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prompt_tuning_core.errors import InputError

if TYPE_CHECKING:
    import jax

    from prompt_tuning_core.protocols import Initializer
    from prompt_tuning_files.embeddings import EmbeddingTable

__all__ = ["WarnOnce", "check_width", "fill", "prompt_shape"]

FALLBACK_SCALE = 0.01
"""Scale of the uniform values at the remaining positions, the default of `flax.linen`."""


class WarnOnce:
    """Gives each warning once, even if JAX traces an initializer many times.

    Python's own once-filter isn't enough: `warnings.catch_warnings`, which JAX uses, resets it.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: str) -> None:
        """Warns with `message`, but only the first time."""
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


def fill(
    values: np.ndarray, initializer: Initializer | None, rng: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Puts `values` at the first positions of a prompt and fills the rest.

    Args:
      values: `[n, H]` float32, n at most P.
      initializer: Makes a whole prompt, whose last P - n rows are used. None is uniform with scale
        0.01. Not called if n is P.
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
