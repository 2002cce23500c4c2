"""Combine functions put a prompt at the same place in the embedded input and in its mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_tuning_core import combine

# Tokens stand for themselves: 1 is EOS, 0 padding, and the prompt's positions are -1, -2.
PROMPT = [-1, -2]
TOKENS = [[5, 6, 7, 1], [5, 1, 0, 0]]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (combine.prefix, [[-1, -2, 5, 6, 7, 1], [-1, -2, 5, 1, 0, 0]]),
        (combine.prefix_after_bos, [[5, -1, -2, 6, 7, 1], [5, -1, -2, 1, 0, 0]]),
        (combine.suffix, [[5, 6, 7, -1, -2, 1], [5, -1, -2, 1, 0, 0]]),
    ],
    ids=["prefix", "prefix_after_bos", "suffix"],
)
def test_places(place, expected):
    tokens = jnp.array(TOKENS)
    prompt = jnp.broadcast_to(jnp.array(PROMPT), (2, 2))
    np.testing.assert_array_equal(place(prompt, tokens, tokens), expected)
    # The same placement for vectors, and under jit.
    wide = jax.jit(place)(prompt[..., None] * 1.0, tokens[..., None] * 1.0, tokens)
    np.testing.assert_array_equal(wide[..., 0], expected)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    prompt_length=st.integers(1, 4),
    name=st.sampled_from(["prefix", "prefix_after_bos", "suffix"]),
)
@pytest.mark.slow
def test_nothing_is_lost_and_order_is_kept(lengths, prompt_length, name):
    total = 6  # The same in all examples, since JAX compiles for each shape.
    tokens = np.zeros((len(lengths), total), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = np.arange(1, length + 1)
    prompt = np.broadcast_to(-np.arange(1, prompt_length + 1), (len(lengths), prompt_length))
    both = np.asarray(getattr(combine, name)(jnp.asarray(prompt), jnp.asarray(tokens), tokens))
    assert both.shape == (len(lengths), total + prompt_length)
    for row, length in enumerate(lengths):
        assert [t for t in both[row] if t > 0] == list(range(1, length + 1))
        assert [t for t in both[row] if t < 0] == list(-np.arange(1, prompt_length + 1))
    # No real position is lost, and none becomes real.
    np.testing.assert_array_equal((both != 0).sum(1), np.array(lengths) + prompt_length)
