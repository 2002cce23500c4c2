"""Attention of T5 with relative position biases.

Shapes below: B batch, H width of the model; kernels are `[H, heads * head width]`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning_engine_local.model.blocks import Dense, product
from prompt_tuning_engine_local.model.dropout import Dropout, dropped
from prompt_tuning_engine_local.model.network_config import T5Config
from prompt_tuning_engine_local.model.parts import blocks_of_queries
from prompt_tuning_engine_local.model.prompt_points import KeysValues, LayerPoints

# Far below any attention logit, but finite.
_MASKED = -1e10


class Attention(nn.Module):
    """Multi-head attention without scaling at run time, as T5 has it."""

    config: T5Config

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        joined = config.num_heads * config.head_dim
        # T5 folds the 1 / sqrt(head width) of the logits into the query's initial values.
        self.query = Dense(joined, config.dtype, config.head_dim**-0.5)
        self.key = Dense(joined, config.dtype)
        self.value = Dense(joined, config.dtype)
        self.out = Dense(config.emb_dim, config.dtype)

    def keys_values(
        self, x: jax.Array, points: LayerPoints | None = None, name: str = ""
    ) -> KeysValues:
        """Returns keys and values of `x` `[B, K, H]`: each `[B, heads, K, head width]`.

        Heads come before positions, the order in which attention multiplies them. So decoding does
        not transpose its cache at each step.

        Args:
          x: `[B, K, H]`.
          points: The prompt module's points in this layer; None for none.
          name: The attention's, for `points`.
        """
        keys, values = self.key(x), self.value(x)
        if points is not None:
            keys = points.activations(f"{name}/keys", keys)
            values = points.activations(f"{name}/values", values)
        return self._split(keys), self._split(values)

    def attend(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        bias: jax.Array,
        dropout: Dropout,
        prefix: KeysValues | None = None,
    ) -> jax.Array:
        """Attends from `x` to given keys and values, and to those of a prompt's prefix.

        Args:
          x: `[B, Q, H]` queries.
          keys: `[B, heads, K, head width]`.
          values: `[B, heads, K, head width]`.
          bias: Added to the logits, broadcastable to `[B, heads, Q, K]`; see `masked`.
          dropout: Called at each place where T5X has dropout.
          prefix: More of both; the bias does not apply to them.

        Returns:
          `[B, Q, H]`.
        """
        queries = self._split(self.query(x))
        if prefix is not None:
            keys = jnp.concatenate([prefix[0].astype(keys.dtype), keys], axis=2)
            values = jnp.concatenate([prefix[1].astype(values.dtype), values], axis=2)
            bias = jnp.pad(bias, [(0, 0)] * 3 + [(keys.shape[2] - bias.shape[3], 0)])
        batch, heads, _, _ = queries.shape
        keep = dropout.mask(batch, heads, 1, keys.shape[2])

        blocks = [
            _mixed(queries[:, :, block], keys, values, _rows(bias, block), keep, dropout.rate)
            for block in blocks_of_queries(queries.shape[2], keys.shape[2])
        ]
        mixed = jnp.concatenate(blocks, axis=2).swapaxes(1, 2)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array,
        bias: jax.Array,
        dropout: Dropout,
        points: LayerPoints | None = None,
        name: str = "",
    ) -> jax.Array:
        """Attends from `x` `[B, Q, H]` to `source` `[B, K, H]`; see `attend`, `keys_values`."""
        keys, values = self.keys_values(source, points, name)
        prefix = None if points is None else points.prefixes[name]
        return self.attend(x, keys, values, bias, dropout, prefix)

    def _split(self, x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)
        return x.swapaxes(1, 2)


def _rows(bias: jax.Array, block: slice) -> jax.Array:
    """Returns a bias for a block of the queries; one row is that of all queries."""
    return bias if bias.shape[2] == 1 else bias[:, :, block]


# Computed again for the gradient: keeping it would take memory quadratic in the length.
@functools.partial(jax.jit, static_argnames="rate")
@functools.partial(jax.checkpoint, static_argnums=5)
def _mixed(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    bias: jax.Array,
    keep: jax.Array | None,
    rate: float,
) -> jax.Array:
    """Returns the means of `values`, weighted by attention, `[B, heads, Q, head width]`."""
    logits = product(queries, keys.mT) + bias
    # The softmax, with its division after the last product: there it divides `head width` numbers
    # for each query instead of K.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # One mask serves all queries, so dropping a key's weights is dropping its value.
    if keep is not None:
        values = dropped(values, keep.mT, rate)
    return (product(weights.astype(values.dtype), values) / total).astype(values.dtype)


class RelativePositionBias(nn.Module):
    """Biases of attention logits by bucketed distance, one set for all layers of a stack."""

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, query_positions: np.ndarray | jax.Array, num_keys: int) -> jax.Array:
        """Returns float32 `[1, heads, Q, K]` for query positions `[Q]` and keys 0 … K - 1."""
        config = self.config
        embedding = self.param(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (config.num_heads, config.relpos_buckets),
            jnp.float32,
        )
        # The [num_keys, num_keys] buckets are a constant; a query position picks its row.
        buckets = relative_position_buckets(
            num_keys,
            config.relpos_buckets,
            config.relpos_max_distance,
            bidirectional=self.bidirectional,
        )
        return jnp.take(embedding, jnp.asarray(buckets)[query_positions], axis=1)[None]


def masked(bias: jax.Array | float, mask: jax.Array) -> jax.Array:
    """Returns float32 `bias` for logits, very low where `mask` is False: nothing attends there.

    A query whose keys are all masked attends to them evenly.
    """
    return jnp.where(mask, bias, _MASKED)


@functools.lru_cache(maxsize=64)
def relative_position_buckets(
    length: int, num_buckets: int, max_distance: int, *, bidirectional: bool
) -> np.ndarray:
    """Returns the buckets of all pairs of positions (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each; the rest grow logarithmically up to `max_distance`.
    With `bidirectional`, keys after the query have separate buckets from those before it;
    otherwise all keys after the query share bucket 0.

    Returns:
      int32 `[length, length]`, indexed by query and key position.
    """
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]  # query - key
    buckets = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        buckets += np.where(distance < 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(distance, 0)
    exact = num_buckets // 2
    # In float32 with its epsilon, as in T5X: a distance at an edge must get the same bucket.
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    growth = np.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)
    large = np.minimum(exact + growth.astype(np.int32), num_buckets - 1)
    return (buckets + np.where(distance < exact, distance, large)).astype(np.int32)
