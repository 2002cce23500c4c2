"""T5 encoder-decoder (Raffel et al. 2020), 1.0 and 1.1 (Shazeer 2020), with a prompt module.

Names and shapes of the parameters are Flaxformer's, so that T5X checkpoints load by name: attention
kernels are `[H, heads * head width]`, relative position embeddings `[heads, buckets]`.

Shapes below: B batch, T decoder length, L encoder input length, P prompt positions, S = L + P,
H width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_engine_local.model.attention import Attention, RelativePositionBias, masked
from prompt_tuning_engine_local.model.blocks import MLP, Dense, RMSNorm
from prompt_tuning_engine_local.model.dropout import NO_DROPOUT, DrawnDropout, Dropout
from prompt_tuning_engine_local.model.network_config import T5Config

__all__ = [
    "T5",
    "Cache",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "PromptFactory",
    "T5Config",
]

PromptFactory = Callable[[], PromptModule]
Cache = list[dict[str, jax.Array]]


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each with a normalised input and a residual."""

    config: T5Config

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.pre_attention_layer_norm = RMSNorm(config.dtype)
        self.attention = Attention(config)
        self.pre_mlp_layer_norm = RMSNorm(config.dtype)
        self.mlp = MLP(config)

    def __call__(
        self, x: jax.Array, real: jax.Array, bias: jax.Array, dropout: Dropout
    ) -> jax.Array:
        """Maps `[B, S, H]` to the same shape.

        Args:
          x: `[B, S, H]`.
          real: bool `[B, S]`, which positions are not padding.
          bias: Of the attention's logits, broadcastable to `[B, heads, S, S]`.
          dropout: Called at each place where T5X has dropout.
        """
        config = self.config
        batch, length, width = x.shape
        masks = dropout.drawn(
            (batch, config.num_heads, 1, length), (batch, 1, width),
            (batch, 1, config.mlp_dim), (batch, 1, width),
        )  # fmt: skip
        return self._blocks(x, real, bias, masks)

    # Jitted: JAX traces it once for all layers of a stack, and XLA inlines it.
    @nn.jit
    def _blocks(
        self, x: jax.Array, real: jax.Array, bias: jax.Array, dropout: DrawnDropout
    ) -> jax.Array:
        logit_mask = real[..., None].astype(x.dtype)
        y = logit_mask * self.pre_attention_layer_norm(x)
        y = self.attention(y, y, bias, dropout)
        x = x + dropout(y)
        y = self.mlp(logit_mask * self.pre_mlp_layer_norm(x), dropout)
        return x + dropout(y)


