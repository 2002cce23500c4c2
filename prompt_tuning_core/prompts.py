"""The base class of prompt modules and its intervention points.

A prompt module intervenes in a frozen model at named points. In the base class, no point changes
the model; a variant overrides the points that it needs. Engines only call the points.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import Initializer

PromptFactory = Callable[[], "PromptModule"]

INTERVENTION_POINTS = ("input", "layer", "keys_values", "activations")


class PromptModule(nn.Module):
    """The base of every prompt variant; it does not change the model.

    The shapes below use B for the batch, T for the length of the input tokens, H for the width of
    the model and S for the length of the sequence inside the model.

    Attributes:
      length: P, the number of positions that the module adds to the sequence. If examples get
        prompts of different lengths, P is the largest (`input_mask` marks the real positions).
      prompt_init: Makes the prompt's first value.
      side: The stack that the module intervenes in: "encoder" or "decoder".
    """

    length: int = 0
    prompt_init: Initializer | None = None
    side: str = "encoder"

    def input(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Called once with the embedded input, before dropout.

        Args:
          tokens: `[B, T]` int32 input ids, 0 where padded.
          embedded: `[B, T, H]` their embeddings.

        Returns:
          `[B, T + P, H]`, of the dtype of `embedded`.
        """
        del tokens
        return embedded

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Marks the positions of the result of `input` that attention may read.

        Engines derive every mask from this: encoder, encoder-decoder and logit masks.

        Args:
          tokens: `[B, T]` int32 input ids, 0 where padded.

        Returns:
          `[B, T + P]` bool.
        """
        return tokens > 0

    def layer(self, layer: int, hidden: jax.Array) -> jax.Array:
        """Called with the input `[B, S, H]` of layer number `layer`; returns the same shape."""
        del layer
        return hidden

    def keys_values(
        self, layer: int, site: str, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Called with an attention's keys and values.

        Args:
          layer: Number of the layer.
          site: The attention: "attention", "self_attention" or "encoder_decoder_attention".
          keys: `[B, S, heads, head width]`.
          values: `[B, S, heads, head width]`.

        Returns:
          Both, longer by P.
        """
        del layer, site
        return keys, values

    def activations(self, layer: int, site: str, x: jax.Array) -> jax.Array:
        """Called with the activations `x` named `site` of layer `layer`; returns the same shape."""
        del layer, site
        return x

    def matrix(self) -> jax.Array | None:
        """Returns the prompt, if it is a plain one.

        Returns:
          `[P, H]` float32 if the module acts as a plain prompt with this matrix; None here.
          A prompt file holds a plain prompt, so a module without a matrix cannot be saved.
        """
        return None

    def is_trained(self, path: str) -> bool:
        """Returns True if a parameter of this module is trained.

        Args:
          path: Names from this module to the parameter, joined by "/".

        Returns:
          True here: all parameters of a prompt module are trained.
        """
        del path
        return True


def make(
    factory: PromptFactory | None = None,
    length: int = 0,
    default: PromptFactory | None = None,
    default_init: Callable[[], Initializer] | None = None,
    prompt_init: Initializer | None = None,
    saved: Initializer | None = None,
) -> PromptModule:
    """Makes the prompt module of a run; in gin, engines take `prompt_factory = @prompts.make`.

    A models file binds `factory`, `length`, `default` and `default_init`. A file of `prompts/`
    binds only the initializer. `eval` and `infer` bind `saved`. So any initializer works with any
    module, in any order of the files. Fields that the module's own bindings set do not change.

    Args:
      factory: Makes the prompt module (PROMPT); None for the default.
      length: P, for a module without a length of its own (PROMPT_LENGTH).
      default: Makes the engine's plain prompt module.
      default_init: Makes the initializer if the files name no other; not called otherwise.
      prompt_init: The initializer.
      saved: Reads the prompt in PROMPT_FILE. The module is then the plain one.

    Raises:
      InputError: If `factory` is a module instead of a function that makes one, if there is neither
        a factory nor a default, or if `saved` is given and `factory` makes another module than the
        default.
    """
    chosen = default if factory is None else factory
    if isinstance(chosen, nn.Module) or not callable(chosen):
        raise InputError(
            f"PROMPT is {type(chosen).__name__!r}, expected a prompt module that is not called: "
            "PROMPT = @plugins.NAME, without ()"
        )
    module = chosen()
    if not isinstance(module, PromptModule):
        return module  # `check_supported` refuses it.
    if saved is not None and default is not None and type(module) is not type(default()):
        raise InputError(
            f"PROMPT makes a {type(module).__name__}, and PROMPT_FILE holds a plain prompt; leave "
            "PROMPT out, or give a prompt of this module"
        )
    fill: dict[str, Any] = {}
    if not module.length:
        fill["length"] = length
    if saved is not None or module.prompt_init is None:
        fill["prompt_init"] = saved or prompt_init or (default_init and default_init())
    return module.clone(**fill) if fill else module


