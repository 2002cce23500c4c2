"""A prompt at every layer (Liu et al. 2022, "P-Tuning v2")."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import InputPrompt, described, each


class PromptDeep(InputPrompt):
    """Puts a prompt in front of the input, and another at the same positions before each layer.

    The parameter is `prompts`, `[layers, P, H]`; `prompt_init` makes each `(P, H)` of it.

    Attributes:
      added: True adds a layer's prompt to the output of the layer before, at the prompt's
        positions. False replaces this output by the layer's prompt, as in the paper.
    """

    added: bool = False

    def setup(self) -> None:
        """Makes the parameter."""
        if self.combine != "prefix":
            raise InputError(
                f"{described(self)}: combine is {self.combine!r}, expected 'prefix': a prompt at "
                "every layer stands in front"
            )
        layers = self.stack.layers
        shape = (layers, self.length, self.stack.width)
        self.prompts = self.parameter("prompts", each(self.prompt_init, layers), shape)

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the first layer's prompt, for every example."""
        del tokens, embedded
        return self.prompts[:1]

    def layer(self, layer: int, hidden: jax.Array, state: Any) -> jax.Array:
        """Puts the layer's prompt at the prompt's positions; see `PromptModule.layer`."""
        del state
        if layer == 0:  # The input has it already.
            return hidden
        former, rest = hidden[:, : self.length], hidden[:, self.length :]
        prompt = jnp.broadcast_to(self.prompts[layer].astype(hidden.dtype), former.shape)
        return jnp.concatenate([former + prompt if self.added else prompt, rest], axis=1)
