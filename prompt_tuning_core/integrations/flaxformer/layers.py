"""Subclasses of Flaxformer's encoder, decoder and their combinations that call a prompt module.

Each class replaces the class of `flaxformer.architectures.t5.t5_architecture` that it extends:

- `PromptEncoderDecoder`, with `PromptEncoder` as its encoder, for prompts of the encoder;
- `PromptDecoderOnly`, with `PromptDecoder` as its decoder, for prompts of a decoder alone.

Encoder and decoder make the prompt module with `prompt_factory`, which gin files bind to the macro
PROMPT, and keep it as the submodule `prompt`. Its `input` yields the embedded input with the
prompt, before dropout; lengths and every mask follow from its `input_mask`. `*args` and `**kwargs`
are arguments of Flaxformer's method of the same name, which go on to it as they are.

Shapes below: B batch, T length of the tokens, P prompt positions, H width, V vocabulary size.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components.attention import dense_attention

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import (
    PromptFactory,
    PromptModule,
    Stack,
    check_not_packed,
    described,
    in_stack,
    made_by,
    overrides,
)
from prompt_tuning_core.protocols import SavedPrompt


class _PromptStack(nn.Module):
    """The part that `PromptEncoder` and `PromptDecoder` share; comes before Flaxformer's class.

    Attributes:
      prompt_factory: Makes the prompt module (the macro PROMPT), for this stack alone.
    """

    prompt_factory: PromptFactory | None = None

    side: ClassVar[str]

    def setup(self) -> None:
        """Makes the submodules."""
        super().setup()
        name = type(self).__name__
        if self.prompt_factory is None:
            raise InputError(f"{name}.prompt_factory is not set; set PROMPT")
        module = made_by(self.prompt_factory)
        check_supported(module, self.side)
        self.prompt = in_stack(module, _described_stack(self), (self.side,))

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Tells which positions of the stack's sequence hold a prompt or a token above 0.

        Args:
          tokens: `[B, T]` token ids, 0 where padded (and at a decoder's BOS).

        Returns:
          `[B, P + T]` bool.
        """
        return self.prompt.input_mask(tokens)

    def embed_and_combine_inputs(
        self,
        tokens: jax.Array,
        *args: Any,
        segment_ids: jax.Array | None = None,
        enable_dropout: bool = True,
        **kwargs: Any,
    ) -> jax.Array:
        """Embeds the tokens and lets the prompt module add to them, before dropout.

        Args:
          tokens: `[B, T]` token ids, 0 where padded (and at a decoder's BOS).
          *args: See Flaxformer's method.
          segment_ids: Must be None.
          enable_dropout: Whether to apply dropout.
          **kwargs: See Flaxformer's method. `decode=True` is a step of decoding, which adds no
            prompt.

        Returns:
          `[B, P + T, H]`, or `[B, T, H]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(segment_ids)
        base = super().embed_and_combine_inputs  # type: ignore[misc]  # Flaxformer's: it comes next.
        embed = functools.partial(base, tokens, *args, **kwargs)
        if kwargs.get("decode"):
            return embed(enable_dropout=enable_dropout)
        # Dropout comes once, after the prompt.
        embedded = self.prompt.input(tokens, embed(enable_dropout=False))
        return self.input_dropout(embedded, deterministic=not enable_dropout)


class PromptEncoder(_PromptStack, t5_architecture.Encoder):
    """An encoder whose embedded input passes through a prompt module.

    Attributes:
      prompt_factory: Makes the prompt module (the macro PROMPT), whose `sides` are ("encoder",).
    """

    side = "encoder"

    def __call__(
        self,
        inputs: jax.Array,
        inputs_positions: jax.Array | None = None,
        encoder_mask: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        **kwargs: Any,
    ) -> jax.Array:
        """Encodes.

        Args:
          inputs: `[B, T]` token ids, 0 where padded.
          inputs_positions: `[B, T]`, for absolute position embeddings.
          encoder_mask: Must be None: the mask follows from the prompt module.
          enable_dropout: Whether to apply dropout.
          **kwargs: Of `embed_and_combine_inputs`.

        Returns:
          `[B, P + T, H]`, zero where padded.

        Raises:
          InputError: If the examples are packed, or a mask is given.
        """
        if encoder_mask is not None:
            raise InputError(
                "PromptEncoder makes its mask itself and was given one: use it as the encoder of "
                "PromptEncoderDecoder"
            )
        if self.sow_intermediates:
            self.sow("intermediates", "input_tokens_ids", inputs)
        embedded = self.embed_and_combine_inputs(
            inputs, inputs_positions, enable_dropout=enable_dropout, **kwargs
        )
        real = self.input_mask(inputs)
        encoded = self.encode_from_continuous_inputs(
            embedded,
            encoder_mask=dense_attention.make_attention_mask(real, real, dtype=self.dtype),
            logit_mask=real[..., None].astype(embedded.dtype),
            enable_dropout=enable_dropout,
        )
        if self.sow_intermediates:
            self.sow("intermediates", "final_encoder_outputs", encoded)
        return encoded


class PromptEncoderDecoder(t5_architecture.EncoderDecoder):
    """An encoder-decoder whose encoder is a `PromptEncoder`."""

    def setup(self) -> None:
        """Makes the submodules; an InputError if the encoder is not one for prompts."""
        super().setup()
        _check_stack(self, self.encoder, PromptEncoder)

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
          `[B, P + T, H]`.

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
        prefill: bool = False,
        **kwargs: Any,
    ) -> jax.Array:
        """Decodes as Flaxformer does, attending to the prompt as well.

        Args:
          encoded: `[B, P + T, H]` from `encode`.
          encoder_input_tokens: `[B, T]`, what `encode` was given.
          decoder_input_tokens: `[B, length of the targets]`.
          decoder_target_tokens: `[B, length of the targets]`.
          encoder_segment_ids: Must be None.
          decoder_segment_ids: Must be None.
          *args: See Flaxformer's method.
          prefill: See Flaxformer's method. T5X prefills only where a signature names it.
          **kwargs: See Flaxformer's method.

        Returns:
          `[B, length of the targets, V]`, logits.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(encoder_segment_ids, decoder_segment_ids)
        # Flaxformer takes the encoder's tokens for no more than which of them are above 0.
        attended = self.encoder.input_mask(encoder_input_tokens).astype(jnp.int32)
        tokens = (attended, decoder_input_tokens, decoder_target_tokens)
        return super().decode(encoded, *tokens, None, None, *args, prefill=prefill, **kwargs)


