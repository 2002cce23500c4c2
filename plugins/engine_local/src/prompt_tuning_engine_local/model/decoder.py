"""The decoder stack of T5, with its cache for decoding one position after another.

Shapes below: B batch, T length of the target tokens, P positions of a prompt, S length of the
encoded sequence, H width, V vocabulary size. A step of decoding has R rows: n for each example, one
for each sequence that it decodes at once. Rows 0 to n - 1 are the first example's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning_core.prompts import PromptFactory
from prompt_tuning_engine_local.model.attention import Attention, RelativePositionBias, masked
from prompt_tuning_engine_local.model.blocks import MLP, Dense, RMSNorm
from prompt_tuning_engine_local.model.dropout import NO_DROPOUT, Dropout
from prompt_tuning_engine_local.model.encoder import Encoded
from prompt_tuning_engine_local.model.network_config import T5Config
from prompt_tuning_engine_local.model.prompt_points import (
    KeysValues,
    LayerPoints,
    acts_on_input,
    has_points,
    points_of,
    prompt_in,
)


class LayerCache(NamedTuple):
    """The keys and values of one layer.

    Attributes:
      own: Of self-attention, `[R, heads, positions, head width]`; 0 at positions that are to come.
      own_prefix: A prompt module's in self-attention, `[R, heads, positions, head width]`, or None.
      cross: Of the attention to the encoded input, `[B, heads, S, head width]`.
      cross_prefix: A prompt module's there, `[B, heads, positions, head width]`, or None.
    """

    own: KeysValues
    own_prefix: KeysValues | None
    cross: KeysValues
    cross_prefix: KeysValues | None


class Cache(NamedTuple):
    """All that a step of decoding needs of the steps before it.

    Attributes:
      layers: The cache of each layer.
      state: The state of the prompt module; the first axis of each array is R.
      in_prompt: bool `[R, P]`, which positions of a prompt in front are real; None without one.
    """

    layers: list[LayerCache]
    state: Any
    in_prompt: jax.Array | None

    def spread(self, n: int) -> Cache:
        """Returns the cache of n rows an example, from that of one row an example.

        The encoded input is not repeated: the rows of one example attend to it together.
        """

        def repeated(tree: Any) -> Any:
            return jax.tree.map(lambda array: jnp.repeat(array, n, axis=0), tree)

        layers = [
            layer._replace(own=repeated(layer.own), own_prefix=repeated(layer.own_prefix))
            for layer in self.layers
        ]
        return Cache(layers, repeated(self.state), repeated(self.in_prompt))

    def gather(self, rows: jax.Array) -> Cache:
        """Returns the cache with the row `rows[r]` in the place of each row r.

        Args:
          rows: int32 `[R]`; `rows[r]` is a row of the same example as r. So only what differs
            between these rows moves: the keys and values of self-attention.
        """
        layers = [
            layer._replace(own=jax.tree.map(lambda array: array[rows], layer.own))
            for layer in self.layers
        ]
        return self._replace(layers=layers)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoded input, and a feed-forward block."""

    config: T5Config

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.pre_self_attention_layer_norm = RMSNorm(config.dtype)
        self.self_attention = Attention(config)
        self.pre_cross_attention_layer_norm = RMSNorm(config.dtype)
        self.encoder_decoder_attention = Attention(config)
        self.pre_mlp_layer_norm = RMSNorm(config.dtype)
        self.mlp = MLP(config)

    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        logit_mask: jax.Array,
        bias: jax.Array,
        cross_bias: jax.Array,
        dropout: Dropout,
        points: LayerPoints | None = None,
    ) -> jax.Array:
        """Maps `[B, T, H]` to the same shape.

        Args:
          x: `[B, T, H]`.
          encoded: `[B, S, H]`.
          logit_mask: `[B, T, 1]`, multiplied with the input of each block.
          bias: Of the logits of self-attention, `[B, heads, T, T]`.
          cross_bias: Of the logits of the attention to `encoded`, `[B, 1, T, S]`.
          dropout: Called at each place where T5X has dropout.
          points: Those of a prompt module that acts within layers.
        """
        y = logit_mask * self.pre_self_attention_layer_norm(x)
        y = self.self_attention(y, y, bias, dropout, points, "self_attention")
        x = x + dropout(y)
        y = logit_mask * self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(
            y, encoded, cross_bias, dropout, points, "encoder_decoder_attention"
        )
        x = x + dropout(y)
        y = self.mlp(logit_mask * self.pre_mlp_layer_norm(x), dropout, points)
        return x + dropout(y)

    def start_cache(
        self, encoded: jax.Array, max_length: int, points: LayerPoints | None = None
    ) -> LayerCache:
        """Returns the arrays that `step` reads: of `encoded`, of prefixes, and empty ones."""
        cross = self.encoder_decoder_attention.keys_values(
            encoded, points, "encoder_decoder_attention"
        )
        config = self.config
        empty = jnp.zeros(
            (encoded.shape[0], config.num_heads, max_length, config.head_dim), config.dtype
        )
        prefixes = {} if points is None else points.prefixes
        return LayerCache(
            own=(empty, empty),
            own_prefix=prefixes.get("self_attention"),
            cross=cross,
            cross_prefix=prefixes.get("encoder_decoder_attention"),
        )

    def step(
        self,
        x: jax.Array,
        cache: LayerCache,
        position: jax.Array | int,
        bias: jax.Array,
        cross_bias: jax.Array,
        points: LayerPoints | None = None,
    ) -> tuple[jax.Array, LayerCache]:
        """Maps the next positions to the same shape, and adds them to the cache.

        Args:
          x: `[R, Q, H]`; Q is 1, or the number of a prompt's positions.
          cache: From `start_cache` or the step before.
          position: Number of the first of them.
          bias: Of the logits of self-attention, `[1 or R, heads, Q, positions of the cache]`.
          cross_bias: Of the logits of the attention to the encoded input, `[B, 1, 1, S]`.
          points: Those of a prompt module that acts within layers.
        """
        y = self.pre_self_attention_layer_norm(x)
        key, value = self.self_attention.keys_values(y, points, "self_attention")
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=2)
            for old, new in zip(cache.own, (key, value), strict=True)
        )
        x = x + self.self_attention.attend(y, keys, values, bias, NO_DROPOUT, cache.own_prefix)
        y = self.pre_cross_attention_layer_norm(x)
        # The rows of an example are so many queries of it: `[B, n * Q, H]`.
        y = y.reshape(len(cross_bias), -1, y.shape[-1])
        y = self.encoder_decoder_attention.attend(
            y, *cache.cross, cross_bias, NO_DROPOUT, cache.cross_prefix
        )
        x = x + y.reshape(x.shape)
        x = x + self.mlp(self.pre_mlp_layer_norm(x), NO_DROPOUT, points)
        return x, cache._replace(own=(keys, values))


