"""A stranger's prompt module: it acts at four points, with submodules named like a model's.

Tests import this module, and `strangers` makes a distribution of its file. So it imports only the
core.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from prompt_tuning_core.prompts import InputPrompt


class Strange(InputPrompt):
    """Adds to its own positions before each layer, and has a prefix of keys and values.

    `keys` is used in `prefix` alone, and `layers` has the name of a model's own layers.
    """

    sides: tuple[str, ...] = ("encoder", "decoder")

    def setup(self) -> None:
        """Makes the parameters and submodules."""
        self.layers = [nn.Dense(self.stack.width) for _ in range(self.stack.layers)]
        self.keys = nn.Dense(self.stack.heads * self.stack.head_width)
        self.seed = self.parameter("seed", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the seed, for every example."""
        del tokens, embedded
        return self.seed[None]

    def layer(self, layer: int, hidden: jax.Array, state: Any) -> jax.Array:
        """Adds the product of the seed and the layer's own matrix."""
        del state
        added = self.layers[layer](self.seed).astype(hidden.dtype)
        return hidden.at[:, : self.length].add(0.1 * added)

    def prefix(self, layer: int, attention: str, state: Any) -> tuple[jax.Array, jax.Array]:
        """Returns keys made of the seed, and their negatives as values."""
        del attention, state
        keys = self.keys(self.seed + layer).reshape(1, self.length, self.stack.heads, -1)
        return keys, -keys

    def penalty(self) -> jax.Array:
        """Returns a hundredth of the sum of the seed's squares."""
        return 0.01 * (self.seed**2).sum()

    def report(self) -> Mapping[str, jax.Array]:
        """Returns the largest absolute number of the seed."""
        return {"size": abs(self.seed).max()}
