"""Reparametrised prompts: a small network makes the prompt from a matrix; both are trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import InputPrompt, described

NETWORKS = ("residual", "mlp", "lstm")


class PromptReparam(InputPrompt):
    """Places the output of a network, whose input is the parameter `prompt` `[P, H]`.

    After training, the network is not needed: `matrix` is a plain prompt.

    Attributes:
      network: 'residual', `prompt + LayerNorm(relu(prompt down) up)` with one network for all
        positions (Razdaibiedina et al. 2023, equation 3); 'mlp', two layers (Liu et al. 2021,
        "GPT Understands, Too"); 'lstm', two layers after a bidirectional LSTM over the positions
        (the same paper, equation 6).
      bottleneck: Width of the residual network's hidden layer.
    """

    network: str = "residual"
    bottleneck: int = 128

    def setup(self) -> None:
        """Makes the parameters."""
        if self.network not in NETWORKS:
            raise InputError(
                f"{described(self)}: network is {self.network!r}, expected one of "
                f"{', '.join(map(repr, NETWORKS))}"
            )
        width = self.stack.width
        self.prompt = self.parameter("prompt", self.prompt_init, (self.length, width))
        if self.network == "lstm":
            # Half of the width for each direction.
            self.lstm = nn.Bidirectional(
                nn.RNN(nn.LSTMCell(width // 2)), nn.RNN(nn.LSTMCell(width - width // 2))
            )
        self.down = nn.Dense(self.bottleneck if self.network == "residual" else width)
        self.up = nn.Dense(width)
        if self.network == "residual":
            self.norm = nn.LayerNorm()

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the network's output, for every example."""
        del tokens, embedded
        return self.matrix()[None]

    def matrix(self) -> jax.Array:
        """Returns the network's output, `[P, H]` float32."""
        if self.network == "residual":
            return self.prompt + self.norm(self.up(nn.relu(self.down(self.prompt))))
        made: Any = self.lstm(self.prompt) if self.network == "lstm" else self.prompt
        return jnp.asarray(self.up(nn.relu(self.down(made))), jnp.float32)