def check_is_plain(prompt: PromptModule) -> None:
    """Refuses to train a prompt module that no prompt file can hold.

    Raises:
      InputError: If the module's class does not define `matrix`.
    """
    if type(prompt).matrix is PromptModule.matrix:
        raise InputError(
            f"{type(prompt).__name__} does not define matrix(), and a prompt file holds a plain "
            "prompt: what this one learns could not be saved"
        )


def float32_initializer(initializer: Initializer) -> Initializer:
    """Makes an initializer of the same values in float32, for a parameter of a prompt module.

    A prompt is trained in the dtype of its first value. In bfloat16, a step could not change a
    value by less than 1 part in 128.

    Args:
      initializer: Makes the first value, in any floating dtype.

    Returns:
      An initializer. It raises `InputError` if `initializer` refuses the shape, or if the values
      are no floating numbers.
    """

    def initialize(rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        try:
            value = jnp.asarray(initializer(rng, shape))
        except ValueError as error:  # An initializer need not know of our own errors.
            raise InputError(str(error)) from error
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(
                f"the initializer of a prompt returned {value.dtype}, expected floating numbers "
                "such as float32"
            )
        return value.astype(jnp.float32)

    return initialize


def overridden_points(module: PromptModule) -> tuple[str, ...]:
    """Returns the intervention points that `module`'s class overrides.

    An engine that does not call one of these must refuse the module rather than ignore it.
    """
    return tuple(
        point
        for point in INTERVENTION_POINTS
        if getattr(type(module), point) is not getattr(PromptModule, point)
    )


def check_supported(
    prompt: object, caller: str, side: str = "encoder", points: Collection[str] = ("input",)
) -> PromptModule:
    """Refuses a prompt module that needs something that its caller does not support.

    Args:
      prompt: The result of a prompt factory (PROMPT).
      caller: The engine or the module that calls intervention points, for messages.
      side: The stack that the caller lets prompts intervene in: "encoder" or "decoder".
      points: The intervention points that it calls.

    Returns:
      `prompt`.

    Raises:
      InputError: If `prompt` is no prompt module, is for another stack, or overrides a point that
        the caller does not call.
    """
    name = type(prompt).__name__
    if not isinstance(prompt, PromptModule):
        raise InputError(
            f"PROMPT makes a {name}, expected a prompt module "
            "(prompt_tuning_core.prompts.PromptModule)"
        )
    if prompt.side != side:
        raise InputError(
            f"{name} is a prompt for the side {prompt.side!r}, and {caller} has prompts on the "
            f"side {side!r} only"
        )
    for point in overridden_points(prompt):
        if point not in points:
            raise InputError(
                f"{caller} does not call the intervention point {point!r} that {name} uses"
            )
    return prompt


def check_not_packed(*segment_ids: jax.Array | None) -> None:
    """Refuses packed examples, which a prompt in front of the sequence would mix.

    Args:
      *segment_ids: Those of a batch, for encoder and decoder; None where examples are not packed.

    Raises:
      InputError: If any are given.
    """
    if any(ids is not None for ids in segment_ids):
        raise InputError("prompt tuning does not support packed examples; set PACK = False")
