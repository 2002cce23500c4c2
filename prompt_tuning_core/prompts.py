"""Prompt modules: the points where they act in a frozen model, and the function that makes one.

In the base class, no point changes the model; a variant overrides the points that it needs. Engines
only call the points. For example, the plain prompt overrides `input`. A prompt at every layer
overrides `input` and `layer`. A prefix of keys and values overrides only `prefix`.

Shapes below: B batch, T length of the tokens, P prompt positions, H width of the model, S length of
the sequence within the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from prompt_tuning_core import registry
from prompt_tuning_core.combine import PLACES
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import Initializer, SavedPrompt

__all__ = [
    "POINTS", "InputPrompt", "PromptFactory", "PromptModule", "Stack", "check_not_packed",
    "described", "each", "float32_parameter", "in_stack", "made_by", "make", "may_be_plain",
    "overrides",
]  # fmt: skip

PromptFactory = Callable[[], "PromptModule"]
"""Makes a prompt module of its plugin, with the fields that gin binds."""

POINTS = (
    "start", "input", "input_mask", "layer", "prefix", "activations", "penalty", "report", "matrix"
)  # fmt: skip
"""The methods by which a prompt module acts; engines call those that its class overrides."""

_WITH_CALL = "write prompt_init = @plugins.NAME(), with ()"


@dataclasses.dataclass(frozen=True)
class Stack:
    """One column of layers of a frozen model, as its engine describes it to a prompt module.

    Attributes:
      side: "encoder" or "decoder".
      width: H.
      layers: Number of layers.
      heads: Number of heads of each attention.
      head_width: Width of each head.
      mlp_width: Hidden width of the feed-forward blocks.
      attentions: Names of the attentions in a layer: ("attention",) in an encoder,
        ("self_attention", "encoder_decoder_attention") in the decoder of an encoder-decoder, and
        ("self_attention",) in a decoder-only model.
    """

    side: str
    width: int
    layers: int
    heads: int
    head_width: int
    mlp_width: int
    attentions: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the activations for which engines call `PromptModule.activations`."""
        return (
            *(f"{name}/{part}" for name in self.attentions for part in ("keys", "values")),
            "mlp",
        )


