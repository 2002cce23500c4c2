"""Deep prompts: the rows before each layer, in place of the former ones or added."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bound_prompts import H, P, called, made, normal

from prompt_tuning_core.errors import InputError
from prompt_tuning_prompt_deep import PromptDeep

TOKENS = jnp.array([[5, 6, 1], [7, 1, 0]])
HIDDEN = np.arange(2 * (P + 3) * H, dtype=np.float32).reshape(2, P + 3, H)


def test_each_layer_has_a_prompt_of_its_own():
    module, parameters = made(PromptDeep(P, prompt_init=normal))
    ((name, prompts),) = parameters.items()
    assert (name, prompts.shape, prompts.dtype) == ("prompts", (2, P, H), np.float32)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 2)
    assert len(keys) == 2
    assert not np.array_equal(prompts[0], prompts[1])
    embedded = jnp.ones((2, 3, H))
    found = called(module, parameters, "input", TOKENS, embedded)
    np.testing.assert_array_equal(found[:, :P], [prompts[0], prompts[0]])
    np.testing.assert_array_equal(found[:, P:], embedded)
    mask = called(module, parameters, "input_mask", TOKENS)
    np.testing.assert_array_equal(mask, [[1] * (P + 3), [1] * (P + 2) + [0]])


@pytest.mark.parametrize("added", [False, True])
def test_the_rows_before_a_layer(added):
    module, parameters = made(PromptDeep(P, prompt_init=normal, added=added))
    np.testing.assert_array_equal(called(module, parameters, "layer", 0, HIDDEN, None), HIDDEN)
    expected = HIDDEN.copy()
    expected[:, :P] = parameters["prompts"][1] + (HIDDEN[:, :P] if added else 0)
    found = called(module, parameters, "layer", 1, HIDDEN, None)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_place_other_than_the_front_is_refused():
    with pytest.raises(InputError, match="combine is 'suffix', expected 'prefix'"):
        made(PromptDeep(P, prompt_init=normal, combine="suffix"))