class PromptDecoder(_PromptStack, t5_architecture.Decoder):
    """A decoder whose embedded input passes through a prompt module that adds in front of it.

    In decoding step by step (`decode=True`) the prompt is in the cache, where `prefill=True` has
    put it, and is not added again.

    Attributes:
      prompt_factory: Makes the prompt module (the macro PROMPT), whose `sides` are ("decoder",).
    """

    side = "decoder"

    def setup(self) -> None:
        """Makes the submodules."""
        super().setup()
        _check_in_front(self.prompt)

    def __call__(
        self,
        encoder_outputs: jax.Array | None,
        decoder_input_tokens: jax.Array,
        *args: Any,
        decode: bool = False,
        **kwargs: Any,
    ) -> jax.Array:
        """Decodes.

        Args:
          encoder_outputs: See `t5_architecture.Decoder`.
          decoder_input_tokens: `[B, T]` token ids, BOS and padding 0.
          *args: See `t5_architecture.Decoder`. Masks are of the P + T positions, and so are
            `max_decode_length` and `prefill_lengths`; `segment_ids` must be None.
          decode: Whether this is a step of decoding, which adds no prompt.
          **kwargs: As `*args`.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        if not decode:
            # Flaxformer hands on what it does not know to `decode_from_continuous_inputs`.
            kwargs["input_mask"] = self.input_mask(decoder_input_tokens)
        return super().__call__(
            encoder_outputs, decoder_input_tokens, *args, decode=decode, **kwargs
        )

    def decode_from_continuous_inputs(
        self,
        embedded_inputs: jax.Array,
        *args: Any,
        input_mask: jax.Array | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """Applies the layers and makes the logits.

        Args:
          embedded_inputs: `[B, P + T, H]`, or `[B, T, H]` in a step of decoding.
          *args: See Flaxformer's method.
          input_mask: `[B, P + T]`, from which the logit mask follows; None in a step of decoding,
            where Flaxformer's is right.
          **kwargs: See Flaxformer's method.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.
        """
        if input_mask is not None:
            kwargs["logit_mask"] = dense_attention.get_decoder_logit_mask(
                input_mask.astype(jnp.int32), embedded_inputs.dtype
            )
        return super().decode_from_continuous_inputs(embedded_inputs, *args, **kwargs)


class PromptDecoderOnly(t5_architecture.DecoderOnly):
    """A language model whose decoder is a `PromptDecoder`."""

    def setup(self) -> None:
        """Makes the submodules; an InputError if the decoder is not one for prompts."""
        super().setup()
        _check_stack(self, self.decoder, PromptDecoder)

    def input_mask(self, decoder_input_tokens: jax.Array) -> jax.Array:
        """See `PromptDecoder.input_mask`."""
        return self.decoder.input_mask(decoder_input_tokens)

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
        """Decodes; the arrays described here are those of the tokens alone.

        Args:
          decoder_input_tokens: `[B, T]` token ids, BOS and padding 0.
          decoder_target_tokens: `[B, T]`, above 0 where a position is attended to.
          decoder_segment_ids: Must be None.
          decoder_positions: `[B, T]`, for absolute position embeddings.
          decoder_causal_attention: `[B, T]`, 1 for the inputs of a prefix language model, which
            see each other and the prompt in both directions; None for causal attention throughout.
          decode: Whether this is a step of decoding, which adds no prompt.
          **kwargs: See `PromptDecoder`.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(decoder_segment_ids)
        if not decode:
            real = self.input_mask(decoder_input_tokens)
            prompt = real[:, : real.shape[1] - decoder_input_tokens.shape[1]].astype(jnp.int32)
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


