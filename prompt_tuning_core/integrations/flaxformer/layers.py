"""Subclasses of Flaxformer's encoder, decoder and their combinations that call a prompt module.

Each class replaces the class of `flaxformer.architectures.t5.t5_architecture` that it extends:

- `PromptEncoderDecoder`, with `PromptEncoder` as its encoder, for prompts of the encoder;
- `PromptDecoderOnly`, with `PromptDecoder` as its decoder, for prompts of a decoder alone.

Encoder and decoder make the prompt module with `prompt_factory`, which gin files bind to the macro
PROMPT, and keep it as the submodule `prompt`. Its `input` adds the prompt to the embedded input,
before dropout. Lengths and all masks follow from its `input_mask`.

Shapes below: B batch, T length of the tokens, P prompt positions, H width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components.attention import dense_attention

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule, check_not_packed, check_supported

PromptFactory = Callable[[], PromptModule]


class PromptEncoder(t5_architecture.Encoder):
    """An encoder whose embedded input passes through a prompt module.

    Attributes:
      prompt_factory: Makes the prompt module (the macro PROMPT).
    """

    prompt_factory: PromptFactory | None = None

    def setup(self) -> None:
        """Makes the submodules."""
        super().setup()
        self.prompt = _make_prompt(self.prompt_factory, "PromptEncoder", "encoder")

    def input_mask(self, inputs: jax.Array) -> jax.Array:
        """Tells which positions of the encoded sequence are attended to.

        Args:
          inputs: `[B, T]` token ids, 0 where padded.

        Returns:
          `[B, T + P]` bool.
        """
        return self.prompt.input_mask(inputs)

    def embed_and_combine_inputs(
        self,
        inputs: jax.Array,
        inputs_positions: jax.Array | None = None,
        *,
        segment_ids: jax.Array | None = None,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Embeds the tokens and lets the prompt module add to them, before dropout.

        Args:
          inputs: `[B, T]` token ids, 0 where padded.
          inputs_positions: `[B, T]`, for absolute position embeddings.
          segment_ids: Must be None.
          enable_dropout: Whether to apply dropout.

        Returns:
          `[B, T + P, H]`.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(segment_ids)
        # Dropout comes once, after the prompt is added.
        embedded = super().embed_and_combine_inputs(inputs, inputs_positions, enable_dropout=False)
        embedded = self.prompt.input(inputs, embedded)
        return self.input_dropout(embedded, deterministic=not enable_dropout)

    def __call__(
        self,
        inputs: jax.Array,
        inputs_positions: jax.Array | None = None,
        encoder_mask: jax.Array | None = None,
        *,
        segment_ids: jax.Array | None = None,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Encodes.

        Args:
          inputs: `[B, T]` token ids, 0 where padded.
          inputs_positions: `[B, T]`, for absolute position embeddings.
          encoder_mask: Must be None: the mask follows from the prompt module.
          segment_ids: Must be None.
          enable_dropout: Whether to apply dropout.

        Returns:
          `[B, T + P, H]`, zero where padded.

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
            inputs, inputs_positions, segment_ids=segment_ids, enable_dropout=enable_dropout
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
          `[B, T + P, H]`.

        Raises:
          InputError: If the examples are packed, or the encoder is not one for prompts.
        """
        self._check_encoder()
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
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes as Flaxformer does, attending to the prompt as well.

        Args:
          encoded: `[B, T + P, H]` from `encode`.
          encoder_input_tokens: `[B, T]`, what `encode` was given.
          decoder_input_tokens: See `t5_architecture.EncoderDecoder.decode`, as for all below.
          decoder_target_tokens: As there.
          encoder_segment_ids: Must be None.
          decoder_segment_ids: Must be None.
          decoder_positions: As there.
          enable_dropout: As there.
          decode: As there.
          max_decode_length: As there.
          prefill: As there.
          prefill_lengths: As there.

        Returns:
          `[B, length of the targets, V]`, logits.

        Raises:
          InputError: If the examples are packed, or the encoder is not one for prompts.
        """
        check_not_packed(encoder_segment_ids, decoder_segment_ids)
        self._check_encoder()
        # Flaxformer takes the tokens for no more than which of them are above 0.
        attended = self.encoder.input_mask(encoder_input_tokens).astype(jnp.int32)
        return super().decode(
            encoded,
            attended,
            decoder_input_tokens,
            decoder_target_tokens,
            decoder_positions=decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            prefill=prefill,
            prefill_lengths=prefill_lengths,
        )

    def _check_encoder(self) -> None:
        if not isinstance(self.encoder, PromptEncoder):
            raise InputError(
                f"PromptEncoderDecoder's encoder is a {type(self.encoder).__name__}, expected a "
                "PromptEncoder: set PromptEncoderDecoder.encoder_factory"
            )


class PromptDecoder(t5_architecture.Decoder):
    """A decoder whose embedded input passes through a prompt module that adds in front of it.

    In decoding step by step (`decode=True`) the prompt is in the cache, where `prefill=True` has
    put it, and is not added again.

    Attributes:
      prompt_factory: Makes the prompt module (the macro PROMPT), whose `side` is "decoder".
    """

    prompt_factory: PromptFactory | None = None

    def setup(self) -> None:
        """Makes the submodules."""
        super().setup()
        self.prompt = _make_prompt(self.prompt_factory, "PromptDecoder", "decoder")
        _check_in_front(self.prompt)

    def input_mask(self, decoder_input_tokens: jax.Array) -> jax.Array:
        """Tells which positions of the decoder's sequence hold a prompt or a token above 0.

        Args:
          decoder_input_tokens: `[B, T]` token ids, BOS and padding 0.

        Returns:
          `[B, P + T]` bool.
        """
        return self.prompt.input_mask(decoder_input_tokens)

    def embed_and_combine_inputs(
        self,
        decoder_input_tokens: jax.Array,
        decoder_positions: jax.Array | None = None,
        *,
        segment_ids: jax.Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> jax.Array:
        """Embeds the tokens and lets the prompt module add to them, before dropout.

        Args:
          decoder_input_tokens: `[B, T]` token ids, BOS and padding 0.
          decoder_positions: `[B, T]`, for absolute position embeddings.
          segment_ids: Must be None.
          enable_dropout: Whether to apply dropout.
          decode: Whether this is a step of decoding, which adds no prompt.

        Returns:
          `[B, P + T, H]`, or `[B, T, H]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(segment_ids)
        if decode:
            return super().embed_and_combine_inputs(
                decoder_input_tokens, decoder_positions, enable_dropout=enable_dropout, decode=True
            )
        # Dropout comes once, after the prompt is added.
        embedded = super().embed_and_combine_inputs(
            decoder_input_tokens, decoder_positions, enable_dropout=False
        )
        embedded = self.prompt.input(decoder_input_tokens, embedded)
        return self.input_dropout(embedded, deterministic=not enable_dropout)

    def __call__(
        self,
        encoder_outputs: jax.Array | None,
        decoder_input_tokens: jax.Array,
        decoder_positions: jax.Array | None = None,
        decoder_mask: jax.Array | None = None,
        encoder_decoder_mask: jax.Array | None = None,
        *,
        segment_ids: jax.Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes.

        Args:
          encoder_outputs: See `t5_architecture.Decoder`, as for all that is not described here.
          decoder_input_tokens: `[B, T]` token ids, BOS and padding 0.
          decoder_positions: `[B, T]`, for absolute position embeddings.
          decoder_mask: Of attention among the P + T positions.
          encoder_decoder_mask: Of attention from the P + T positions.
          segment_ids: Must be None.
          enable_dropout: Whether to apply dropout.
          decode: Whether this is a step of decoding, which adds no prompt.
          max_decode_length: P and the longest sequence of tokens.
          prefill: Whether to put the prompt and the tokens into the cache.
          prefill_lengths: `[B]`, P and the tokens of each example to put there.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        embedded = self.embed_and_combine_inputs(
            decoder_input_tokens,
            decoder_positions,
            segment_ids=segment_ids,
            enable_dropout=enable_dropout,
            decode=decode,
        )
        tokens = decoder_input_tokens
        if not decode:
            tokens = self.input_mask(decoder_input_tokens).astype(jnp.int32)
        return self.decode_from_continuous_inputs(
            embedded,
            encoder_outputs,
            decoder_positions=decoder_positions,
            decoder_mask=decoder_mask,
            encoder_decoder_mask=encoder_decoder_mask,
            logit_mask=dense_attention.get_decoder_logit_mask(tokens, embedded.dtype),
            enable_dropout=enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            prefill=prefill,
            prefill_lengths=prefill_lengths,
        )


class PromptDecoderOnly(t5_architecture.DecoderOnly):
    """A language model whose decoder is a `PromptDecoder`."""

    def input_mask(self, decoder_input_tokens: jax.Array) -> jax.Array:
        """See `PromptDecoder.input_mask`."""
        self._check_decoder()
        return self.decoder.input_mask(decoder_input_tokens)

    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes; all arguments but the lengths are those of the tokens alone.

        Args:
          decoder_input_tokens: `[B, T]` token ids, BOS and padding 0.
          decoder_target_tokens: `[B, T]`, above 0 where a position is attended to.
          decoder_segment_ids: Must be None.
          decoder_positions: `[B, T]`, for absolute position embeddings.
          decoder_causal_attention: `[B, T]`, 1 for the inputs of a prefix language model, which
            see each other and the prompt in both directions; None for causal attention throughout.
          enable_dropout: Whether to apply dropout.
          decode: Whether this is a step of decoding, which adds no prompt.
          max_decode_length: P and the longest sequence of tokens.
          prefill: Whether to put the prompt and the tokens into the cache.
          prefill_lengths: `[B]`, P and the tokens of each example to put there.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.

        Raises:
          InputError: If the examples are packed, or the decoder is not one for prompts.
        """
        check_not_packed(decoder_segment_ids)
        self._check_decoder()
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
            enable_dropout=enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            prefill=prefill,
            prefill_lengths=prefill_lengths,
        )

    def _check_decoder(self) -> None:
        if not isinstance(self.decoder, PromptDecoder):
            raise InputError(
                f"PromptDecoderOnly's decoder is a {type(self.decoder).__name__}, expected a "
                "PromptDecoder: set PromptDecoderOnly.decoder_factory"
            )


def _make_prompt(factory: PromptFactory | None, caller: str, side: str) -> PromptModule:
    """Makes the prompt module of an encoder or decoder; an InputError where it cannot be used."""
    if factory is None:
        raise InputError(f"{caller}.prompt_factory is not set; set PROMPT")
    return check_supported(factory(), caller, side)


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
            "places it elsewhere: set its `combine` to combine.prefix"
        )
