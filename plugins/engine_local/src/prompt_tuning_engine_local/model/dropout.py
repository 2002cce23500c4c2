"""Dropout (Srivastava et al. 2014) whose masks share a few drawings of random bits.

For example, a network with 40 places of dropout would draw 40 times, and compiling 40 draws takes
longer than compiling the rest of the training step. So one draw makes the bits for many places, as
rows of a matrix, and each place takes the next unused rows.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

_MASKS_A_DRAWING = 128
_ROW = 128


class Dropout:
    """Sets a share of the entries of an array to 0, and scales up the rest.

    As in T5X, all positions of a sequence share a mask. A network calls one object wherever it has
    dropout, in a fixed order.

    Args:
      rate: The probability of an entry to become zero.
      key: Determines the masks; None returns the input unchanged.
    """

    def __init__(self, rate: float = 0.0, key: jax.Array | None = None) -> None:
        self.rate = rate
        self._key = key
        self._drawn: jax.Array | None = None
        self._drawings = 0
        self._taken = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `[…, positions, width]` with some entries 0, in its shape and dtype."""
        *batch, _, width = x.shape
        return dropped(x, self.mask(*batch, 1, width), self.rate)

    def mask(self, *shape: int) -> jax.Array | None:
        """Returns a bool array of the shape, True for entries to keep; None keeps all."""
        if self._key is None or not self.rate:
            return None
        drawn, rows = self._rows(self._key, math.ceil(math.prod(shape) / _ROW))
        return _mask(drawn, rows, shape, self.rate)

    def _rows(self, key: jax.Array, count: int) -> tuple[jax.Array, np.ndarray]:
        """Returns random bits, uint32 `[N, _ROW]`, and the numbers of `count` unused rows.

        Draws new bits only when too few rows are left. For example, a mask of 3 rows takes rows
        0 to 2 and the next mask rows 3 to 5 of one drawing. Compiling a drawing for each place
        would take longer than compiling the rest of the training step.
        """
        if self._drawn is None or len(self._drawn) < self._taken + count:
            drawing_key = jax.random.fold_in(key, self._drawings)
            shape = (_MASKS_A_DRAWING * count, _ROW)
            self._drawn = jax.random.bits(drawing_key, shape, jnp.uint32)
            self._drawings += 1
            self._taken = 0
        first, self._taken = self._taken, self._taken + count
        return self._drawn, np.arange(first, self._taken)


@functools.partial(jax.jit, static_argnames=("shape", "rate"))
def _mask(drawn: jax.Array, rows: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Returns a bool array of the shape from the bits `drawn[rows]`; a share `rate` is False.

    Jitted, since JAX then traces the indexing, which is slow to trace, once for all places of a
    shape. `rows` is an argument and not a slice: a slice's offset would be part of the program, and
    XLA compiles the layers of a network only once if their programs are equal.
    """
    bits = drawn.at[rows].get(mode="promise_in_bounds")
    return bits.reshape(-1)[: math.prod(shape)].reshape(shape) >= jnp.uint32(rate * 2**32)


def dropped(x: jax.Array, mask: jax.Array | None, rate: float) -> jax.Array:
    """Returns `x` with 0 where `mask`, broadcastable to it, is False, and the rest scaled up."""
    return x if mask is None else _dropped(x, mask, rate)


@functools.partial(jax.jit, static_argnames="rate")
def _dropped(x: jax.Array, mask: jax.Array, rate: float) -> jax.Array:
    return jnp.where(mask, x / (1.0 - rate), jnp.zeros((), x.dtype))


NO_DROPOUT = Dropout()
"""Returns its input unchanged."""
