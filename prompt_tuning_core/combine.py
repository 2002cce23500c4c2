"""Combine functions: they place a prompt in a sequence (`protocols.Combine`).

Each makes `[B, T + P, …]` of a prompt `[B, P, …]` and `x` `[B, T, …]`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from prompt_tuning_core.protocols import Combine


def prefix(prompt: jax.Array, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Puts the prompt in front of the input (Lester et al. 2021, section 2)."""
    del tokens
    return jnp.concatenate([prompt, x], axis=1)


def prefix_after_bos(prompt: jax.Array, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Puts the prompt in front of the input, but after its first position, which holds BOS."""
    del tokens
    return jnp.concatenate([x[:, :1], prompt, x[:, 1:]], axis=1)


def suffix(
    prompt: jax.Array, x: jax.Array, tokens: jax.Array, before_eos: bool = True
) -> jax.Array:
    """Puts the prompt after the last real token of each example, before its padding.

    Args:
      prompt: `[B, P, …]`.
      x: `[B, T, …]`.
      tokens: `[B, T]` input ids; an example's length is its number of non-zero ids.
      before_eos: True keeps the example's last token, EOS, after the prompt.
    """
    total, length = x.shape[1], prompt.shape[1]
    start = jnp.sum(tokens != 0, axis=1, keepdims=True) - int(before_eos)  # [B, 1]
    start = jnp.maximum(start, 0)
    position = jnp.arange(total + length)[None, :]  # [1, T + P]
    # Position of each result row within [x, prompt].
    source = jnp.where(
        position < start,
        position,
        jnp.where(position < start + length, total + position - start, position - length),
    )
    both = jnp.concatenate([x, prompt.astype(x.dtype)], axis=1)
    return jnp.take_along_axis(both, source.reshape(source.shape + (1,) * (x.ndim - 2)), axis=1)


PLACES: Mapping[str, Combine] = {
    "prefix": prefix,
    "prefix_after_bos": prefix_after_bos,
    "suffix": suffix,
}
"""The combine functions by name."""
