"""Random values: initializers that need only a key.

References:
  Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021,
  https://arxiv.org/abs/2104.08691, section 3.2 ("random uniform": the range [-0.5, 0.5] there).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["init_normal", "init_random", "init_truncated_normal"]

Initializer = Callable[[jax.Array, Sequence[int]], jax.Array]
"""Takes a key and `(P, H)`, and returns `[P, H]` float32."""


def init_random(scale: float = 0.5) -> Initializer:
    """Makes an initializer of values uniform in `[0, scale)`, the default prompt.

    They are the same values as in `flax.linen.initializers.uniform(scale)`, and not centred on 0.

    Args:
      scale: The upper end of the range.

    Returns:
      A function `(rng, shape) -> [P, H]` float32; it raises `ValueError` for a shape that isn't
      `(P, H)` with sizes of at least 1.

    Raises:
      ValueError: If `scale` isn't a positive finite number.
    """
    return _drawn(jax.nn.initializers.uniform(_positive("scale", scale), jnp.float32))


def init_normal(stddev: float = 0.5) -> Initializer:
    """Makes an initializer of normally distributed values with mean 0.

    Args:
      stddev: The standard deviation.

    Returns:
      A function `(rng, shape) -> [P, H]` float32; it raises `ValueError` for a shape that isn't
      `(P, H)` with sizes of at least 1.

    Raises:
      ValueError: If `stddev` isn't a positive finite number.
    """
    return _drawn(jax.nn.initializers.normal(_positive("stddev", stddev), jnp.float32))


def init_truncated_normal(stddev: float = 0.5) -> Initializer:
    """Makes an initializer of normally distributed values, cut at two standard deviations.

    As in `flax.linen.initializers.truncated_normal(stddev)`, values are drawn from a normal
    distribution with mean 0 and standard deviation `stddev`. Values outside of
    `[-2 stddev, 2 stddev]` are drawn again. So the result has a standard deviation of about
    `0.88 stddev`.

    Args:
      stddev: The standard deviation before the cut.

    Returns:
      A function `(rng, shape) -> [P, H]` float32; it raises `ValueError` for a shape that isn't
      `(P, H)` with sizes of at least 1.

    Raises:
      ValueError: If `stddev` isn't a positive finite number.
    """
    return _drawn(jax.nn.initializers.truncated_normal(_positive("stddev", stddev), jnp.float32))


def _positive(name: str, value: Any) -> float:
    """Returns a parameter that must be a positive number, even in float32."""
    limits = np.finfo(np.float32)
    # In Python, a bool is a number; here, it is a mistake.
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise ValueError(f"{name} is {value!r}, expected a positive number")
    # The largest draw of a normal in float32 is below 6 standard deviations.
    if not float(limits.tiny) <= float(value) <= float(limits.max) / 8:
        raise ValueError(f"{name} is {value}, expected a positive finite number")
    return float(value)


def _drawn(draw: Initializer) -> Initializer:
    def initialize(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        return draw(rng, _prompt_shape(shape))

    return initialize


def _prompt_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns `shape` as `(P, H)`, two integers of at least 1."""
    try:
        length, width = map(operator.index, shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"shape of a prompt is {shape!r}, expected (P, H): its length and the model's width"
        ) from None
    if length < 1 or width < 1:
        raise ValueError(
            f"prompt length P is {length} and width H is {width}, expected at least 1; set "
            "PROMPT_LENGTH"
        )
    return length, width
