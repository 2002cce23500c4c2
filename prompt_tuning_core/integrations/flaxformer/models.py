"""Flaxformer's encoder-decoder and decoder-only model, made of stacks with prompt modules.

`*args` and `**kwargs` are passed unchanged to Flaxformer's method of the same name.

Shapes below: B batch, T length of the tokens, P prompt positions of the decoder, S length within
the encoder, H width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flaxformer.architectures.t5 import t5_architecture

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.integrations.flaxformer.stacks import (
    PromptDecoder,
    PromptEncoder,
    source_tokens,
)
from prompt_tuning_core.prompts import PromptModule, check_not_packed, described, made_by


class PromptEncoderDecoder(t5_architecture.EncoderDecoder):
    """An encoder-decoder with a `PromptEncoder` and a `PromptDecoder`.

    For a prompt that does not act in the decoder, the decoder may be Flaxformer's own.
    """

    def setup(self) -> None:
        """Makes the submodules; raises InputError if the prompt cannot act in them."""
        super().setup()
        _check_stack(self, self.encoder, PromptEncoder)
        if self.encoder.prompt_factory is None or isinstance(self.decoder, PromptDecoder):
            return
        module = made_by(self.encoder.prompt_factory)
        if "decoder" in module.sides:
            raise InputError(
                f"{described(module)}: sides is {module.sides!r}, and the decoder is a "
                f"{type(self.decoder).__name__}, expected a PromptDecoder: set "
                f"{type(self).__name__}.decoder_factory"
            )

    def prompt_mask(self, decoder_input_tokens: jax.Array) -> jax.Array:
        """See `PromptDecoder.prompt_mask`; P is 0 for Flaxformer's own decoder."""
        if not isinstance(self.decoder, PromptDecoder):
            return jnp.ones((len(decoder_input_tokens), 0), bool)
        return self.decoder.prompt_mask(decoder_input_tokens)

    def encode(
        self,
        encoder_input_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Encodes; the encoder makes the masks.

        Args:
          encoder_input_tokens: `[B, T]` token ids, 0 where padded.
          encoder_segment_ids: Must be None.
          encoder_positions: `[B, T]`, for absolute position embeddings.
          enable_dropout: Whether to apply dropout.

        Returns:
          `[B, S, H]`.

        Raises:
          InputError: If the examples are packed.
        """
        return self.encoder(
            encoder_input_tokens,
            inputs_positions=encoder_positions,
            segment_ids=encoder_segment_ids,
            enable_dropout=enable_dropout,
        )

    def decode(
        self,
        encoded: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        *args: Any,
        decode: bool = False,
        prefill: bool = False,
        **kwargs: Any,
    ) -> jax.Array:
        """Decodes as Flaxformer does, attending to the prompts as well.

        Lengths in the arguments count the targets alone: this method adds the decoder's P
        positions.

        Args:
          encoded: `[B, S, H]` from `encode`.
          encoder_input_tokens: `[B, T]`, the tokens that `encode` got.
          decoder_input_tokens: `[B, length of the targets]`.
          decoder_target_tokens: `[B, length of the targets]`.
          encoder_segment_ids: Must be None.
          decoder_segment_ids: Must be None.
          *args: See Flaxformer's method.
          decode: True to prepare and use a cache, which has P more positions than the targets.
          prefill: See Flaxformer's method. It puts the prompt's positions into the cache. T5X
            prefills only if this argument is in the signature.
          **kwargs: See Flaxformer's method.

        Returns:
          `[B, length of the targets, V]`, logits.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(encoder_segment_ids, decoder_segment_ids)
        # Flaxformer uses the encoder's tokens only to see which of them are above 0.
        attended = self.encoder.input_mask(encoder_input_tokens).astype(jnp.int32)
        length = decoder_input_tokens.shape[1]
        in_prompt = self.prompt_mask(decoder_input_tokens).astype(jnp.int32)
        positions = in_prompt.shape[1]
        if positions:
            for name in ("max_decode_length", "prefill_lengths"):
                if kwargs.get(name) is not None:
                    kwargs[name] = kwargs[name] + positions
            makes_cache = decode and not self.has_variable("cache", "decoder")
            if makes_cache:
                decoder_input_tokens = jnp.concatenate([in_prompt, decoder_input_tokens], axis=1)
            if makes_cache or not decode:
                decoder_target_tokens = jnp.concatenate([in_prompt, decoder_target_tokens], axis=1)
        tokens = (decoder_input_tokens, decoder_target_tokens, None, None)
        with source_tokens(encoder_input_tokens):
            logits = super().decode(
                encoded, attended, *tokens, *args, decode=decode, prefill=prefill, **kwargs
            )
        return logits[:, -length:]


class PromptDecoderOnly(t5_architecture.DecoderOnly):
    """A language model whose decoder is a `PromptDecoder`."""

    def setup(self) -> None:
        """Makes the submodules; raises InputError if the decoder is no `PromptDecoder`."""
        super().setup()
        _check_stack(self, self.decoder, PromptDecoder)

    def prompt_mask(self, decoder_input_tokens: jax.Array) -> jax.Array:
        """See `PromptDecoder.prompt_mask`."""
        return self.decoder.prompt_mask(decoder_input_tokens)

    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        *,
        decode: bool = False,
        **kwargs: Any,
    ) -> jax.Array:
        """Decodes. Arrays in the arguments hold the tokens alone, without the prompt's positions.

        Args:
          decoder_input_tokens: `[B, T]` token ids, start and padding 0.
          decoder_target_tokens: `[B, T]`, above 0 where a position is attended to.
          decoder_segment_ids: Must be None.
          decoder_positions: `[B, T]`, for absolute position embeddings.
          decoder_causal_attention: `[B, T]`, 1 for the inputs of a prefix language model, which
            attend to each other and to the prompt in both directions. None for causal attention
            everywhere.
          decode: True in a step of decoding, which adds no prompt.
          **kwargs: See `PromptDecoder`.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(decoder_segment_ids)
        if not decode:
            prompt = self.prompt_mask(decoder_input_tokens).astype(jnp.int32)
            decoder_target_tokens = jnp.concatenate([prompt, decoder_target_tokens], axis=1)
            if decoder_causal_attention is not None:
                decoder_causal_attention = jnp.concatenate(
                    [prompt, decoder_causal_attention], axis=1
                )
        return super().__call__(
            decoder_input_tokens,
            decoder_target_tokens,
            decoder_positions=decoder_positions,
            decoder_causal_attention=decoder_causal_attention,
            decode=decode,
            **kwargs,
        )


def prompts_of(model: nn.Module) -> Mapping[str, PromptModule]:
    """Returns the unbound prompt module of each stack, by side ("encoder", "decoder").

    Args:
      model: A `PromptEncoderDecoder` or `PromptDecoderOnly`, bound or not.
    """
    bound = model.clone(parent=None).bind({})
    stacks = [getattr(bound, side, None) for side in ("encoder", "decoder")]
    return {
        stack.side: stack.prompt.clone(parent=None, name=None)
        for stack in stacks
        if isinstance(stack, PromptEncoder | PromptDecoder)
    }


def _check_stack(
    whole: nn.Module, stack: nn.Module, expected: type[PromptEncoder | PromptDecoder]
) -> None:
    """Refuses a stack that is not of the class `expected`."""
    if not isinstance(stack, expected):
        name = type(whole).__name__
        raise InputError(
            f"{name}'s {expected.side} is a {type(stack).__name__}, expected a "
            f"{expected.__name__}: set {name}.{expected.side}_factory"
        )
