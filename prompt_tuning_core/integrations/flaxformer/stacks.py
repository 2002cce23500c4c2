"""Flaxformer's encoder and decoder, each with a prompt module as its submodule `prompt`.

`*args` and `**kwargs` are passed unchanged to Flaxformer's method of the same name.

Shapes below: B batch, T length of the tokens, P prompt positions, S length within the model, H
width, V vocabulary size.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components.attention import dense_attention

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.integrations.flaxformer.layer_points import (
    acting_in_layers,
    acts_in_layers,
    check_layers,
)
from prompt_tuning_core.parameters import visit_points
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

_SOURCE: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("source", default=None)


@contextlib.contextmanager
def source_tokens(tokens: jax.Array) -> Iterator[None]:
    """Gives the tokens of the input to a decoder's prompt module, for its `start`, in a context.

    Args:
      tokens: `[B, T]`, 0 where padded. In a decoder-only model, the targets are 0 too.
    """
    token = _SOURCE.set(tokens)
    try:
        yield
    finally:
        _SOURCE.reset(token)


class _PromptStack(nn.Module):
    """The part that `PromptEncoder` and `PromptDecoder` share; a base before Flaxformer's class.

    Attributes:
      prompt_factory: Makes the prompt module of the run (`prompts.make`).
    """

    prompt_factory: PromptFactory | None = None

    side: ClassVar[str]

    def setup(self) -> None:
        """Makes the submodules."""
        super().setup()
        if self.prompt_factory is None:
            raise InputError(f"{type(self).__name__}.prompt_factory is not set; set PROMPT")
        # With scan_layers, there is one layer, in an attribute that has the name of the stack.
        layer = getattr(self, self.side) if self.scan_layers else self.layers[0]
        alone = self.side == "decoder" and layer.encoder_decoder_attention is None
        self.prompt = in_stack(
            made_by(self.prompt_factory),
            self._described(layer),
            ("decoder",) if alone else ("encoder", "decoder"),
        )
        check_layers(self.prompt, layer, scanned=self.scan_layers)

    def _described(self, layer: Any) -> Stack:
        """Describes this stack to its prompt module."""
        attentions: tuple[str, ...] = ("attention",)
        if self.side == "decoder":
            attentions = ("self_attention", "encoder_decoder_attention")
            if layer.encoder_decoder_attention is None:
                attentions = attentions[:1]
        first, width = getattr(layer, attentions[0]), self.embedder.embedders["token_ids"].features
        return Stack(
            side=self.side,
            width=width,
            layers=self.num_layers,
            heads=first.num_heads,
            head_width=first.head_dim or (first.qkv_features or width) // first.num_heads,
            mlp_width=layer.mlp.intermediate_dim,
            attentions=attentions,
        )

    def _make_parameters(self) -> None:
        """Calls every point of the prompt module once while Flax initializes parameters."""
        if self.is_initializing():
            embedded = jnp.zeros((1, 1, self.prompt.stack.width), self.dtype)
            visit_points(self.prompt, jnp.ones((1, 1), jnp.int32), embedded)

    def _acting(self, state: Any, step: bool = False) -> contextlib.AbstractContextManager[Any]:
        return acting_in_layers(self.prompt, self.path, state, step=step)

    def _embedded(self, tokens: jax.Array, *args: Any, prompt_tokens: Any, **kwargs: Any) -> Any:
        """Embeds tokens and lets the prompt module add to them, before dropout.

        Args:
          tokens: `[B, T]`, 0 where padded (and at a decoder's start).
          *args: See Flaxformer's method.
          prompt_tokens: `[B, T]`, the tokens that the prompt module gets; None to add no prompt.
          **kwargs: See Flaxformer's method. `segment_ids` must be None.

        Returns:
          `[B, S, H]`.

        Raises:
          InputError: If the examples are packed.
        """
        check_not_packed(kwargs.get("segment_ids"))
        enable_dropout = kwargs.pop("enable_dropout", True)
        base = super().embed_and_combine_inputs  # type: ignore[misc]  # Flaxformer's: it comes next.
        embed = functools.partial(base, tokens, *args, **kwargs)
        if prompt_tokens is None:
            return embed(enable_dropout=enable_dropout)
        # Dropout is applied once, after the prompt is added.
        embedded = self.prompt.input(prompt_tokens, embed(enable_dropout=False))
        return self.input_dropout(embedded, deterministic=not enable_dropout)


class PromptEncoder(_PromptStack, t5_architecture.Encoder):
    """An encoder in which a prompt module acts.

    Attributes:
      prompt_factory: Makes the prompt module of the run (`prompts.make`).
    """

    side = "encoder"

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Tells which positions of the sequence hold a prompt or a token above 0.

        Args:
          tokens: `[B, T]` token ids, 0 where padded.

        Returns:
          `[B, S]` bool.
        """
        return self.prompt.input_mask(_ids(tokens))

    def embed_and_combine_inputs(self, tokens: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Embeds the tokens `[B, T]` and adds the prompt: `[B, S, H]`. See Flaxformer's method."""
        return self._embedded(tokens, *args, prompt_tokens=_ids(tokens), **kwargs)

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
          encoder_mask: Must be None: the prompt module determines the mask.
          enable_dropout: Whether to apply dropout.
          **kwargs: Arguments of `embed_and_combine_inputs`.

        Returns:
          `[B, S, H]`, zero where padded.

        Raises:
          InputError: If the examples are packed, or a mask is given.
        """
        if encoder_mask is not None:
            raise InputError(
                "PromptEncoder makes its mask itself and was given one: use it as the encoder of "
                "PromptEncoderDecoder"
            )
        self._make_parameters()
        if self.sow_intermediates:
            self.sow("intermediates", "input_tokens_ids", inputs)
        embedded = self.embed_and_combine_inputs(
            inputs, inputs_positions, enable_dropout=enable_dropout, **kwargs
        )
        real = self.input_mask(inputs)
        state = self.prompt.start(_ids(inputs)) if acts_in_layers(self.prompt) else None
        with self._acting(state):
            encoded = self.encode_from_continuous_inputs(
                embedded,
                encoder_mask=dense_attention.make_attention_mask(real, real, dtype=self.dtype),
                logit_mask=real[..., None].astype(embedded.dtype),
                enable_dropout=enable_dropout,
            )
        if self.sow_intermediates:
            self.sow("intermediates", "final_encoder_outputs", encoded)
        return encoded


class PromptDecoder(_PromptStack, t5_architecture.Decoder):
    """A decoder in which a prompt module acts; the prompt's positions come first.

    A call with `prefill=True` puts these positions into the cache. A step of decoding
    (`decode=True`) reads them there, and does not add them again.

    Attributes:
      prompt_factory: Makes the prompt module of the run (`prompts.make`).
    """

    side = "decoder"

    def prompt_mask(self, tokens: jax.Array) -> jax.Array:
        """Tells which of the prompt's positions attention may read.

        Args:
          tokens: `[B, T]` token ids.

        Returns:
          `[B, P]` bool.

        Raises:
          InputError: If the prompt is not in front, or attention may not read all of it.
        """
        mask = self.prompt.input_mask(_started(tokens))
        if overrides(self.prompt, "input", "input_mask"):
            _check_in_front(self.prompt)
        return mask[:, : mask.shape[1] - tokens.shape[1]]

    def embed_and_combine_inputs(self, tokens: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Embeds tokens `[B, T]`; adds the prompt, but not in a step. See Flaxformer's method."""
        return self._embedded(
            tokens,
            *args,
            prompt_tokens=None if kwargs.get("decode") else self._seen(tokens),
            **kwargs,
        )

    def _seen(self, tokens: jax.Array) -> jax.Array:
        """Returns the tokens for the prompt module; in a decoder-only model, the targets are 0."""
        source = _SOURCE.get()
        if "encoder_decoder_attention" in self.prompt.stack.attentions or source is None:
            return _started(tokens)
        return _started(source)

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
          decoder_input_tokens: `[B, T]` token ids, start and padding 0.
          *args: See `t5_architecture.Decoder`. Masks, `max_decode_length` and `prefill_lengths`
            count the P + T positions. `segment_ids` must be None.
          decode: True in a step of decoding, which adds no prompt.
          **kwargs: As `*args`.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.

        Raises:
          InputError: If the examples are packed.
        """
        self._make_parameters()
        if not decode:
            # Flaxformer passes unknown arguments on to `decode_from_continuous_inputs`.
            kwargs["in_prompt"] = self.prompt_mask(self._seen(decoder_input_tokens))
        state = None
        if acts_in_layers(self.prompt):
            cached = encoder_outputs is None and (decode or kwargs.get("prefill", False))
            state = self._prompt_state(decoder_input_tokens, cached=cached, step=decode)
        with self._acting(state, step=decode):
            return super().__call__(
                encoder_outputs, decoder_input_tokens, *args, decode=decode, **kwargs
            )

    def _prompt_state(self, tokens: jax.Array, *, cached: bool, step: bool) -> Any:
        """Returns the result of the prompt module's `start` for the tokens of the input.

        If there is an encoder, T5X gives its tokens at each step, for all beams. A decoder-only
        model gets its inputs only in the call that fills the cache, so that call keeps the state in
        the cache.
        """
        given = _SOURCE.get()
        source = _ids(tokens if given is None else given)
        if not cached or not overrides(self.prompt, "start"):
            return self.prompt.start(source)
        if step and self.has_variable("cache", "prompt_state"):
            return self.get_variable("cache", "prompt_state")
        state = self.prompt.start(source)
        self.put_variable("cache", "prompt_state", state)
        return state

    def decode_from_continuous_inputs(
        self,
        embedded_inputs: jax.Array,
        *args: Any,
        in_prompt: jax.Array | None = None,
        **kwargs: Any,
    ) -> jax.Array:
        """Applies the layers and makes the logits.

        Args:
          embedded_inputs: `[B, P + T, H]`, or `[B, T, H]` in a step of decoding.
          *args: See Flaxformer's method.
          in_prompt: `[B, P]`, the prompt's part of the logit mask; None in a step of decoding.
          **kwargs: See Flaxformer's method.

        Returns:
          Logits `[B, P + T, V]`, or `[B, T, V]` in a step of decoding.
        """
        if in_prompt is not None and in_prompt.shape[1]:
            mask = in_prompt[..., None].astype(embedded_inputs.dtype)
            kwargs["logit_mask"] = jnp.concatenate([mask, kwargs["logit_mask"]], axis=1)
        return super().decode_from_continuous_inputs(embedded_inputs, *args, **kwargs)


def _ids(tokens: jax.Array) -> jax.Array:
    """Returns tokens as integers: T5X initializes an evaluation with floating-point tokens."""
    return jnp.asarray(tokens, jnp.int32)


def _started(tokens: jax.Array) -> jax.Array:
    """Replaces a decoder's start token, which has the id of padding (0), by 1."""
    return _ids(tokens).at[:, 0].set(1)


def _check_in_front(prompt: PromptModule) -> None:
    """Refuses a decoder's prompt unless all its positions come first and attention reads them."""
    # In the mask of the tokens 0 1 1, the only 0 shows where the prompt is: 1 1 … 0 1 1 in front.
    with jax.ensure_compile_time_eval():
        tokens = jnp.asarray([[0, 1, 1]])
        mask = prompt.input_mask(tokens)
        in_front = jnp.array_equal(mask[:, -3:], tokens > 0) and mask[:, :-3].all()
    if not in_front:
        raise InputError(
            f"{described(prompt)}: a decoder in T5X needs its prompt in front of the sequence and "
            "reads all of its positions, and this module's input_mask differs; set combine = "
            "'prefix'"
        )