class PromptModule(nn.Module):
    """The base of every prompt variant; it does not change the model.

    A variant makes its parameters in `setup`, with `parameter` or as submodules. All that its
    methods return is checked once, before the first step (`parameters.make_parameters`).

    Attributes:
      length: P, the number of prompt vectors that the user asked for (PROMPT_LENGTH). S does not
        follow from it.
      prompt_init: Makes the first value of the prompt, or of each of its parts.
      sides: The stacks in which the module acts; each gets a module of its own.
      stack: The stack in which this module acts; the engine sets it.
    """

    length: int = 0
    prompt_init: Initializer | None = None
    sides: tuple[str, ...] = ("encoder",)
    stack: Stack = None  # type: ignore[assignment]  # Set before anything is called.

    def parameter(
        self, name: str, initializer: Initializer | None, shape: Sequence[int]
    ) -> jax.Array:
        """Makes a float32 parameter; call it in `setup`. See `float32_parameter`."""
        if initializer is None and isinstance(self.prompt_init, SavedPrompt):
            initializer = self.prompt_init  # Files hold values, not initializers.
        return float32_parameter(self, name, initializer, shape)

    def start(self, tokens: jax.Array) -> Any:
        """Called once for each batch, with the tokens of the input (in a decoder, too).

        Args:
          tokens: `[B, T]` int32, 0 where padded. In a decoder-only model, 0 for the targets too.

        Returns:
          The state that other points need about the examples: a tree of arrays. The first axis of
          each array is B, so that beam search can gather it. The base class returns None.
        """
        del tokens

    def input(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Called once with the embedded input, before dropout.

        Args:
          tokens: `[B, T]` int32, 0 where padded. In a decoder, 1 for the start token. In a
            decoder-only model, 0 for the targets.
          embedded: `[B, T, H]`, the embeddings of the tokens.

        Returns:
          `[B, S, H]`, of the dtype of `embedded`; S depends on T alone.
        """
        del tokens
        return embedded

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Marks the positions of the result of `input` that attention may read.

        Engines derive S and every mask from this.

        Args:
          tokens: As in `input`.

        Returns:
          `[B, S]` bool.
        """
        return tokens > 0

    def layer(self, layer: int, hidden: jax.Array, state: Any) -> jax.Array:
        """Called before each layer, but not in a step of decoding, which adds one position.

        Args:
          layer: Number of the layer, from 0.
          hidden: `[B, S, H]`, the layer's input.
          state: What `start` returned.

        Returns:
          The same shape and dtype, changed at the prompt's own positions only.
        """
        del layer, state
        return hidden

    def prefix(self, layer: int, attention: str, state: Any) -> tuple[jax.Array, jax.Array] | None:
        """Returns keys and values that each query attends to in addition to the sequence's own.

        No mask and no relative position applies to them.

        Args:
          layer: Number of the layer, from 0.
          attention: One of `stack.attentions`.
          state: What `start` returned.

        Returns:
          Keys and values, both `[B or 1, n, heads, head width]`; None for no prefix.
        """
        del layer, attention, state
        return None

    def activations(self, layer: int, site: str, x: jax.Array, state: Any) -> jax.Array:
        """Called with activations of a layer; may change them, each position independently.

        Args:
          layer: Number of the layer, from 0.
          site: One of `stack.sites`: "mlp", the input `[B, S, MLP width]` of a feed-forward block's
            last matrix, or "ATTENTION/keys" and "ATTENTION/values", `[B, S, heads, head width]`.
          x: The activations.
          state: What `start` returned.

        Returns:
          The same shape and dtype.
        """
        del layer, site, state
        return x

    def penalty(self) -> jax.Array | float:
        """Returns a scalar to add to the training loss; it depends on the parameters alone."""
        return 0.0

    def report(self) -> Mapping[str, jax.Array]:
        """Returns scalars by name to log in training; they depend on the parameters alone."""
        return {}

    def matrix(self) -> jax.Array | None:
        """Returns the plain prompt that is equivalent to the module, if there is one.

        Returns:
          `[P, H]` float32 if the module, apart from dropout, has the same effect as the plain
          prompt with this matrix; else None. Engines call this only if `may_be_plain` is true.
        """
        return None

    def is_trained(self, path: str) -> bool:
        """Checks whether a parameter is trained.

        Args:
          path: Names from this module to the parameter, joined by "/".

        Returns:
          True here: all parameters are trained.
        """
        del path
        return True


class InputPrompt(PromptModule):
    """Places prompt vectors in the embedded input; a variant overrides `rows`, which makes them.

    Attributes:
      combine: The place of the vectors: 'prefix', in front; 'prefix_after_bos', after the first
        position; 'suffix', after the last token and before EOS.
      dropout_rate: Share of the vectors' entries that training zeroes; the others are scaled up.
    """

    combine: str = "prefix"
    dropout_rate: float = 0.0

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the prompt vectors `[B or 1, P, H]`; takes the same arguments as `input`."""
        raise NotImplementedError(f"{type(self).__name__} defines no rows()")

    def positions(self) -> int:
        """Returns the number of vectors that `rows` returns: P, unless a variant has more."""
        return self.length

    def input(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Places `rows` in the embedded input; see `PromptModule.input`."""
        return self.place(self.rows(tokens, embedded), tokens, embedded)

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Places ones for the prompt in the mask of the input; see `PromptModule.input_mask`."""
        ones = jnp.ones((len(tokens), self.positions()), bool)
        return self._combined(ones, tokens > 0, tokens)

    def place(self, rows: jax.Array, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Places prompt vectors in an embedded input, with dropout in training.

        Args:
          rows: `[B or 1, positions(), H]`, of any floating dtype.
          tokens: `[B, T]`.
          embedded: `[B, T, H]`.

        Raises:
          InputError: If the vectors have another shape.
        """
        batch, _, width = embedded.shape
        expected = (self.positions(), width)
        if rows.ndim != 3 or rows.shape[0] not in (1, batch) or rows.shape[1:] != expected:
            raise InputError(
                f"{described(self)}: rows returned the shape {list(rows.shape)}, expected "
                f"[{batch} or 1, {expected[0]}, {width}]"
            )
        if not isinstance(self.dropout_rate, int | float) or not 0 <= self.dropout_rate < 1:
            found = f"{described(self)}: dropout_rate is {self.dropout_rate!r}"
            raise InputError(f"{found}, expected a number of at least 0 and below 1")
        rows = jnp.broadcast_to(rows, (batch, *expected))
        if self.dropout_rate and self.has_rng("dropout"):
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout_rate, rows.shape)
            rows = jnp.where(keep, rows / (1 - self.dropout_rate), 0.0)
        return self._combined(rows.astype(embedded.dtype), embedded, tokens)

    def _combined(self, rows: jax.Array, x: jax.Array, tokens: jax.Array) -> jax.Array:
        if self.combine not in PLACES:
            raise InputError(
                f"{described(self)}: combine is {self.combine!r}, expected one of "
                f"{', '.join(map(repr, PLACES))}"
            )
        return PLACES[self.combine](rows, x, tokens)


