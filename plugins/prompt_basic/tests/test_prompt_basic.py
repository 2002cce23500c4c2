"""The plain prompt: its rows, its mask, where they stand, and the parameters that it refuses."""

from __future__ import annotations

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bound_prompts import ENCODER, H, P, called, made, normal

from prompt_tuning_core.combine import PLACES
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import in_stack
from prompt_tuning_prompt_basic import PromptBasic

TOKENS = jnp.array([[5, 6, 7, 1, 0], [8, 1, 0, 0, 0]])
EMBEDDED = jnp.arange(2 * 5 * H, dtype=jnp.float32).reshape(2, 5, H)


def test_the_rows_stand_before_each_input_and_count_in_the_mask():
    module, parameters = made(PromptBasic(P, prompt_init=normal))
    ((name, rows),) = parameters.items()
    assert (name, rows.shape, rows.dtype) == ("prompt/prompt", (P, H), np.float32)
    found = called(module, parameters, "input", TOKENS, EMBEDDED)
    np.testing.assert_array_equal(found[:, :P], [rows, rows])
    np.testing.assert_array_equal(found[:, P:], EMBEDDED)
    mask = called(module, parameters, "input_mask", TOKENS)
    np.testing.assert_array_equal(
        mask, [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    )  # fmt: skip
    np.testing.assert_array_equal(called(module, parameters, "matrix"), rows)


@pytest.mark.parametrize("place", PLACES)
def test_a_combine_function_places_rows_and_mask_alike(place):
    module, parameters = made(PromptBasic(P, prompt_init=normal, combine=place))
    rows = parameters["prompt/prompt"]
    combine = PLACES[place]
    np.testing.assert_array_equal(
        called(module, parameters, "input", TOKENS, EMBEDDED),
        combine(jnp.broadcast_to(rows, (2, P, H)), EMBEDDED, TOKENS),
    )
    np.testing.assert_array_equal(
        called(module, parameters, "input_mask", TOKENS),
        combine(jnp.ones((2, P), bool), TOKENS > 0, TOKENS),
    )


def test_dropout_zeroes_rows_in_training_only():
    module, parameters = made(PromptBasic(P, prompt_init=normal, dropout_rate=0.5))
    variables = {"params": {"prompt": {"prompt": parameters["prompt/prompt"]}}}
    rngs = {"dropout": jax.random.key(3)}
    dropped = module.apply(variables, TOKENS, EMBEDDED, rngs=rngs, method="input")[:, :P]
    rows = np.broadcast_to(parameters["prompt/prompt"], dropped.shape)
    kept = np.asarray(dropped) != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(dropped[kept], 2 * rows[kept], rtol=1e-6)
    found = called(module, parameters, "input", TOKENS, EMBEDDED)[:, :P]
    np.testing.assert_array_equal(found, rows)


def test_the_parameter_is_float32_whatever_initializer_and_input_are():
    def half(rng, shape):
        del rng
        return jnp.full(shape, 1.5, jnp.bfloat16)

    module, parameters = made(PromptBasic(P, prompt_init=half))
    assert parameters["prompt/prompt"].dtype == np.float32
    found = called(module, parameters, "input", TOKENS, EMBEDDED.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16


def test_the_rows_are_never_partitioned():
    module = in_stack(PromptBasic(P, prompt_init=normal), ENCODER)
    variables = module.init(jax.random.key(0), TOKENS, EMBEDDED, method="input")
    axes = variables["params_axes"]["prompt"]["prompt_axes"].names
    assert tuple(axes) == ("prompt", "prompt_embed")


@pytest.mark.parametrize(
    ("length", "initializer", "expected"),
    [
        (0, normal, r"has the shape \(0, 8\), expected sizes of at least 1: set PROMPT_LENGTH"),
        (-1, normal, r"has the shape \(-1, 8\)"),
        (None, normal, r"has the shape \(None, 8\)"),
        (2.0, normal, r"has the shape \(2.0, 8\)"),
        (P, None, "parameter 'prompt' of the prompt has no initializer; name a file of prompts/"),
    ],
)
def test_refuses(length, initializer, expected):
    with pytest.raises(InputError, match=expected):
        made(PromptBasic(length, prompt_init=initializer))


def test_another_place_is_refused():
    with pytest.raises(InputError, match="combine is 'front', expected one of 'prefix'"):
        made(PromptBasic(P, prompt_init=normal, combine="front"))


def test_gin_knows_it_by_its_name():
    with gin.unlock_config():
        gin.parse_config(
            "from __gin__ import dynamic_registration\n"
            "from prompt_tuning_core import plugins\n"
            "MADE = @plugins.prompt_basic()\n"
            f"plugins.prompt_basic.length = {P}\n"
        )
        found = gin.query_parameter("%MADE").scoped_configurable_fn()
        gin.clear_config()
    assert isinstance(found, PromptBasic)
    assert found.length == P
