"""Prompt modules in a small stack, whose points tests call one by one."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import traverse_util

from prompt_tuning_core.parameters import make_parameters
from prompt_tuning_core.prompts import PromptModule, Stack, in_stack

P, H = 3, 8
ENCODER = Stack("encoder", H, 2, 2, 4, 6, ("attention",))
DECODER = Stack("decoder", H, 2, 2, 4, 6, ("self_attention", "encoder_decoder_attention"))

Parameters = dict[str, np.ndarray]


def normal(rng: jax.Array, shape: Any) -> jax.Array:
    """Draws from a normal distribution, as an initializer."""
    return jax.random.normal(rng, tuple(shape))


def made(module: PromptModule, stack: Stack = ENCODER) -> tuple[PromptModule, Parameters]:
    """Returns the module in a stack, and its initial parameters."""
    module = in_stack(module, stack)
    parameters = make_parameters(module, jax.random.key(0))
    return module, {name: np.asarray(leaf) for name, leaf in parameters.items()}


def drawn(parameters: Parameters) -> Parameters:
    """Returns other values for parameters, of which none is an initial one."""
    random = np.random.default_rng(0)
    return {
        name: random.normal(size=array.shape).astype(np.float32)
        for name, array in parameters.items()
    }


def called(module: PromptModule, parameters: Parameters, point: str, *arguments: Any) -> Any:
    """Calls a point of a module that has these parameters."""
    variables = {"params": traverse_util.unflatten_dict(parameters, sep="/")}
    return module.apply(variables, *arguments, method=point)
