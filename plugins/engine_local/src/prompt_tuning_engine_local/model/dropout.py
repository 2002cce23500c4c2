"""Dropout (Srivastava et al. 2014) whose masks are taken from a few drawings of random bits."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

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
        drawn, rows = self._rows(self._key, math.ceil(math.prod(shape) / _ROW))
        return _mask(drawn, rows, shape, self._rate)

    def apply(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns `x` with the entries zeroed that `mask`, broadcastable to it, does not keep."""
        if mask is None:
            return x
        return jnp.where(mask, x / (1.0 - self._rate), jnp.zeros((), x.dtype))

    def drawn(self, *shapes: tuple[int, ...]) -> DrawnDropout:
        """Takes the masks of the next places, which have these shapes.

        Returns:
          Dropout for those places, in this order; a jitted function can take it as an argument.
        """
        return DrawnDropout(self._rate, [self.mask(*shape) for shape in shapes])

    def _rows(self, key: jax.Array, count: int) -> tuple[jax.Array, np.ndarray]:
        """Returns uint32 `[…, _ROW]` of bits, and `count` of its rows that nothing else has taken.

        A drawing for each place would take longer to compile than all the rest of a training step.
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
    """Returns bool of the shape, False at the rate, from the bits `drawn[rows]`.

    Jitted, for JAX traces it once for all places of a shape, and its indexing takes long to trace.
    The rows are not sliced off: the offset would be a part of the program that uses them, and XLA
    compiles equal programs, such as those of a network's layers, only once.
    """
    bits = drawn.at[rows].get(mode="promise_in_bounds")
    return bits.reshape(-1)[: math.prod(shape)].reshape(shape) >= jnp.uint32(rate * 2**32)


@jax.tree_util.register_pytree_node_class
class DrawnDropout(Dropout):
    """Dropout whose masks were drawn before, a tree of arrays; see `Dropout.drawn`.

    Args:
      rate: The probability of an entry to become zero.
      masks: Of the places, in the order in which they are called; None keeps all entries.
    """

    def __init__(self, rate: float, masks: Iterable[jax.Array | None]) -> None:
        super().__init__(rate)
        self._masks = tuple(masks)
        self._left = iter(self._masks)

    def mask(self, *shape: int) -> jax.Array | None:
        """Returns the next mask.

        Raises:
          ValueError: If there is none left, or it was drawn with another shape.
        """
        try:
            mask = next(self._left)
        except StopIteration:
            raise ValueError(f"no mask is left, and one of the shape {shape} is needed") from None
        if mask is not None and mask.shape != shape:
            raise ValueError(
                f"the next mask has the shape {mask.shape}, and one of the shape {shape} is needed"
            )
        return mask

    def tree_flatten(self) -> tuple[tuple[jax.Array | None, ...], float]:
        """Returns the masks and the rate, for JAX."""
        return self._masks, self._rate

    @classmethod
    def tree_unflatten(cls, rate: float, masks: Iterable[jax.Array | None]) -> DrawnDropout:
        """Returns what `tree_flatten` took apart."""
        return cls(rate, masks)


NO_DROPOUT = Dropout()
"""Returns everything as it is."""
