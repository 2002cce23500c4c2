"""(IA)^3 (Liu et al. 2022): trained factors of keys, values and the feed-forward activations."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from prompt_tuning_core.prompts import PromptModule


class PromptIA3(PromptModule):
    """Scales keys, values and feed-forward activations of every layer; adds no positions.

    The parameters are `keys_values`, `[layers, attentions, 2, heads, head width]`, and `mlp`,
    `[layers, MLP width]`. They begin as ones, which do not change the model. PROMPT_LENGTH and
    initializers have no effect.
    """

    sides: tuple[str, ...] = ("encoder", "decoder")

    def setup(self) -> None:
        """Makes the parameters."""
        stack, ones = self.stack, nn.initializers.ones
        shape = (stack.layers, len(stack.attentions), 2, stack.heads, stack.head_width)
        self.keys_values = self.parameter("keys_values", ones, shape)
        # Indexed by an array, so that XLA compiles the operations once, and not for each layer.
        rows = self.keys_values.reshape(-1, *shape[3:])
        numbers = np.arange(len(rows)).reshape(stack.layers, -1)
        self.rows = [rows[layer] for layer in numbers]
        self.mlp = self.parameter("mlp", ones, (stack.layers, stack.mlp_width))

    def activations(self, layer: int, site: str, x: jax.Array, state: Any) -> jax.Array:
        """Scales `x`; see `PromptModule.activations`."""
        del state
        if site == "mlp":
            factors = self.mlp[layer]
        else:
            attention, part = site.split("/")
            number = self.stack.attentions.index(attention)
            factors = self.rows[layer][2 * number + ("keys", "values").index(part)]
        return x * factors.astype(x.dtype)