class Encoder(nn.Module):
    """The encoder stack; the prompt is added before the dropout of its input."""

    config: T5Config
    prompt_factory: PromptFactory | None = None

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.prompt = PromptModule() if self.prompt_factory is None else self.prompt_factory()
        self.layers = [EncoderLayer(config) for _ in range(config.num_encoder_layers)]
        self.relpos_bias = RelativePositionBias(config, bidirectional=True)
        self.encoder_norm = RMSNorm(config.dtype)

    def __call__(
        self, tokens: jax.Array, embedded: jax.Array, dropout: Dropout
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes.

        Args:
          tokens: `[B, L]` int32, 0 where padded.
          embedded: `[B, L, H]`.
          dropout: Called at each place where T5X has dropout.

        Returns:
          The encoded sequence `[B, S, H]`, zero where padded, and which of its positions are
          real, `[B, S]` bool.
        """
        real = self.prompt.input_mask(tokens)
        x = self.prompt.input(tokens, embedded)
        x = dropout(x).astype(self.config.dtype)
        length = x.shape[1]
        # Padded queries need no mask: their outputs are set to 0 after the last layer.
        bias = masked(self.relpos_bias(np.arange(length), length), real[:, None, None, :])
        for layer in self.layers:
            x = layer(x, real, bias, dropout)
        x = dropout(self.encoder_norm(x))
        return x * real[..., None].astype(x.dtype), real


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
    ) -> jax.Array:
        """Maps `[B, T, H]` to the same shape.

        Args:
          x: `[B, T, H]`.
          encoded: `[B, S, H]`.
          logit_mask: `[B, T, 1]`, multiplied with the input of each block.
          bias: Of the logits of self-attention, `[B, heads, T, T]`.
          cross_bias: Of the logits of the attention to `encoded`, `[B, 1, T, S]`.
          dropout: Called at each place where T5X has dropout.
        """
        config = self.config
        batch, length, width = x.shape
        masks = dropout.drawn(
            (batch, config.num_heads, 1, length), (batch, 1, width),
            (batch, config.num_heads, 1, encoded.shape[1]), (batch, 1, width),
            (batch, 1, config.mlp_dim), (batch, 1, width),
        )  # fmt: skip
        return self._blocks(x, encoded, logit_mask, bias, cross_bias, masks)

    @nn.jit  # See `EncoderLayer`.
    def _blocks(
        self,
        x: jax.Array,
        encoded: jax.Array,
        logit_mask: jax.Array,
        bias: jax.Array,
        cross_bias: jax.Array,
        dropout: DrawnDropout,
    ) -> jax.Array:
        y = logit_mask * self.pre_self_attention_layer_norm(x)
        y = self.self_attention(y, y, bias, dropout)
        x = x + dropout(y)
        y = logit_mask * self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, encoded, cross_bias, dropout)
        x = x + dropout(y)
        y = self.mlp(logit_mask * self.pre_mlp_layer_norm(x), dropout)
        return x + dropout(y)

    def start_cache(self, encoded: jax.Array, max_length: int) -> dict[str, jax.Array]:
        """Returns the keys and values that `step` reads: those of `encoded`, and empty ones."""
        cross_keys, cross_values = self.encoder_decoder_attention.keys_values(encoded)
        config = self.config
        empty = jnp.zeros(
            (encoded.shape[0], config.num_heads, max_length, config.head_dim), config.dtype
        )
        return {
            "keys": empty,
            "values": empty,
            "cross_keys": cross_keys,
            "cross_values": cross_values,
        }

    @nn.jit  # See `EncoderLayer`.
    def step(
        self,
        x: jax.Array,
        cache: dict[str, jax.Array],
        position: jax.Array,
        bias: jax.Array,
        cross_bias: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps one position `[B, 1, H]` to the same shape, and adds it to the cache."""
        y = self.pre_self_attention_layer_norm(x)
        key, value = self.self_attention.keys_values(y)
        keys = jax.lax.dynamic_update_slice_in_dim(cache["keys"], key, position, axis=2)
        values = jax.lax.dynamic_update_slice_in_dim(cache["values"], value, position, axis=2)
        x = x + self.self_attention.attend(y, keys, values, bias, NO_DROPOUT)
        y = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention.attend(
            y, cache["cross_keys"], cache["cross_values"], cross_bias, NO_DROPOUT
        )
        x = x + self.mlp(self.pre_mlp_layer_norm(x), NO_DROPOUT)
        return x, {**cache, "keys": keys, "values": values}


class Decoder(nn.Module):
    """The decoder stack with its output layer.

    Attributes:
      config: Sizes and numerics.
      token_embedder: The model's embedding table, for `logits_via_embedding`.
    """

    config: T5Config
    token_embedder: nn.Embed

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
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
        encoded: jax.Array,
        real: jax.Array,
        dropout: Dropout,
    ) -> jax.Array:
        """Returns float32 logits `[B, T, V]`; arguments as in `T5.decode`."""
        length = input_tokens.shape[1]
        target = target_tokens > 0
        causal = jnp.asarray(np.tril(np.ones((length, length), bool)))
        mask = causal & (target[:, None, :, None] & target[:, None, None, :])
        bias = masked(self.relpos_bias(np.arange(length), length), mask)
        cross_bias = masked(0.0, target[:, None, :, None] & real[:, None, None, :])
        # The start token has the id of padding, so look at the inputs and at the targets.
        is_token = input_tokens > 0
        logit_mask = is_token | jnp.pad(is_token[:, 1:], ((0, 0), (0, 1)))
        x = dropout(embedded).astype(self.config.dtype)
        for layer in self.layers:
            x = layer(x, encoded, logit_mask[..., None].astype(x.dtype), bias, cross_bias, dropout)
        x = dropout(self.decoder_norm(x))
        return self._logits(logit_mask[..., None].astype(x.dtype) * x)

    def start_cache(self, encoded: jax.Array, max_length: int) -> Cache:
        """See `T5.start_cache`."""
        return [layer.start_cache(encoded, max_length) for layer in self.layers]

    def step(
        self, embedded: jax.Array, cache: Cache, position: jax.Array, real: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """See `T5.decode_step`."""
        x = embedded.astype(self.config.dtype)
        max_length = cache[0]["keys"].shape[2]
        bias = masked(
            self.relpos_bias(position[None], max_length), jnp.arange(max_length) <= position
        )
        cross_bias = masked(0.0, real[:, None, None, :])
        new_cache = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x, layer_cache = layer.step(x, layer_cache, position, bias, cross_bias)
            new_cache.append(layer_cache)
        return self._logits(self.decoder_norm(x)), new_cache

    def _logits(self, x: jax.Array) -> jax.Array:
        """Maps `[..., H]` to float32 `[..., V]`."""
        if not self.config.logits_via_embedding:
            return self.logits_dense(x)
        # Embeddings are larger than an output layer's weights; the scale corrects that.
        x = x.astype(jnp.float32) * self.config.emb_dim**-0.5
        return x @ self.token_embedder.embedding.astype(jnp.float32).T


class T5(nn.Module):
    """T5 with an optional prompt module.

    Attributes:
      config: Sizes and numerics.
      prompt_factory: Makes the prompt module. The encoder calls it, so that its parameters are
        `encoder/prompt/…`; None for the bare model.
    """

    config: T5Config
    prompt_factory: PromptFactory | None = None

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.token_embedder = nn.Embed(
            config.num_embeddings,
            config.emb_dim,
            dtype=config.dtype,
            # The output layer multiplies it in float32.
            param_dtype="float32" if config.logits_via_embedding else config.dtype,
            embedding_init=nn.initializers.normal(config.embedding_std),
        )
        self.encoder = Encoder(config, self.prompt_factory)
        self.decoder = Decoder(config, self.token_embedder)

    def __call__(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Returns float32 logits `[B, T, V]`; arguments as in `encode` and `decode`."""
        encoded, real = self.encode(encoder_input_tokens, dropout)
        return self.decode(encoded, real, decoder_input_tokens, decoder_target_tokens, dropout)

    def encode(
        self, encoder_input_tokens: jax.Array, dropout: Dropout = NO_DROPOUT
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes `[B, L]` int32 tokens.

        Returns:
          The encoded sequence `[B, S, H]`, zero where padded, and which of its positions are
          real, `[B, S]` bool.
        """
        embedded = self.token_embedder(encoder_input_tokens)
        return self.encoder(encoder_input_tokens, embedded, dropout)

    def decode(
        self,
        encoded: jax.Array,
        real: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Decodes with teacher forcing.

        Args:
          encoded: `[B, S, H]` from `encode`.
          real: `[B, S]` from `encode`.
          decoder_input_tokens: `[B, T]` int32, the targets shifted right, beginning with 0.
          decoder_target_tokens: `[B, T]` int32, 0 where padded; for the masks.
          dropout: Called at each place where T5X has dropout.

        Returns:
          float32 logits `[B, T, V]`.
        """
        embedded = self.token_embedder(decoder_input_tokens)
        return self.decoder(
            embedded, decoder_input_tokens, decoder_target_tokens, encoded, real, dropout
        )

    def start_cache(self, encoded: jax.Array, max_length: int) -> Cache:
        """Returns the cache of `decode_step` for sequences of up to `max_length` positions.

        The first axis of every array is the batch, so that beam search can gather beams.
        """
        return self.decoder.start_cache(encoded, max_length)

    def decode_step(
        self, tokens: jax.Array, cache: Cache, position: jax.Array, real: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Decodes one position.

        Args:
          tokens: `[B]` int32, the token before this position (0 at the start).
          cache: From `start_cache` or the step before.
          position: Scalar int32, counted from 0.
          real: `[B, S]` from `encode`.

        Returns:
          float32 logits `[B, V]` of the token at `position`, and the new cache.
        """
        embedded = self.token_embedder(tokens[:, None])
        logits, cache = self.decoder.step(embedded, cache, position, real)
        return logits[:, 0], cache