class Decoder(nn.Module):
    """The decoder stack with its output layer; a prompt is added before the dropout of its input.

    Attributes:
      config: Sizes and numerics.
      token_embedder: The model's embedding table, for `logits_via_embedding`.
      prompt_factory: See `T5`.
    """

    config: T5Config
    token_embedder: nn.Embed
    prompt_factory: PromptFactory | None = None

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.prompt = prompt_in(self.prompt_factory, config, "decoder")
        self.layers = [DecoderLayer(config) for _ in range(config.num_decoder_layers)]
        self.relpos_bias = RelativePositionBias(config, bidirectional=False)
        self.decoder_norm = RMSNorm(config.dtype)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(config.num_embeddings, "float32")

    def __call__(
        self,
        embedded: jax.Array,
        input_tokens: jax.Array,
        target_tokens: jax.Array,
        encoded: Encoded,
        dropout: Dropout,
    ) -> jax.Array:
        """Returns float32 logits `[B, T, V]`; arguments as in `T5.decode`."""
        state = self.prompt.start(encoded.tokens)
        target = target_tokens > 0
        # The start token has the id of padding, so look at the inputs and at the targets.
        is_token = input_tokens > 0
        logit_mask = is_token | jnp.pad(is_token[:, 1:], ((0, 0), (0, 1)))
        positions = 0
        if acts_on_input(self.prompt):
            embedded, in_prompt = self._with_prompt(embedded, input_tokens)
            positions = in_prompt.shape[1]
            target, logit_mask = (
                jnp.concatenate([in_prompt, mask], axis=1) for mask in (target, logit_mask)
            )
        length = embedded.shape[1]
        causal = jnp.asarray(np.tril(np.ones((length, length), bool)))
        mask = causal & (target[:, None, :, None] & target[:, None, None, :])
        bias = masked(self.relpos_bias(np.arange(length), length), mask)
        cross_bias = masked(0.0, target[:, None, :, None] & encoded.real[:, None, None, :])
        x = dropout(embedded).astype(self.config.dtype)
        scale = logit_mask[..., None].astype(x.dtype)
        points = points_of(self.prompt, state, len(x))
        for number, layer in enumerate(self.layers):
            x = self.prompt.layer(number, x, state)
            x = layer(x, encoded.values, scale, bias, cross_bias, dropout, points[number])
        x = dropout(self.decoder_norm(x))
        return self._logits((scale * x)[:, positions:])

    def _with_prompt(self, embedded: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the prompt and the input `[B, P + T, H]`, and which of the P are real."""
        # The start token has the id of padding.
        tokens = jnp.asarray(tokens).at[:, 0].set(1)
        combined = self.prompt.input(tokens, embedded)
        real = self.prompt.input_mask(tokens)
        return combined, real[:, : real.shape[1] - tokens.shape[1]]

    def start_cache(self, embedded: jax.Array, encoded: Encoded, max_length: int) -> Cache:
        """See `T5.start_cache`.

        Args:
          embedded: `[B, 1, H]`, the start token.
          encoded: See `T5.start_cache`.
          max_length: See `T5.start_cache`.
        """
        batch = len(embedded)
        state = self.prompt.start(encoded.tokens)
        points = points_of(self.prompt, state, batch)
        start = None
        if acts_on_input(self.prompt):
            start = self._with_prompt(embedded, jnp.zeros((batch, 1), jnp.int32))
            max_length += start[1].shape[1]
        layers = [
            layer.start_cache(encoded.values, max_length, points[number])
            for number, layer in enumerate(self.layers)
        ]
        cache = Cache(layers, state, in_prompt=None)
        return cache if start is None else self._prefilled(cache, *start, encoded)

    def _prefilled(
        self, cache: Cache, combined: jax.Array, in_prompt: jax.Array, encoded: Encoded
    ) -> Cache:
        """Returns the cache with the keys and values of a prompt's positions."""
        positions = in_prompt.shape[1]
        max_length = cache.layers[0].own[0].shape[2]
        real = _filled_up(in_prompt, max_length)
        causal = jnp.arange(max_length)[None, :] <= jnp.arange(positions)[:, None]
        bias = masked(
            self.relpos_bias(np.arange(positions), max_length),
            causal & real[:, None, None, :],
        )
        x = combined[:, :positions].astype(self.config.dtype)
        _, layers = self._layers(x, cache, 0, bias, encoded, call_layer_point=True)
        return cache._replace(layers=layers, in_prompt=in_prompt)

    def step(
        self, embedded: jax.Array, cache: Cache, position: jax.Array, encoded: Encoded
    ) -> tuple[jax.Array, Cache]:
        """See `T5.decode_step`."""
        x = embedded.astype(self.config.dtype)
        max_length = cache.layers[0].own[0].shape[2]
        in_prompt = cache.in_prompt
        if in_prompt is not None:  # The prompt's positions come first.
            position = position + in_prompt.shape[1]
        mask = jnp.arange(max_length) <= position
        if in_prompt is not None:
            mask &= _filled_up(in_prompt, max_length)[:, None, None, :]
        bias = masked(self.relpos_bias(position[None], max_length), mask)
        x, layers = self._layers(x, cache, position, bias, encoded)
        return self._logits(self.decoder_norm(x)), cache._replace(layers=layers)

    def _layers(
        self,
        x: jax.Array,
        cache: Cache,
        position: jax.Array | int,
        bias: jax.Array,
        encoded: Encoded,
        *,
        call_layer_point: bool = False,
    ) -> tuple[jax.Array, list[LayerCache]]:
        """Runs the layers for the positions `[R, Q, H]` that come next."""
        cross_bias = masked(0.0, encoded.real[:, None, None, :])
        layers = []
        for number, (layer, layer_cache) in enumerate(zip(self.layers, cache.layers, strict=True)):
            points = None
            if has_points(self.prompt):
                # The prefixes are in the cache.
                points = LayerPoints(self.prompt, number, cache.state, prefixes={})
            if call_layer_point:
                x = self.prompt.layer(number, x, cache.state)
            x, layer_cache = layer.step(x, layer_cache, position, bias, cross_bias, points)
            layers.append(layer_cache)
        return x, layers

    def _logits(self, x: jax.Array) -> jax.Array:
        """Maps `[..., H]` to float32 `[..., V]`."""
        if not self.config.logits_via_embedding:
            return self.logits_dense(x)
        # Embeddings are larger than an output layer's weights; the scale corrects that.
        x = x.astype(jnp.float32) * self.config.emb_dim**-0.5
        return x @ self.token_embedder.embedding.astype(jnp.float32).T


def _filled_up(in_prompt: jax.Array, length: int) -> jax.Array:
    """Returns a mask of the prompt `[B, P]` with ones after it, `[B, length]`."""
    return jnp.pad(in_prompt, ((0, 0), (0, length - in_prompt.shape[1])), constant_values=True)