def make(
    factory: PromptFactory | None = None,
    length: int = 0,
    default: PromptFactory | None = None,
    default_init: Callable[[], Initializer] | None = None,
    prompt_init: Initializer | None = None,
    saved: SavedPrompt | None = None,
) -> PromptModule:
    """Makes the prompt module of a run; in gin, engines take `prompt_factory = @prompts.make`.

    A models file binds `factory`, `length`, `default` and `default_init`. A file of `prompts/`
    binds only the initializer. `eval` and `infer` bind `saved`. So any initializer works with any
    module, in any order of the files. Fields that are bound for the module itself keep these
    values.

    Args:
      factory: Makes the prompt module (PROMPT); None for the default.
      length: P, for a module without a length of its own (PROMPT_LENGTH).
      default: Makes the engine's plain prompt module.
      default_init: Makes the initializer if the files name no other; not called otherwise.
      prompt_init: The initializer. If it is a `SavedPrompt` of a module that is not plain, it
        decides the module too.
      saved: The prompt in PROMPT_FILE, which decides the module.

    Raises:
      InputError: If `factory` is a module instead of a function that makes one, if it makes no
        prompt module, or if it makes a module that differs from the prompt file's.
      PluginError: If the prompt file's plugin cannot be used.
    """
    file = prompt_init if saved is None else saved
    if isinstance(file, SavedPrompt) and file.plugin is not None:
        return file.module(factory)
    module = made_by(default if factory is None else factory)
    if saved is not None and default is not None and type(module) is not type(default()):
        raise InputError(
            f"PROMPT makes a {type(module).__name__}, and PROMPT_FILE {saved.path} holds a plain "
            "prompt; leave PROMPT out, or give a prompt of this module"
        )
    fill: dict[str, Any] = {}
    if not module.length:
        fill["length"] = length
    if saved is not None or module.prompt_init is None:
        fill["prompt_init"] = saved or prompt_init or (default_init and default_init())
    return module.clone(**fill) if fill else module