def check_supported(module: PromptModule, side: str) -> None:
    """Refuses a prompt module that acts where Flaxformer's modules do not call it.

    Args:
      module: The module.
      side: The one stack that may have a prompt: "encoder", or in a decoder alone "decoder".

    Raises:
      InputError: If it overrides a point that is not called, or acts in another stack.
    """
    for point in ("start", "layer", "prefix", "activations", "penalty", "report"):
        if overrides(module, point):
            raise InputError(
                f"{described(module)}: overrides the point {point!r}, which the integration with "
                "Flaxformer does not call; use an engine that does"
            )
    if isinstance(module.prompt_init, SavedPrompt) and module.prompt_init.plugin is not None:
        raise InputError(
            f"prompt {module.prompt_init.path}: holds a prompt module with all of its arrays, and "
            "the integration with Flaxformer takes plain prompts only; use another engine"
        )
    if tuple(module.sides) != (side,):
        raise InputError(
            f"{described(module)}: sides is {module.sides!r}, and a Flaxformer model has prompts "
            f"in its {side} only; set sides = ({side!r},), or use another engine"
        )


def _described_stack(stack: Any) -> Stack:
    """Describes a stack of Flaxformer to a prompt module."""
    if stack.scan_layers:
        raise InputError(
            f"{type(stack).__name__}.scan_layers is True, and prompts need layers one by one; set "
            "it to False"
        )
    first = stack.layers[0]
    attention = first.attention if stack.side == "encoder" else first.self_attention
    names = ("attention",) if stack.side == "encoder" else ("self_attention",)
    return Stack(
        side=stack.side,
        width=stack.embedder.embedders["token_ids"].features,
        layers=stack.num_layers,
        heads=attention.num_heads,
        head_width=attention.head_dim,
        mlp_width=first.mlp.intermediate_dim,
        attentions=names,
    )


def _check_stack(whole: nn.Module, stack: nn.Module, expected: type[_PromptStack]) -> None:
    """Refuses a stack that is not one for prompts."""
    if not isinstance(stack, expected):
        name = type(whole).__name__
        raise InputError(
            f"{name}'s {expected.side} is a {type(stack).__name__}, expected a "
            f"{expected.__name__}: set {name}.{expected.side}_factory"
        )


def _check_in_front(prompt: PromptModule) -> None:
    """Refuses a prompt whose positions do not all come before those of the tokens."""
    # Where a prompt stands shows in the mask of a sequence whose first token alone is 0.
    with jax.ensure_compile_time_eval():
        tokens = jnp.asarray([[0, 1, 1]])
        real = prompt.input_mask(tokens)
        in_front = jnp.array_equal(real[:, -3:], tokens > 0)
    if not in_front:
        raise InputError(
            f"PromptDecoder needs a prompt in front of the sequence, and {type(prompt).__name__} "
            "places it elsewhere: set its `combine` to 'prefix'"
        )
