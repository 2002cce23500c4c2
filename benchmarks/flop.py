"""Counts the floating point operations of a step, and measures the speed of the device."""

from __future__ import annotations

import collections
import dataclasses
import time

from shapes import HEAD_DIM, NUM_EMBEDDINGS, Size


@dataclasses.dataclass(frozen=True)
class Product:
    """A batch of `batch` products `[m, k] x [k, n]`, which a step computes `count` times."""

    m: int
    k: int
    n: int
    count: int
    batch: int = 1

    @property
    def flop(self) -> int:
        """Operations of all products; a multiplication and an addition are two operations."""
        return 2 * self.m * self.k * self.n * self.batch * self.count


def products(
    size: Size, batch: int, input_length: int, prompt_length: int, target_length: int
) -> list[Product]:
    """Lists the matrix products of one step that trains the prompt only.

    The list follows from the mathematics and holds for every implementation. The forward pass has
    every product once. The backward pass has it once more, for the gradient of the activations. The
    two products of attention have two such operands, so the backward pass has them twice. Frozen
    weights have no gradient, and looking up embeddings needs no product.
    """
    width, inner, layers = size.emb_dim, size.num_heads * HEAD_DIM, size.num_layers
    encoder, decoder = input_length + prompt_length, target_length
    counts: dict[tuple[int, int, int, int], int] = collections.Counter()

    def weights(rows: int, inputs: int, outputs: int, count: int) -> None:
        counts[batch * rows, inputs, outputs, 1] += count
        counts[batch * rows, outputs, inputs, 1] += count

    def attention(queries: int, keys: int) -> None:
        heads = batch * size.num_heads
        # The logits and the mix of the values, and two gradients of each.
        counts[queries, HEAD_DIM, keys, heads] += 2 * layers
        counts[queries, keys, HEAD_DIM, heads] += 2 * layers
        counts[keys, queries, HEAD_DIM, heads] += 2 * layers

    # The decoder's attention makes keys and values from the encoder's rows.
    for rows, into_heads, out_of_heads in ((encoder, 5, 1), (decoder, 4, 2)):
        weights(rows, width, inner, into_heads * layers)
        weights(rows, inner, width, out_of_heads * layers)
        weights(rows, width, size.mlp_dim, 2 * layers)
        weights(rows, size.mlp_dim, width, layers)
    weights(decoder, width, NUM_EMBEDDINGS, 1)
    attention(encoder, encoder)
    attention(decoder, decoder)
    attention(decoder, encoder)
    return [Product(m, k, n, count, heads) for (m, k, n, heads), count in counts.items()]


def training_step(
    size: Size, batch: int, input_length: int, prompt_length: int, target_length: int
) -> int:
    """Returns the floating point operations of `products`."""
    return sum(
        product.flop
        for product in products(size, batch, input_length, prompt_length, target_length)
    )


def gemm_peak(dtype: str, size: int = 2048) -> float:
    """Returns the best FLOP/s of several runs of a square matrix product in JAX, measured now."""
    import jax

    size = size if jax.default_backend() == "cpu" else 4 * size
    product = Product(size, size, size, 1)
    return product.flop / best_seconds(product, dtype)


def best_seconds(product: Product, dtype: str, repeats: int = 8) -> float:
    """Returns the shortest of several times in which JAX computes a product once."""
    import jax
    import jax.numpy as jnp

    batch = () if product.batch == 1 else (product.batch,)
    a = jnp.ones((*batch, product.m, product.k), dtype)
    b = jnp.ones((*batch, product.k, product.n), dtype)
    compiled = jax.jit(jnp.matmul)
    jax.block_until_ready(compiled(a, b))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(a, b))
        best = min(best, time.perf_counter() - begin)
    return best
