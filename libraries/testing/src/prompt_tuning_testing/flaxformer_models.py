"""A tiny T5 1.1 with random weights, made of Flaxformer's modules; imports Flaxformer."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components import dense, embedding, layer_norm, relative_position_biases
from flaxformer.components.attention import dense_attention

from prompt_tuning_core.integrations.flaxformer import (
    PromptDecoder,
    PromptDecoderOnly,
    PromptEncoder,
    PromptEncoderDecoder,
)
from prompt_tuning_core.prompts import PromptFactory


def encoder_decoder(
    prompt_factory: PromptFactory | None = None,
    one_hot: bool = True,
    dropout_rate: float = 0.0,
    prompt_decoder: bool = True,
    layer_remat: str = "legacy",
    scan_layers: bool = False,
) -> Any:
    """Makes an encoder-decoder, with prompts if a factory is given.

    Args:
      prompt_factory: Makes the prompt module; None for Flaxformer's own classes.
      one_hot: True looks tokens up by a product with one-hot vectors.
      dropout_rate: The rate of all dropout.
      prompt_decoder: False uses Flaxformer's own decoder.
      layer_remat: Flaxformer's rule for the values that the backward pass computes again.
      scan_layers: True scans the layers of the encoder.
    """
    stack: dict[str, Any] = {**_stack_settings(dropout_rate), "layer_remat": layer_remat}
    dropout = stack.pop("dropout_factory")
    encoder_settings: dict[str, Any] = {
        "layer_factory": functools.partial(_encoder_layer, dropout_rate),
        "input_dropout_factory": dropout,
        "output_dropout_factory": dropout,
        **stack,
    }
    if prompt_factory is None:
        encoder = functools.partial(t5_architecture.Encoder, **encoder_settings)
        whole = t5_architecture.EncoderDecoder
    else:
        if scan_layers:
            encoder_settings.update(scan_layers=True, shared_relative_position_bias_factory=None)
        encoder = functools.partial(
            PromptEncoder, prompt_factory=prompt_factory, **encoder_settings
        )
        whole = PromptEncoderDecoder
    decoder = t5_architecture.Decoder
    if prompt_factory is not None and prompt_decoder:
        decoder = functools.partial(PromptDecoder, prompt_factory=prompt_factory)
    return whole(
        encoder_factory=encoder,
        decoder_factory=functools.partial(
            decoder,
            layer_remat=layer_remat,
            **_decoder_settings(dropout_rate, cross_attention=True),
        ),
        shared_token_embedder_factory=functools.partial(_embed, one_hot),
    )


def decoder_only(prompt_factory: PromptFactory | None = None, dropout_rate: float = 0.0) -> Any:
    """Makes a decoder-only model, with a prompt if a factory is given."""
    settings = {
        "token_embedder_factory": functools.partial(_embed, True),
        **_decoder_settings(dropout_rate, cross_attention=False),
    }
    if prompt_factory is None:
        return t5_architecture.DecoderOnly(
            decoder_factory=functools.partial(t5_architecture.Decoder, **settings)
        )
    return PromptDecoderOnly(
        decoder_factory=functools.partial(PromptDecoder, prompt_factory=prompt_factory, **settings)
    )


def _embed(one_hot: bool) -> Any:
    return embedding.Embed(
        num_embeddings=64,
        features=32,
        cast_input_dtype="int32",
        attend_dtype="float32",
        one_hot=one_hot,
        name="token_embedder",
    )


def _stack_settings(dropout_rate: float) -> dict[str, Any]:
    return {
        "num_layers": 2,
        "dropout_factory": functools.partial(nn.Dropout, rate=dropout_rate, broadcast_dims=(-2,)),
        "layer_norm_factory": layer_norm.T5LayerNorm,
        "shared_relative_position_bias_factory": functools.partial(
            relative_position_biases.RelativePositionBiases,
            num_heads=4,
            num_buckets=32,
            max_distance=128,
            dtype=jnp.float32,
            embedding_init=nn.initializers.normal(),
        ),
    }


def _decoder_settings(dropout_rate: float, cross_attention: bool) -> dict[str, Any]:
    return {
        "layer_factory": functools.partial(_decoder_layer, dropout_rate, cross_attention),
        "output_logits_factory": functools.partial(
            dense.DenseGeneral,
            features=64,
            use_bias=False,
            dtype="float32",
            kernel_axis_names=["embed", "vocab"],
        ),
        **_stack_settings(dropout_rate),
    }


def _attention(dropout_rate: float) -> Any:
    return dense_attention.MultiHeadDotProductAttention(
        num_heads=4,
        head_dim=8,
        use_bias=False,
        broadcast_dropout=True,
        dropout_rate=dropout_rate,
    )


def _layer_settings(dropout_rate: float, shared_relative_position_bias: Any) -> dict[str, Any]:
    return {
        "mlp": dense.MlpBlock(
            use_bias=False,
            intermediate_dim=64,
            activations=("gelu", "linear"),
            intermediate_dropout_rate=dropout_rate,
            final_dropout_rate=0,
        ),
        "dropout_factory": functools.partial(nn.Dropout, rate=dropout_rate, broadcast_dims=(-2,)),
        "layer_norm_factory": layer_norm.T5LayerNorm,
        "shared_relative_position_bias": shared_relative_position_bias,
    }


def _encoder_layer(dropout_rate: float, *, shared_relative_position_bias: Any) -> Any:
    return t5_architecture.EncoderLayer(
        attention=_attention(dropout_rate),
        **_layer_settings(dropout_rate, shared_relative_position_bias),
    )


def _decoder_layer(
    dropout_rate: float, cross_attention: bool, *, shared_relative_position_bias: Any
) -> Any:
    return t5_architecture.DecoderLayer(
        self_attention=_attention(dropout_rate),
        encoder_decoder_attention=_attention(dropout_rate) if cross_attention else None,
        **_layer_settings(dropout_rate, shared_relative_position_bias),
    )
