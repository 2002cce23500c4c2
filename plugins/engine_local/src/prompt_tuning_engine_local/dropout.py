"""Dropout (Srivastava et al. 2014) whose masks are taken from a few drawings of random bits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

_MASKS_A_DRAWING = 128
_ROW = 128


class Dropout:
    """Zeroes a share of the entries of what it is called with, and scales up the others.

    As in T5X, all positions of a sequence share a mask. A network calls one object at all of its
    places, in a fixed order.

    Args:
      rate: The probability of an entry to become zero.
      key: Determines the masks; None to return everything as it is.
    """

    def __init__(self, rate: float = 0.0, key: jax.Array | None = None) -> None:
        self._rate = rate
        self._key = key
        self._drawn: jax.Array | None = None
        self._drawings = 0
        self._taken = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `[…, positions, width]` with entries zeroed, in its shape and dtype."""
        *batch, _, width = x.shape
        return self.apply(x, self.mask(*batch, 1, width))

    def mask(self, *shape: int) -> jax.Array | None:
        """Returns which entries to keep, bool of the shape; None for all."""
        if self._key is None or not self._rate:
            return None
        size = math.prod(shape)
        bits = self._rows(self._key, math.ceil(size / _ROW)).reshape(-1)[:size].reshape(shape)
        return bits >= jnp.uint32(self._rate * 2**32)

    def apply(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns `x` with the entries zeroed that `mask`, broadcastable to it, does not keep."""
        if mask is None:
            return x
        return jnp.where(mask, x / (1.0 - self._rate), jnp.zeros((), x.dtype))

    def _rows(self, key: jax.Array, count: int) -> jax.Array:
        """Returns uint32 `[count, _ROW]` of bits that nothing else has taken.

        A drawing for each place would take longer to compile than all the rest of a training step.
        Nor are the rows sliced off: the offset would be a part of the program that uses them, and
        XLA compiles equal programs, such as those of a network's layers, only once.
        """
        if self._drawn is None or len(self._drawn) < self._taken + count:
            drawing_key = jax.random.fold_in(key, self._drawings)
            shape = (_MASKS_A_DRAWING * count, _ROW)
            self._drawn = jax.random.bits(drawing_key, shape, jnp.uint32)
            self._drawings += 1
            self._taken = 0
        first, self._taken = self._taken, self._taken + count
        return self._drawn.at[np.arange(first, self._taken)].get(mode="promise_in_bounds")


NO_DROPOUT = Dropout()
"""Returns everything as it is."""
