"""Dropout (Srivastava et al. 2014) whose masks are taken from a few drawings of random bits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

_MASKS_A_DRAWING = 64


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
        self._unused: dict[int, tuple[jax.Array, int]] = {}
        self._drawings = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `[…, positions, width]` with entries zeroed, in its shape and dtype."""
        *batch, _, width = x.shape
        return self.apply(x, self.mask(*batch, 1, width))

    def mask(self, *shape: int) -> jax.Array | None:
        """Returns which entries to keep, bool of the shape; None for all."""
        if self._key is None or not self._rate:
            return None
        bits = self._rows(self._key, math.prod(shape[:-1]), shape[-1])
        return bits.reshape(shape) >= jnp.uint32(self._rate * 2**32)

    def apply(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns `x` with the entries zeroed that `mask`, broadcastable to it, does not keep."""
        if mask is None:
            return x
        return jnp.where(mask, x / (1.0 - self._rate), jnp.zeros((), x.dtype))

    def _rows(self, key: jax.Array, count: int, width: int) -> jax.Array:
        """Returns uint32 `[count, width]` of bits that nothing else has taken.

        A drawing for each place would take longer to compile than all the rest of a training step.
        Nor are the rows sliced off: the offset would be a part of the program that uses them, and
        XLA compiles equal programs, such as those of a network's layers, only once.
        """
        bits, first = self._unused.get(width, (None, 0))
        if bits is None or len(bits) < first + count:
            drawing_key = jax.random.fold_in(key, self._drawings)
            bits = jax.random.bits(drawing_key, (_MASKS_A_DRAWING * count, width), jnp.uint32)
            first = 0
            self._drawings += 1
        self._unused[width] = (bits, first + count)
        return bits.at[np.arange(first, first + count)].get(mode="promise_in_bounds")


NO_DROPOUT = Dropout()
"""Returns everything as it is."""
