"""T5 encoder-decoder (Raffel et al. 2020), 1.0 and 1.1 (Shazeer 2020), with a prompt seam.

Names and shapes of the parameters are Flaxformer's, so that T5X checkpoints load by name: attention
kernels are `[H, heads * head width]`, relative position embeddings `[heads, buckets]`.

Shapes below: B batch, T decoder length, L encoder input length, P prompt positions, S = L + P,
H width, V vocabulary size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_engine_local.model.dropout import NO_DROPOUT, DrawnDropout, Dropout

PromptFactory = Callable[[], PromptModule]
Cache = list[dict[str, jax.Array]]

# Far below any attention logit, yet finite.
_MASKED = -1e10

_ACTIVATIONS = ("gated-gelu", "relu")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and numerics of a T5 model; the names of T5X's macros are given in brackets.

    The defaults are those of T5 1.1. T5 1.0 has `activation` "relu" and `logits_via_embedding`.

    Attributes:
      num_embeddings: Rows of the embedding table, V (NUM_EMBEDDINGS).
      emb_dim: Width of the model, H (EMBED_DIM).
      num_heads: Attention heads (NUM_HEADS).
      head_dim: Width of a head (HEAD_DIM).
      mlp_dim: Hidden width of the feed-forward blocks (MLP_DIM).
      num_encoder_layers: Layers of the encoder (NUM_ENCODER_LAYERS).
      num_decoder_layers: Layers of the decoder (NUM_DECODER_LAYERS).
      dropout_rate: Dropout while training (DROPOUT_RATE).
      dtype: Dtype of activations, "float32" or "bfloat16" (ACTIVATION_DTYPE).
      relpos_buckets: Buckets of the relative position biases.
      relpos_max_distance: Distance from which on all positions share the last bucket.
      embedding_std: Standard deviation of a newly initialised embedding table.
      activation: Of the feed-forward blocks, "gated-gelu" or "relu".
      logits_via_embedding: Whether the embedding table, times `emb_dim ** -0.5`, is the output
        layer, too; otherwise that has a matrix of its own.

    Raises:
      InputError: If `activation` is neither.
    """

    num_embeddings: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    dropout_rate: float = 0.0
    dtype: str = "float32"
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    embedding_std: float = 1.0
    activation: str = "gated-gelu"
    logits_via_embedding: bool = False

    def __post_init__(self) -> None:
        """Checks what is not a number."""
        if self.activation not in _ACTIVATIONS:
            raise InputError(
                f"T5Config.activation is {self.activation!r}, expected one of "
                f"{', '.join(map(repr, _ACTIVATIONS))}"
            )


class RMSNorm(nn.Module):
    """Root mean square normalisation without bias (Zhang and Sennrich 2019), epsilon 1e-6."""

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis in float32; returns `dtype`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x.astype(self.dtype) * scale


