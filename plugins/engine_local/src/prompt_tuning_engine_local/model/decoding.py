"""Decoding: makes sequences of ids from the logits of each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

StepFn = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


def greedy(step_fn: StepFn, cache: Any, batch_size: int, max_length: int, eos_id: int) -> jax.Array:
    """Takes the most probable id at each step until each sequence has ended.

    Args:
      step_fn: `(tokens [B], cache, position) -> (logits [B, V], cache)`.
      cache: The cache that `step_fn` expects at position 0.
      batch_size: B.
      max_length: T, the most ids to generate.
      eos_id: The id that ends a sequence.

    Returns:
      int32 `[B, T]`: the ids, including EOS if a sequence reached it, then 0.
    """

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        position, _, _, ended, _ = state
        return (position < max_length) & ~jnp.all(ended)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        position, tokens, output, ended, cache = state
        logits, cache = step_fn(tokens, cache, position)
        tokens = jnp.where(ended, 0, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        output = jax.lax.dynamic_update_slice_in_dim(output, tokens[:, None], position, axis=1)
        return position + 1, tokens, output, ended | (tokens == eos_id), cache

    state = (
        jnp.int32(0),
        jnp.zeros(batch_size, jnp.int32),
        jnp.zeros((batch_size, max_length), jnp.int32),
        jnp.zeros(batch_size, bool),
        cache,
    )
    return jax.lax.while_loop(unfinished, step, state)[2]
