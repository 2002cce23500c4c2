"""Combine functions: they place a prompt in a sequence.

Each function takes a prompt `[B, P, …]`, an input `x` `[B, T, …]` and the input ids `[B, T]`, and
returns `[B, T + P, …]`. The same function places the prompt's vectors in the embedded input, and
its ones in the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def prefix(prompt: jax.Array, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Puts the prompt in front of the input (Lester et al. 2021, section 2)."""
    del tokens
    return jnp.concatenate([prompt, x], axis=1)


def prefix_after_bos(prompt: jax.Array, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Puts the prompt after the first position of the input, which holds the token BOS."""
    del tokens
    return jnp.concatenate([x[:, :1], prompt, x[:, 1:]], axis=1)


def suffix(prompt: jax.Array, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Puts the prompt before the last token of each example that is not padding (0): EOS."""
    total, length = x.shape[1], prompt.shape[1]
    start = jnp.maximum(jnp.sum(tokens != 0, axis=1, keepdims=True) - 1, 0)  # [B, 1]
    position = jnp.arange(total + length)[None, :]  # [1, T + P]
    # Row i of the result is row source[i] of [x, prompt]. For three tokens of T = 4 and for P = 2,
    # source is 0 1 4 5 2 3.
    source = jnp.where(
        position < start,
        position,
        jnp.where(position < start + length, total + position - start, position - length),
    )
    both = jnp.concatenate([x, prompt.astype(x.dtype)], axis=1)
    return jnp.take_along_axis(both, source.reshape(source.shape + (1,) * (x.ndim - 2)), axis=1)


PLACES: Mapping[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "prefix": prefix,
    "prefix_after_bos": prefix_after_bos,
    "suffix": suffix,
}
"""The combine functions by name."""
