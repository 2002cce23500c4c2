"""Wayward prompts (Khashabi et al. 2022): trained for a task and kept near a text."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from prompt_tuning_core.prompts import InputPrompt
from prompt_tuning_core.protocols import Initializer


class PromptWayward(InputPrompt):
    """Trains a matrix `prompt` `[P, H]`, with a penalty for its distance from a frozen `target`.

    The penalty is `gamma` times the mean over the P positions of the squared Euclidean distance
    between prompt and target (equation 3 of the paper).

    Attributes:
      target_init: Makes the target `(P, H)`, the embeddings of a text for example.
      gamma: Weight of the distance in the training loss.
    """

    target_init: Initializer | None = None
    gamma: float = 0.01

    def setup(self) -> None:
        """Makes the prompt and the target."""
        shape = (self.length, self.stack.width)
        self.prompt = self.parameter("prompt", self.prompt_init, shape)
        self.target = self.parameter("target", self.target_init, shape)

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the prompt, for every example."""
        del tokens, embedded
        return self.prompt[None]

    def matrix(self) -> jax.Array:
        """Returns the prompt `[P, H]` float32."""
        return self.prompt

    def penalty(self) -> jax.Array:
        """Returns `gamma` times the distance; see `PromptModule.penalty`."""
        return self.gamma * self._distance()

    def report(self) -> Mapping[str, jax.Array]:
        """Returns the distance."""
        return {"distance": self._distance()}

    def is_trained(self, path: str) -> bool:
        """Checks whether a parameter is trained; the target is not."""
        return path != "target"

    def _distance(self) -> jax.Array:
        return jnp.mean(jnp.sum(jnp.square(self.prompt - self.target), axis=-1))
