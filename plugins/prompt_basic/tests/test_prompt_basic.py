"""The plain prompt: its rows, its mask, where they stand, and what it refuses."""

from __future__ import annotations

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_core import combine
from prompt_tuning_core.errors import InputError
from prompt_tuning_prompt_basic import PromptBasic

P, H = 3, 4
ROWS = np.arange(P * H, dtype=np.float32).reshape(P, H) + 100
TOKENS = jnp.array([[5, 6, 7, 1, 0], [8, 1, 0, 0, 0]])
EMBEDDED = jnp.arange(2 * 5 * H, dtype=jnp.float32).reshape(2, 5, H)


def rows(rng, shape):
    del rng
    assert shape == (P, H)
    return jnp.asarray(ROWS)


def applied(module, method, *arrays):
    variables = module.init(jax.random.key(0), TOKENS, EMBEDDED, method="input")
    return np.asarray(module.apply(variables, *arrays, method=method))


def test_the_rows_stand_before_each_input_and_count_in_the_mask():
    module = PromptBasic(P, prompt_init=rows)
    made = applied(module, "input", TOKENS, EMBEDDED)
    np.testing.assert_array_equal(made[:, :P], [ROWS, ROWS])
    np.testing.assert_array_equal(made[:, P:], EMBEDDED)
    mask = applied(module, "input_mask", TOKENS)
    np.testing.assert_array_equal(
        mask, [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    )  # fmt: skip


def test_another_combine_function_places_rows_and_mask_alike():
    def suffix(prompt, embedded, tokens):
        del tokens
        return jnp.concatenate([embedded, prompt], axis=1)

    module = PromptBasic(P, prompt_init=rows, combine=suffix)
    np.testing.assert_array_equal(applied(module, "input", TOKENS, EMBEDDED)[:, -P:], [ROWS, ROWS])
    np.testing.assert_array_equal(applied(module, "input_mask", TOKENS)[:, -P:], np.ones((2, P)))
    assert PromptBasic(P, prompt_init=rows).combine is combine.prefix


def test_the_parameter_is_float32_whatever_initializer_and_input_are():
    module = PromptBasic(P, prompt_init=lambda rng, shape: jnp.full(shape, 1.5, jnp.bfloat16))
    half = EMBEDDED.astype(jnp.bfloat16)
    variables = module.init(jax.random.key(0), TOKENS, half, method="input")
    ((path, parameter),) = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    assert jax.tree_util.keystr(path) == "['prompt']['prompt']"
    assert (parameter.shape, parameter.dtype) == ((P, H), np.float32)
    assert module.apply(variables, TOKENS, half, method="input").dtype == jnp.bfloat16


def test_the_rows_are_never_partitioned():
    variables = PromptBasic(P, prompt_init=rows).init(
        jax.random.key(0), TOKENS, EMBEDDED, method="input"
    )
    axes = variables["params_axes"]["prompt"]["prompt_axes"].names
    assert tuple(axes) == ("prompt", "prompt_embed")


@pytest.mark.parametrize(
    ("length", "initializer", "expected"),
    [
        (0, rows, "the prompt's length is 0; a prompt needs at least 1 position"),
        (-1, rows, "the prompt's length is -1"),
        (None, rows, "the prompt's length is None"),
        (2.0, rows, "the prompt's length is 2.0"),
        (P, None, "no initializer; set prompt_basic.prompt_init"),
    ],
)
def test_refuses(length, initializer, expected):
    module = PromptBasic(length, prompt_init=initializer)
    with pytest.raises(InputError, match=expected):
        module.init(jax.random.key(0), TOKENS, EMBEDDED, method="input")


def test_gin_knows_it_by_its_name():
    with gin.unlock_config():
        gin.parse_config(
            "from __gin__ import dynamic_registration\n"
            "from prompt_tuning_core import plugins\n"
            "MADE = @plugins.prompt_basic()\n"
            f"plugins.prompt_basic.length = {P}\n"
        )
        made = gin.query_parameter("%MADE").scoped_configurable_fn()
        gin.clear_config()
    assert isinstance(made, PromptBasic)
    assert made.length == P