class Dense(nn.Module):
    """A matrix without bias: the parameter `kernel` `[in, features]`."""

    features: int
    dtype: str
    stddev_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x @ kernel` in `dtype`."""
        init = nn.initializers.variance_scaling(self.stddev_scale**2, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.dtype)
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        return product(rows, kernel).astype(self.dtype).reshape(*x.shape[:-1], self.features)


@jax.custom_vjp
def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies matrices of one dtype; the result is float32.

    XLA multiplies bfloat16 on CPUs about three times as fast where the result is float32, and it
    has no products of a bfloat16 and a float32 matrix, which JAX would make for the gradient. So
    the gradient's products are written out here, too.

    Args:
      left: `[..., m, k]`.
      right: `[..., k, n]`, with the same leading axes.

    Returns:
      float32 `[..., m, n]`.
    """
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _product_forward(
    left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(left, right), (left, right)


def _product_backward(
    operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = operands
    gradient = gradient.astype(left.dtype)
    return (
        product(gradient, right.mT).astype(left.dtype),
        product(left.mT, gradient).astype(right.dtype),
    )


product.defvjp(_product_forward, _product_backward)


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

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values of `x` `[B, K, H]`: each `[B, heads, K, head width]`.

        Heads come before positions, as the products of attention take them: a cache of these needs
        no transposing at each step of decoding.
        """
        return self._split(self.key(x)), self._split(self.value(x))

    def attend(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        bias: jax.Array,
        dropout: Dropout,
    ) -> jax.Array:
        """Attends from `x` to given keys and values.

        Args:
          x: `[B, Q, H]` queries.
          keys: `[B, heads, K, head width]`.
          values: `[B, heads, K, head width]`.
          bias: Added to the logits, broadcastable to `[B, heads, Q, K]`; see `masked`.
          dropout: Called at each place where T5X has dropout.

        Returns:
          `[B, Q, H]`.
        """
        queries = self._split(self.query(x))
        batch, heads, _, _ = queries.shape
        keep = dropout.mask(batch, heads, 1, keys.shape[2])

        # Computed again for the gradient: what is quadratic in the length is not kept for it.
        @jax.checkpoint
        def mix(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
            logits = product(queries, keys.mT)
            weights = jax.nn.softmax(logits + bias, axis=-1).astype(values.dtype)
            return product(dropout.apply(weights, keep), values).astype(values.dtype)

        mixed = mix(queries, keys, values).swapaxes(1, 2)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array,
        bias: jax.Array,
        dropout: Dropout,
    ) -> jax.Array:
        """Attends from `x` `[B, Q, H]` to `source` `[B, K, H]`; see `attend`."""
        keys, values = self.keys_values(source)
        return self.attend(x, keys, values, bias, dropout)

    def _split(self, x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)
        return x.swapaxes(1, 2)


class MLP(nn.Module):
    """The feed-forward block: `(gelu(x wi_0) * (x wi_1)) wo` in T5 1.1, `relu(x wi) wo` in 1.0."""

    config: T5Config

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        if config.activation == "relu":
            self.wi = Dense(config.mlp_dim, config.dtype)
        else:
            self.wi_0 = Dense(config.mlp_dim, config.dtype)
            self.wi_1 = Dense(config.mlp_dim, config.dtype)
        self.wo = Dense(config.emb_dim, config.dtype)

    def __call__(self, x: jax.Array, dropout: Dropout) -> jax.Array:
        """Maps `[B, S, H]` to the same shape."""
        if self.config.activation == "relu":
            return self.wo(dropout(nn.relu(self.wi(x))))
        # Computed again for the gradient, which takes less time than keeping what is within.
        gate = jax.checkpoint(lambda gate, x: nn.gelu(gate) * x)
        x = gate(self.wi_0(x), self.wi_1(x))
        return self.wo(dropout(x))


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
        # [num_keys, num_keys] buckets are a constant of the program; a query row is picked from it.
        buckets = relative_position_buckets(
            num_keys,
            config.relpos_buckets,
            config.relpos_max_distance,
            bidirectional=self.bidirectional,
        )
        return jnp.take(embedding, jnp.asarray(buckets)[query_positions], axis=1)[None]


def masked(bias: jax.Array | float, mask: jax.Array) -> jax.Array:
    """Returns float32 `bias` of logits, so low where `mask` is False that nothing attends there.

    A query whose keys are all masked attends to them evenly.
    """
    return jnp.where(mask, bias, _MASKED)


@functools.lru_cache(maxsize=64)
def relative_position_buckets(
    length: int, num_buckets: int, max_distance: int, *, bidirectional: bool
) -> np.ndarray:
    """Buckets of all pairs of positions (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to
    `max_distance`; with `bidirectional`, keys behind and before the query have buckets of their
    own, otherwise keys behind the query share bucket 0.

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
    # In float32 with its epsilon, as in T5X: a distance at an edge must land in the same bucket.
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    growth = np.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)
    large = np.minimum(exact + growth.astype(np.int32), num_buckets - 1)
    return (buckets + np.where(distance < exact, distance, large)).astype(np.int32)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward block, each on a normalised input, with a residual."""

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

    # Jitted, so that JAX traces it once for all layers of a stack; XLA compiles it inlined.
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
    """The encoder stack; the prompt enters in front of its input dropout."""

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
        # Padded queries need no mask: what they yield is zeroed behind the last layer.
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
        """Returns the keys and values that `step` reads: all of `encoded`, none yet of targets."""
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
        """Maps one position `[B, 1, H]`; returns the same shape and the cache with it added."""
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
        # The start token has padding's id, so a position counts when it or the next holds a token.
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
        # The scale makes up for embeddings that are larger than an output layer's weights.
        x = x.astype(jnp.float32) * self.config.emb_dim**-0.5
        return x @ self.token_embedder.embedding.astype(jnp.float32).T


class T5(nn.Module):
    """T5 with an optional prompt module.

    Attributes:
      config: Sizes and numerics.
      prompt_factory: Makes the prompt module, called within the encoder so that its parameters
        stand under `encoder/prompt`; None for the bare model.
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
            # As an output layer it is multiplied in float32.
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

        Every array in it has the batch as its first axis, so that beams can be gathered.
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
