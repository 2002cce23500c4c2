"""Prefix tuning (Li and Liang 2021): trained keys and values in every attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning_core.prompts import PromptModule, each


class PromptPrefix(PromptModule):
    """Lets every query attend to P trained keys and values in addition to the sequence's own.

    Without `middle`, they are the parameter `keys_values`,
    `[layers x attentions x 2, P, heads x head width]`. `prompt_init` makes each of its matrices
    `(P, heads x head width)`. With `middle`, a network of two layers makes them from the parameter
    `prompt` `[P, H]` (section 4.3 of the paper).

    Attributes:
      middle: Width of the network's hidden layer; None for no network.
    """

    sides: tuple[str, ...] = ("encoder", "decoder")
    middle: int | None = None

    def setup(self) -> None:
        """Makes the parameters."""
        stack = self.stack
        parts = stack.layers * len(stack.attentions) * 2
        width = stack.heads * stack.head_width
        if self.middle is None:
            shape = (parts, self.length, width)
            self.keys_values = self.parameter("keys_values", each(self.prompt_init, parts), shape)
        else:
            self.prompt = self.parameter("prompt", self.prompt_init, (self.length, stack.width))
            self.hidden = nn.Dense(self.middle)
            self.out = nn.Dense(parts * width)

    def prefix(self, layer: int, attention: str, state: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the attention's keys and values; see `PromptModule.prefix`."""
        del state
        stack = self.stack
        first = 2 * (layer * len(stack.attentions) + stack.attentions.index(attention))
        shape = (1, self.length, stack.heads, stack.head_width)
        # Indexed by an array, so that XLA compiles the operations once, and not for each layer.
        keys, values = self._parts()[np.array([first, first + 1])]
        return keys.reshape(shape), values.reshape(shape)

    def _parts(self) -> jax.Array:
        """Returns keys and values of every layer and attention, `[parts, P, width]`."""
        if self.middle is None:
            return self.keys_values
        made = self.out(jnp.tanh(self.hidden(self.prompt)))
        width = self.stack.heads * self.stack.head_width
        return made.reshape(self.length, -1, width).swapaxes(0, 1)
