"""Finds the prompt's parameters in a model, and calls the prompt module with them.

Parameters have "/"-joined names. The names of a prompt's parameters begin with `encoder/prompt/` or
`decoder/prompt/`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from prompt_tuning_core.integrations.flaxformer import prompts_of
from prompt_tuning_core.prompts import POINTS, PromptFactory, PromptModule, may_be_plain, overrides

_PREFIXES = ("encoder/prompt/", "decoder/prompt/")


def is_prompts(name: str) -> bool:
    """Returns True if a parameter belongs to a prompt module."""
    return name.startswith(_PREFIXES)


@dataclasses.dataclass(frozen=True)
class PromptParameters:
    """Tells which parameters of a prompt module are trained.

    Args:
      prompt_factory: Makes the prompt module of the run (`prompts.make`).
      prompts: The prompt modules, with their `stack` set, by side; None if they are not known.
    """

    prompt_factory: PromptFactory
    prompts: Mapping[str, PromptModule] | None = None

    def is_trained(self, name: str) -> bool:
        """Returns True if a parameter belongs to the prompt module and the module trains it."""
        if not is_prompts(name):
            return False
        side, _, path = name.split("/", 2)
        module = self.prompt_factory() if self.prompts is None else self.prompts[side]
        return module.is_trained(path)


class ModelPrompts:
    """The prompt modules of a Flaxformer model, called with the model's parameters.

    Args:
      model: A `PromptEncoderDecoder` or `PromptDecoderOnly`.

    Attributes:
      by_side: The module of each stack, unbound.
      module: The module of one stack in which the prompt acts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.by_side = prompts_of(model)
        acting = [
            prompt
            for side, prompt in self.by_side.items()
            if side in prompt.sides and overrides(prompt, *POINTS)
        ]
        self.module: PromptModule = (acting or list(self.by_side.values()))[0]

    @property
    def has_penalty(self) -> bool:
        """True if a prompt module adds to the training loss."""
        return any(overrides(prompt, "penalty") for prompt in self.by_side.values())

    def penalty(self, params: Mapping[str, Any]) -> jax.Array:
        """Returns the sum of the prompt modules' penalties, a float32 scalar."""
        return sum(
            (
                jnp.asarray(self._called(side, "penalty", params), jnp.float32)
                for side, prompt in self.by_side.items()
                if overrides(prompt, "penalty")
            ),
            jnp.float32(0),
        )

    def report(self, params: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the scalars that the prompt modules report, named `SIDE/NAME`."""
        return {
            f"{side}/{name}": jnp.asarray(value, jnp.float32)
            for side, prompt in self.by_side.items()
            if overrides(prompt, "report")
            for name, value in self._called(side, "report", params).items()
        }

    def matrix(self, params: Mapping[str, Any]) -> jax.Array | None:
        """Returns the plain prompt `[P, H]` float32 that is equivalent to the modules, or None."""
        # In a decoder-only model, a plain prompt is in the decoder.
        alone = set(self.by_side) == {"decoder"}
        if not may_be_plain(self.module.clone(sides=("encoder",)) if alone else self.module):
            return None
        (side,) = self.module.sides
        found = self._called(side, "matrix", params)
        return None if found is None else jnp.asarray(found, jnp.float32)

    def _called(self, side: str, point: str, params: Mapping[str, Any]) -> Any:
        variables = {"params": params.get(side, {}).get("prompt", {})}
        return self.by_side[side].apply(variables, method=point)


def named(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the prompt's parameters in a nested tree of parameters, by name."""
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    return {name: leaf for name, leaf in flat.items() if is_prompts(name)}
