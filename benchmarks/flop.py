"""How many floating point operations a step needs, and how many a second the device can do."""

from __future__ import annotations

import time

from shapes import HEAD_DIM, NUM_EMBEDDINGS, Size


def training_step(
    size: Size, batch: int, input_length: int, prompt_length: int, target_length: int
) -> int:
    """Counts the matrix products of one step that trains the prompt only.

    Counted is what the mathematics asks for, whoever computes it, a multiplication and an addition
    as two: forward, every product once; backward, once more for the gradient of the activations,
    and of the two products of attention for both operands. Frozen weights have no gradient, looked
    up embeddings need no product.
    """
    inner = size.num_heads * HEAD_DIM
    encoder, decoder = input_length + prompt_length, target_length

    def attention(queries: int, keys: int) -> int:
        return 2 * 2 * queries * keys * inner

    projections = 2 * size.emb_dim * inner
    mlp = 3 * 2 * size.emb_dim * size.mlp_dim
    weights = size.num_layers * (
        encoder * (4 * projections + mlp)
        + decoder * (4 * projections + mlp)
        + (2 * decoder + 2 * encoder) * projections
    )
    logits = 2 * decoder * size.emb_dim * NUM_EMBEDDINGS
    attentions = size.num_layers * (
        attention(encoder, encoder) + attention(decoder, decoder) + attention(decoder, encoder)
    )
    return batch * (2 * (weights + logits) + 3 * attentions)


def gemm_peak(dtype: str, size: int = 2048, repeats: int = 8) -> float:
    """Returns the best of several FLOP/s of a square matrix product, as JAX gets them now."""
    import jax
    import jax.numpy as jnp

    size = size if jax.default_backend() == "cpu" else 4 * size
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(product(x, x))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
