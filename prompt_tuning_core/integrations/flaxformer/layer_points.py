"""The points of a prompt module within Flaxformer's layers, without subclasses of the layers.

A stack whose prompt module overrides `layer`, `prefix` or `activations` runs its layers within
`acting_in_layers`. There, an interceptor (`nn.intercept_methods`) calls the points. The keys and
values of `prefix` enter through `MultiHeadDotProductAttention.attention_fn`. Flaxformer calls this
function after it has updated the cache, so the cache holds only the model's own keys and values.

Shapes below: B batch, S length of the sequence, Q queries, K keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule, Stack, described, overrides

Pair = tuple[jax.Array, jax.Array]


def acts_in_layers(prompt: PromptModule) -> bool:
    """Checks whether a prompt module acts within layers; other modules need no interceptor."""
    return overrides(prompt, "layer", "prefix", "activations")


def acting_in_layers(
    prompt: PromptModule, path: tuple[str, ...], state: object, *, step: bool
) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which the layers of a stack call the points of its prompt module.

    Args:
      prompt: The bound module of the stack.
      path: The path of the stack; its layers are `layers_0`, `layers_1` … below it.
      state: What the module's `start` returned.
      step: True in a step of decoding, which does not call `layer`.
    """
    if not acts_in_layers(prompt):
        return contextlib.nullcontext()
    return nn.intercept_methods(_Interceptor(prompt, path, state, step=step))


def check_layers(prompt: PromptModule, layer: nn.Module, *, scanned: bool) -> None:
    """Refuses layers in which the points of a prompt module cannot be called.

    Args:
      prompt: The module, with its stack.
      layer: One of the stack's layers.
      scanned: True if the stack scans over one layer instead of calling each.

    Raises:
      InputError: If the module acts within layers, and they are scanned or have another attention.
    """
    if not acts_in_layers(prompt):
        return
    name = described(prompt)
    if scanned:
        raise InputError(
            f"{name} acts within the layers of the {prompt.stack.side}, which needs each layer by "
            "its number, and scan_layers is True; set scan_layers = False"
        )
    for attention in prompt.stack.attentions:
        found = getattr(layer, attention)
        if type(found).__name__ != "MultiHeadDotProductAttention" or found.kernels_to_fuse:
            fused = getattr(found, "kernels_to_fuse", None)
            raise InputError(
                f"{name} acts within the layers of the {prompt.stack.side}, and their {attention} "
                f"is a {type(found).__name__} with kernels_to_fuse = {fused!r}, expected a "
                "MultiHeadDotProductAttention with kernels_to_fuse = None"
            )


class _Interceptor:
    """Calls the points of a prompt module around the methods of one stack's layers.

    JAX traces each rematerialised layer separately, and a bound module cannot be used in that
    trace. So this class calls the points on the unbound module with its variables, and computes the
    prefixes before the layers run.
    """

    def __init__(
        self, prompt: PromptModule, path: tuple[str, ...], state: object, *, step: bool
    ) -> None:
        self._stack: Stack = prompt.stack
        self._path, self._state, self._step = path, state, step
        self._calls_layer = overrides(prompt, "layer") and not step
        self._calls_activations = overrides(prompt, "activations")
        self._prefixes: dict[tuple[int, str], Pair | None] = {}
        if overrides(prompt, "prefix"):
            self._prefixes = {
                (number, attention): prompt.prefix(number, attention, state)
                for number in range(self._stack.layers)
                for attention in self._stack.attentions
            }
        acts_later = self._calls_layer or self._calls_activations
        self._rng = prompt.make_rng("dropout") if acts_later and prompt.has_rng("dropout") else None
        self._prompt, self._variables = prompt.unbind()
        self._sites = ("layer", *self._stack.sites)
        self._within_prompt = False

    def __call__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        """Runs an intercepted method; see `nn.intercept_methods`."""
        place = self._place(context)
        if place is None:
            return call(*args, **kwargs)
        number, within = place
        if within == () and self._calls_layer:
            return call(self._point(number, "layer", args[0]), *args[1:], **kwargs)
        if len(within) == 1 and self._prefixes.get((number, within[0])) is not None:
            with _prefixed(context.module, self._prefixes[number, within[0]]):
                return call(*args, **kwargs)
        if self._calls_activations:
            if within == ("mlp", "wo"):
                return call(self._point(number, "mlp", args[0]), *args[1:], **kwargs)
            site = f"{within[0]}/{within[1]}s" if len(within) == 2 else ""
            if site in self._sites:
                return self._point(number, site, call(*args, **kwargs))
        return call(*args, **kwargs)

    def _place(self, context: nn.module.InterceptorContext) -> tuple[int, tuple[str, ...]] | None:
        """Returns the number of a layer and the path within it; None outside of the layers."""
        depth, names = len(self._path), context.module.path
        if self._within_prompt or context.method_name != "__call__" or len(names) <= depth:
            return None
        word, _, number = names[depth].rpartition("_")
        if names[:depth] != self._path or word != "layers" or not number.isdecimal():
            return None
        return int(number), names[depth + 1 :]

    def _point(self, number: int, site: str, x: jax.Array) -> jax.Array:
        """Calls `layer`, or `activations` at a site."""
        rngs = {}
        if self._rng is not None:
            place = number * len(self._sites) + self._sites.index(site)
            rngs = {"dropout": jax.random.fold_in(self._rng, place)}
        arguments = (number, x) if site == "layer" else (number, site, x)
        method = "layer" if site == "layer" else "activations"
        before, self._within_prompt = self._within_prompt, True
        try:
            found: Any = self._prompt.apply(
                self._variables, *arguments, self._state, rngs=rngs, method=method
            )
            return found
        finally:
            self._within_prompt = before


@contextlib.contextmanager
def _prefixed(attention: nn.Module, prefix: Pair | None) -> Iterator[None]:
    """Makes an attention module attend to a prefix too, within a context."""
    assert prefix is not None
    own = attention.attention_fn

    def attend(
        query: jax.Array, key: jax.Array, value: jax.Array, *, bias: Any = None, **settings: Any
    ) -> jax.Array:
        # Key and value are [B, K, heads, head width], and include the cache.
        keys, values = (
            jnp.broadcast_to(part, (len(key), *part.shape[1:])).astype(key.dtype) for part in prefix
        )
        if bias is not None:  # No mask and no relative position applies to the prefix.
            bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (keys.shape[1], 0)))
        key, value = (
            jnp.concatenate([first, second], axis=1)
            for first, second in ((keys, key), (values, value))
        )
        return own(query, key, value, bias=bias, **settings)

    # Flaxformer calls this field. `object` sets it because a bound module's fields are frozen.
    object.__setattr__(attention, "attention_fn", attend)
    try:
        yield
    finally:
        object.__setattr__(attention, "attention_fn", own)
