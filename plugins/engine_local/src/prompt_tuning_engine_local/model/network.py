"""T5 encoder-decoder (Raffel et al. 2020), 1.0 and 1.1 (Shazeer 2020), with a prompt module.

Names and shapes of the parameters are Flaxformer's, so that T5X checkpoints load by name. For
example, attention kernels are `[H, heads * head width]`, and relative position embeddings are
`[heads, buckets]`.

Shapes below: B batch, L encoder input length, T decoder length, H width, V vocabulary size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_core.prompts import PromptFactory
from prompt_tuning_engine_local.model.decoder import Cache, Decoder
from prompt_tuning_engine_local.model.dropout import NO_DROPOUT, Dropout
from prompt_tuning_engine_local.model.encoder import Encoded, Encoder
from prompt_tuning_engine_local.model.network_config import T5Config

__all__ = ["T5", "T5Config"]


class T5(nn.Module):
    """T5 with an optional prompt module.

    Attributes:
      config: Sizes and numerics.
      prompt_factory: Makes the prompt module. Each stack calls it, so that the module's parameters
        are under `encoder/prompt` or `decoder/prompt`. None for the bare model.
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
        self.decoder = Decoder(config, self.token_embedder, self.prompt_factory)

    def __call__(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Returns float32 logits `[B, T, V]`; arguments as in `encode` and `decode`."""
        encoded = self.encode(encoder_input_tokens, dropout)
        return self.decode(encoded, decoder_input_tokens, decoder_target_tokens, dropout)

    def encode(self, encoder_input_tokens: jax.Array, dropout: Dropout = NO_DROPOUT) -> Encoded:
        """Encodes `[B, L]` int32 tokens."""
        embedded = self.token_embedder(encoder_input_tokens)
        return self.encoder(encoder_input_tokens, embedded, dropout)

    def decode(
        self,
        encoded: Encoded,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """Decodes with teacher forcing.

        Args:
          encoded: From `encode`.
          decoder_input_tokens: `[B, T]` int32, the targets shifted right, beginning with 0.
          decoder_target_tokens: `[B, T]` int32, 0 where padded; for the masks.
          dropout: Called at each place where T5X has dropout.

        Returns:
          float32 logits `[B, T, V]`.
        """
        embedded = self.token_embedder(decoder_input_tokens)
        return self.decoder(embedded, decoder_input_tokens, decoder_target_tokens, encoded, dropout)

    def start_cache(self, encoded: Encoded, max_length: int) -> Cache:
        """Returns the cache of `decode_step` for sequences of up to `max_length` positions.

        It has one row for each example; `Cache.spread` makes a cache with more rows.
        """
        start = self.token_embedder(jnp.zeros((len(encoded.tokens), 1), jnp.int32))
        return self.decoder.start_cache(start, encoded, max_length)

    def decode_step(
        self, tokens: jax.Array, cache: Cache, position: jax.Array, encoded: Encoded
    ) -> tuple[jax.Array, Cache]:
        """Decodes one position in R rows; an example has one or more rows.

        Args:
          tokens: `[R]` int32, the token before this position (0 at the start).
          cache: From `start_cache`, `Cache.spread`, `Cache.gather` or the step before.
          position: The position, scalar int32, counted from 0.
          encoded: From `encode`.

        Returns:
          float32 logits `[R, V]` of the token at `position`, and the new cache.
        """
        embedded = self.token_embedder(tokens[:, None])
        logits, cache = self.decoder.step(embedded, cache, position, encoded)
        return logits[:, 0], cache
