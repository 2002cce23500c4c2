"""Prompts that a network makes: its arithmetic, and the plain prompt that it leaves."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bound_prompts import H, P, called, drawn, made, normal

from prompt_tuning_core.errors import InputError
from prompt_tuning_prompt_reparam import PromptReparam


def two_layers(parameters, x):
    hidden = np.maximum(x @ parameters["down/kernel"] + parameters["down/bias"], 0)
    return hidden @ parameters["up/kernel"] + parameters["up/bias"]


def lstm(parameters, x):
    """Runs one direction of an LSTM over the positions (Hochreiter and Schmidhuber 1997)."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    width = parameters["hi/kernel"].shape[0]
    state = cell = np.zeros(width, np.float32)
    out = []
    for row in x:
        i, f, g, o = (
            row @ parameters[f"i{gate}/kernel"]
            + state @ parameters[f"h{gate}/kernel"]
            + parameters[f"h{gate}/bias"]
            for gate in "ifgo"
        )
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        state = sigmoid(o) * np.tanh(cell)
        out.append(state)
    return np.stack(out)


@pytest.mark.parametrize("network", ["residual", "mlp", "lstm"])
@pytest.mark.slow
def test_the_network_and_the_matrix_that_it_leaves(network):
    module, parameters = made(PromptReparam(P, prompt_init=normal, network=network, bottleneck=4))
    parameters = drawn(parameters)
    prompt = parameters["prompt"]
    if network == "residual":
        made_of = two_layers(parameters, prompt)
        centred = made_of - made_of.mean(1, keepdims=True)
        normalized = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
        expected = prompt + normalized * parameters["norm/scale"] + parameters["norm/bias"]
    elif network == "mlp":
        expected = two_layers(parameters, prompt)
    else:
        cells = [
            {
                name.removeprefix(start): array
                for name, array in parameters.items()
                if name.startswith(start)
            }
            for start in ("lstm/forward_rnn/cell/", "lstm/backward_rnn/cell/")
        ]
        both = [lstm(cells[0], prompt), lstm(cells[1], prompt[::-1])[::-1]]
        expected = two_layers(parameters, np.concatenate(both, axis=1))
    found = called(module, parameters, "matrix")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    tokens = jnp.array([[5, 1]])
    combined = called(module, parameters, "input", tokens, jnp.ones((1, 2, H)))
    np.testing.assert_allclose(combined[0, :P], expected, atol=1e-5)


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="network is 'rnn', expected one of 'residual', 'mlp'"):
        made(PromptReparam(P, prompt_init=normal, network="rnn"))
