"""The plain prompt of Lester et al. 2021: one trained parameter among the embedded inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from prompt_tuning_core import combine as combine_functions
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule, float32_initializer
from prompt_tuning_core.protocols import Combine, Initializer


class PromptParameter(nn.Module):
    """Holds the prompt: the parameter `prompt` `[P, H]`, float32.

    Its logical axes are ("prompt", "prompt_embed") rather than "embed", so that it is never
    partitioned and each host holds the whole prompt.

    Attributes:
      length: P.
      prompt_init: Makes the first value, which is cast to float32.
    """

    length: int
    prompt_init: Initializer

    @nn.compact
    def __call__(self, width: int) -> jax.Array:
        """Returns the prompt, `[P, width]` float32."""
        return partitioning.param_with_axes(
            "prompt",
            float32_initializer(self.prompt_init),
            (self.length, width),
            axes=("prompt", "prompt_embed"),
        )


class PromptBasic(PromptModule):
    """One parameter `[P, H]`, filled by an initializer and placed by a combine function.

    Within an encoder the parameter is `encoder/prompt/prompt/prompt`, as in the reference.

    Attributes:
      length: P, the number of positions; at least 1.
      prompt_init: Makes the prompt's first value.
      combine: Places the prompt among the inputs and its ones in the mask.

    Raises:
      InputError: When used with a length below 1 or without an initializer.
    """

    combine: Combine = combine_functions.prefix

    def setup(self) -> None:
        """Makes the module that holds the parameter."""
        if not isinstance(self.length, int) or self.length < 1:
            raise InputError(
                f"prompt_basic: the prompt's length is {self.length!r}; a prompt needs at least 1 "
                "position: set PROMPT_LENGTH"
            )
        if self.prompt_init is None:
            raise InputError(
                "prompt_basic: no initializer; set prompt_basic.prompt_init, or name one of the "
                "gin files in prompts/"
            )
        self.prompt = PromptParameter(self.length, self.prompt_init)

    def input(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Places the prompt among the embedded input; see `PromptModule.input`."""
        prompt = self.prompt(embedded.shape[-1]).astype(embedded.dtype)
        batched = jnp.broadcast_to(prompt, (embedded.shape[0], *prompt.shape))
        return self.combine(batched, embedded, tokens)

    def matrix(self) -> jax.Array:
        """Returns the prompt `[P, H]` float32."""
        matrix: jax.Array = self.prompt.get_variable("params", "prompt")
        return matrix

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Places ones for the prompt among those of the input; see `PromptModule.input_mask`."""
        ones = jnp.ones((tokens.shape[0], self.length), bool)
        return self.combine(ones, tokens > 0, tokens)