def made_by(factory: object) -> PromptModule:
    """Returns the prompt module that a factory makes.

    Raises:
      InputError: If it is no factory, or makes no prompt module.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"PROMPT is {type(factory).__name__!r}, expected a prompt module that is not called: "
            "PROMPT = @plugins.NAME, without ()"
        )
    module = factory()
    if not isinstance(module, PromptModule):
        raise InputError(
            f"PROMPT makes a {type(module).__name__}, expected a prompt module "
            "(prompt_tuning_core.prompts.PromptModule)"
        )
    return module


def in_stack(
    module: PromptModule, stack: Stack, sides: Sequence[str] = ("encoder", "decoder")
) -> PromptModule:
    """Returns the prompt module of one stack of a model.

    Args:
      module: What `make` returned.
      stack: The stack.
      sides: All stacks that the model has.

    Returns:
      The module with `stack` set. For a stack in which it does not act, a base `PromptModule`,
      which changes nothing.

    Raises:
      InputError: If the module acts in a stack that the model lacks.
    """
    named = tuple(module.sides)
    lacking = [side for side in named if side not in sides]
    if lacking or not named or isinstance(module.sides, str):
        raise InputError(
            f"{described(module)}: sides is {module.sides!r}, expected a tuple of "
            f"{' and '.join(map(repr, sides))}, the stacks of this model"
        )
    return module.clone(stack=stack) if stack.side in named else PromptModule(stack=stack)


def may_be_plain(module: PromptModule) -> bool:
    """Checks whether `matrix` can be a plain prompt: only in the encoder, in front of the input.

    For example, a prompt after the input cannot: readers of its matrix would put it in front.
    """
    in_front = not isinstance(module, InputPrompt) or module.combine == "prefix"
    return tuple(module.sides) == ("encoder",) and in_front


def overrides(module: PromptModule, *points: str) -> bool:
    """Checks whether the class of `module` overrides one of these points."""
    return any(getattr(type(module), one) is not getattr(PromptModule, one) for one in points)


def described(module: PromptModule) -> str:
    """Returns the name of a prompt module in messages: its plugin, or else its class."""
    plugin = registry.process_registry().plugin_of(type(module))
    return type(module).__name__ if plugin is None else str(plugin)


def float32_parameter(
    module: nn.Module, name: str, initializer: Initializer | None, shape: Sequence[int]
) -> jax.Array:
    """Makes a float32 parameter of a prompt module, or of a submodule of one.

    A prompt is trained in the dtype of its first value. In bfloat16, a step could not change a
    value by less than 1 part in 128. T5X never partitions the parameter: its axes are named
    ("prompt", "prompt_embed") in a matrix, and "prompt_0", "prompt_1" … in any other array.

    Args:
      module: The module that owns the parameter; this is called in its `setup`.
      name: Name of the parameter.
      initializer: Makes the first value, in any floating dtype. May be None if the value is given,
        for example by a prompt file.
      shape: Shape of the parameter; each size is at least 1.

    Raises:
      InputError: If a size is below 1, if there is neither an initializer nor a value, or if the
        initializer does not return floating numbers of this shape.
    """
    shape = tuple(shape)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(
            f"parameter {name!r} of the prompt has the shape {shape}, expected sizes of at least "
            "1: set PROMPT_LENGTH"
        )
    given = module.has_variable("params", name)
    if initializer is None and not given:
        raise InputError(
            f"parameter {name!r} of the prompt has no initializer; name a file of prompts/, or set "
            "the module's prompt_init"
        )

    def initialize(rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        # For a given value, Flax calls this only to compare shapes: read no table for that.
        if given or initializer is None:
            return jnp.zeros(shape)
        try:
            with contextlib.suppress(ValueError):  # A function in C may have no signature.
                inspect.signature(initializer).bind(rng, shape)
        except TypeError as error:
            found = f"the initializer of {name!r} takes no key and shape ({error})"
            raise InputError(f"{found}; {_WITH_CALL}") from error
        value = initializer(rng, shape)
        if callable(value):
            raise InputError(f"the initializer of {name!r} returned a function; {_WITH_CALL}")
        value = jnp.asarray(value)
        if value.shape != shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(
                f"the initializer of {name!r} returned {value.dtype} {list(value.shape)}, expected "
                f"floating numbers of the shape {list(shape)}"
            )
        return value.astype(jnp.float32)

    axes = tuple(f"prompt_{number}" for number in range(len(shape)))
    if len(shape) == 2:
        axes = ("prompt", "prompt_embed")
    return partitioning.param_with_axes(name, initialize, shape, axes=axes, module=module)


def each(initializer: Initializer | None, n: int) -> Initializer | None:
    """Makes an initializer of `[n, P, H]` from one of `(P, H)`; each of the n has its own key.

    For example, `self.parameter("prompts", each(self.prompt_init, layers), (layers, P, H))`.
    Returns None for None.
    """
    if initializer is None:
        return None

    def initialize(rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        return jnp.stack([initializer(key, tuple(shape[1:])) for key in jax.random.split(rng, n)])

    return initialize


def check_not_packed(*segment_ids: jax.Array | None) -> None:
    """Refuses packed examples, which a prompt in front of the sequence would mix.

    Args:
      *segment_ids: The segment ids of a batch, for encoder and decoder; None if examples are not
        packed.

    Raises:
      InputError: If any are given.
    """
    if any(ids is not None for ids in segment_ids):
        raise InputError("prompt tuning does not support packed examples; set PACK = False")
