"""Prefix tuning: keys and values of each layer and attention, learned or made by a network."""

from __future__ import annotations

import numpy as np
import pytest
from bound_prompts import DECODER, ENCODER, P, called, made, normal

from prompt_tuning_core.errors import InputError
from prompt_tuning_prompt_prefix import PromptPrefix


@pytest.mark.parametrize("stack", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_every_attention_has_keys_and_values_of_its_own(stack):
    module, parameters = made(PromptPrefix(P, prompt_init=normal), stack)
    ((_, numbers),) = parameters.items()
    attentions = len(stack.attentions)
    assert numbers.shape == (2 * attentions * 2, P, 8)
    for layer in range(2):
        for number, attention in enumerate(stack.attentions):
            keys, values = called(module, parameters, "prefix", layer, attention, None)
            first = 2 * (layer * attentions + number)
            np.testing.assert_array_equal(keys, numbers[first].reshape(1, P, 2, 4))
            np.testing.assert_array_equal(values, numbers[first + 1].reshape(1, P, 2, 4))


def test_a_network_makes_them_of_a_prompt():
    module, parameters = made(PromptPrefix(P, prompt_init=normal, middle=5))
    parameters["hidden/bias"] = np.arange(5, dtype=np.float32)
    hidden = np.tanh(parameters["prompt"] @ parameters["hidden/kernel"] + parameters["hidden/bias"])
    all_parts = hidden @ parameters["out/kernel"] + parameters["out/bias"]
    keys, values = called(module, parameters, "prefix", 1, "attention", None)
    np.testing.assert_allclose(keys, all_parts[:, 16:24].reshape(1, P, 2, 4), rtol=1e-5)
    np.testing.assert_allclose(values, all_parts[:, 24:32].reshape(1, P, 2, 4), rtol=1e-5)


def test_a_length_that_is_not_set_is_refused():
    with pytest.raises(InputError, match=r"has the shape .4, 0, 8., .* set PROMPT_LENGTH"):
        made(PromptPrefix(prompt_init=normal))
