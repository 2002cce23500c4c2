"""Prompt modules in the stacks of the network, and their points within one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from prompt_tuning_core.prompts import PromptFactory, PromptModule, Stack, in_stack, overrides
from prompt_tuning_engine_local.model.network_config import T5Config

KeysValues = tuple[jax.Array, jax.Array]
"""Keys and values, each `[B, heads, positions, head width]`."""


class LayerPoints:
    """Calls the points `prefix` and `activations` of a prompt module for one layer.

    Args:
      prompt: The module.
      layer: Number of the layer.
      state: The result of the module's `start`.
      prefixes: The keys and values of the layer's prefixes. With None, the module computes them. A
        step of decoding has them in its cache, and gives `{}`.
      batch: B; needed to compute prefixes.

    Attributes:
      prefixes: The prefix of each attention of the layer, or None.
    """

    def __init__(
        self,
        prompt: PromptModule,
        layer: int,
        state: object,
        batch: int = 0,
        prefixes: Mapping[str, KeysValues | None] | None = None,
    ) -> None:
        self._prompt, self._layer, self._state = prompt, layer, state
        self.prefixes = self._computed(batch) if prefixes is None else prefixes

    def activations(self, site: str, x: jax.Array) -> jax.Array:
        """Returns the activations after the module has changed them.

        Args:
          site: See `PromptModule.activations`.
          x: `[B, S, width]`; for keys and values, all heads are in one axis.
        """
        if not overrides(self._prompt, "activations"):
            return x
        split = x
        if site != "mlp":
            stack = self._prompt.stack
            split = x.reshape(*x.shape[:2], stack.heads, stack.head_width)
        return self._prompt.activations(self._layer, site, split, self._state).reshape(x.shape)

    def _computed(self, batch: int) -> dict[str, KeysValues | None]:
        stack = self._prompt.stack
        found: dict[str, KeysValues | None] = {}
        for attention in stack.attentions:
            prefix = self._prompt.prefix(self._layer, attention, self._state)
            if prefix is not None:
                keys, values = (
                    jnp.broadcast_to(part, (batch, *part.shape[1:])).swapaxes(1, 2)
                    for part in prefix
                )
                prefix = keys, values
            found[attention] = prefix
        return found


def has_points(prompt: PromptModule) -> bool:
    """Checks whether a prompt module acts within layers; other modules cost nothing there."""
    return overrides(prompt, "prefix", "activations")


def points_of(prompt: PromptModule, state: object, batch: int) -> Sequence[LayerPoints | None]:
    """Returns the points for each layer; None if the module does not act within layers."""
    layers = range(prompt.stack.layers)
    if not has_points(prompt):
        return [None for _ in layers]
    return [LayerPoints(prompt, layer, state, batch) for layer in layers]


def acts_on_input(prompt: PromptModule) -> bool:
    """Checks whether a prompt module may change the embedded input or its mask."""
    return overrides(prompt, "input", "input_mask")


def prompt_in(factory: PromptFactory | None, config: T5Config, side: str) -> PromptModule:
    """Makes the prompt module of a stack; without a factory, a module that changes nothing."""
    module = PromptModule() if factory is None else factory()
    return in_stack(module, stack_of(config, side))


def stack_of(config: T5Config, side: str) -> Stack:
    """Describes a stack of the network to a prompt module."""
    return Stack(
        side=side,
        width=config.emb_dim,
        layers=config.num_encoder_layers if side == "encoder" else config.num_decoder_layers,
        heads=config.num_heads,
        head_width=config.head_dim,
        mlp_width=config.mlp_dim,
        attentions=("attention",)
        if side == "encoder"
        else ("self_attention", "encoder_decoder_attention"),
    )
