"""The plain prompt of Lester et al. 2021: one trained matrix among the embedded inputs."""

from __future__ import annotations

import jax
from flax import linen as nn

from prompt_tuning_core.prompts import InputPrompt, float32_parameter
from prompt_tuning_core.protocols import Initializer


class PromptParameter(nn.Module):
    """Holds the prompt: the parameter `prompt` `[P, H]`, float32.

    Attributes:
      prompt_init: Makes the first value.
      shape: `(P, H)`.
    """

    prompt_init: Initializer | None
    shape: tuple[int, int]

    def setup(self) -> None:
        """Makes the parameter."""
        self.prompt = float32_parameter(self, "prompt", self.prompt_init, self.shape)

    def __call__(self) -> jax.Array:
        """Returns the prompt, `[P, H]` float32."""
        return self.prompt


class PromptBasic(InputPrompt):
    """One matrix `[P, H]`, filled by an initializer (Lester et al. 2021, section 2).

    Within an encoder the parameter is `encoder/prompt/prompt/prompt`, as in the reference.
    """

    def setup(self) -> None:
        """Makes the module that holds the parameter."""
        self.prompt = PromptParameter(self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the matrix, for every example."""
        del tokens, embedded
        return self.prompt()[None]

    def matrix(self) -> jax.Array:
        """Returns the prompt `[P, H]` float32."""
        return self.prompt()
