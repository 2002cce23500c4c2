"""The encoder stack of T5.

Shapes below: B batch, L length of the input tokens, S length of the encoded sequence, H width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from prompt_tuning_core.prompts import PromptFactory
from prompt_tuning_engine_local.model.attention import Attention, RelativePositionBias, masked
from prompt_tuning_engine_local.model.blocks import MLP, RMSNorm
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network_config import T5Config
from prompt_tuning_engine_local.model.prompt_points import LayerPoints, points_of, prompt_in


class Encoded(NamedTuple):
    """An encoded batch, as the decoder needs it.

    Attributes:
      values: `[B, S, H]`, zero where padded.
      real: `[B, S]` bool, which positions are not padding.
      tokens: `[B, L]` int32, the input tokens.
    """

    values: jax.Array
    real: jax.Array
    tokens: jax.Array


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
        self,
        x: jax.Array,
        real: jax.Array,
        bias: jax.Array,
        dropout: Dropout,
        points: LayerPoints | None = None,
    ) -> jax.Array:
        """Maps `[B, S, H]` to the same shape.

        Args:
          x: `[B, S, H]`.
          real: bool `[B, S]`, which positions are not padding.
          bias: Of the attention's logits, broadcastable to `[B, heads, S, S]`.
          dropout: Called at each place where T5X has dropout.
          points: Those of a prompt module that acts within layers.
        """
        logit_mask = real[..., None].astype(x.dtype)
        y = logit_mask * self.pre_attention_layer_norm(x)
        y = self.attention(y, y, bias, dropout, points, "attention")
        x = x + dropout(y)
        y = self.mlp(logit_mask * self.pre_mlp_layer_norm(x), dropout, points)
        return x + dropout(y)


class Encoder(nn.Module):
    """The encoder stack; the prompt is added before the dropout of its input."""

    config: T5Config
    prompt_factory: PromptFactory | None = None

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        self.prompt = prompt_in(self.prompt_factory, config, "encoder")
        self.layers = [EncoderLayer(config) for _ in range(config.num_encoder_layers)]
        self.relpos_bias = RelativePositionBias(config, bidirectional=True)
        self.encoder_norm = RMSNorm(config.dtype)

    def __call__(self, tokens: jax.Array, embedded: jax.Array, dropout: Dropout) -> Encoded:
        """Encodes.

        Args:
          tokens: `[B, L]` int32, 0 where padded.
          embedded: `[B, L, H]`.
          dropout: Called at each place where T5X has dropout.
        """
        state = self.prompt.start(tokens)
        real = self.prompt.input_mask(tokens)
        x = self.prompt.input(tokens, embedded)
        x = dropout(x).astype(self.config.dtype)
        length = x.shape[1]
        # Padded queries need no mask: their outputs are set to 0 after the last layer.
        bias = masked(self.relpos_bias(np.arange(length), length), real[:, None, None, :])
        points = points_of(self.prompt, state, len(x))
        for number, layer in enumerate(self.layers):
            x = self.prompt.layer(number, x, state)
            x = layer(x, real, bias, dropout, points[number])
        x = dropout(self.encoder_norm(x))
        return Encoded(x * real[..., None].astype(x.dtype), real, tokens)
