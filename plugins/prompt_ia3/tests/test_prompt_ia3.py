"""IA3: the factors of keys, values and feed-forward activations."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bound_prompts import DECODER, ENCODER, called, drawn, made

from prompt_tuning_prompt_ia3 import PromptIA3


@pytest.mark.parametrize("stack", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_each_site_has_factors_of_its_own_that_begin_as_ones(stack):
    module, parameters = made(PromptIA3(), stack)
    assert {name: array.shape for name, array in parameters.items()} == {
        "keys_values": (2, len(stack.attentions), 2, 2, 4), "mlp": (2, 6),
    }  # fmt: skip
    assert all((array == 1).all() for array in parameters.values())
    parameters = drawn(parameters)
    random = np.random.default_rng(1)
    heads = random.normal(size=(2, 5, 2, 4)).astype(np.float32)
    inner = random.normal(size=(2, 5, 6)).astype(np.float32)
    for number, attention in enumerate(stack.attentions):
        for part, name in enumerate(["keys", "values"]):
            found = called(module, parameters, "activations", 1, f"{attention}/{name}", heads, None)
            np.testing.assert_allclose(found, heads * parameters["keys_values"][1, number, part])
    found = called(module, parameters, "activations", 0, "mlp", inner, None)
    np.testing.assert_allclose(found, inner * parameters["mlp"][0])


def test_bfloat16_stays_bfloat16():
    module, parameters = made(PromptIA3())
    x = jnp.ones((1, 2, 6), jnp.bfloat16)
    assert called(module, parameters, "activations", 0, "mlp", x, None).dtype == jnp.bfloat16
