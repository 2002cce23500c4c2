"""Random initializers: their distributions, and what they refuse."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest

from prompt_tuning_init_random import init_normal, init_random, init_truncated_normal
from prompt_tuning_testing import check_initializer

FACTORIES = [(init_random, "scale"), (init_normal, "stddev"), (init_truncated_normal, "stddev")]
SHAPE = (100, 200)


@pytest.mark.parametrize(("factory", "parameter"), FACTORIES)
class TestEach:
    @pytest.mark.slow
    def test_keeps_the_contract(self, factory, parameter):
        shapes = None if factory is init_random else [(5, 7), (20, 512)]
        check_initializer(
            factory, {parameter: 100.0}, shapes=shapes, max_examples=4
        ).raise_if_failed()

    def test_values_grow_with_the_parameter(self, factory, parameter):
        key = jax.random.key(3)
        one = factory(**{parameter: 1})(key, SHAPE)
        np.testing.assert_allclose(factory()(key, SHAPE), 0.5 * one, rtol=1e-6)
        np.testing.assert_allclose(factory(np.float32(2))(key, SHAPE), 2 * one, rtol=1e-6)

    @pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, 1e39, 1e-50, None, "1", True, 1j])
    def test_refuses_a_parameter_that_is_no_positive_number(self, factory, parameter, value):
        with pytest.raises(ValueError, match=f"{parameter} is .*expected a positive"):
            factory(**{parameter: value})

    @pytest.mark.parametrize("shape", [(5,), (2, 5, 4), 5, (2.0, 3), None, ("2", 3)])
    def test_refuses_another_rank(self, factory, parameter, shape):
        with pytest.raises(ValueError, match=r"expected \(P, H\)"):
            factory()(jax.random.key(0), shape)

    def test_is_float32_in_64_bit_mode_too(self, factory, parameter):
        with jax.enable_x64(True):
            assert factory()(jax.random.key(0), (2, 3)).dtype == np.float32

    def test_draws_one_prompt_a_key_under_vmap(self, factory, parameter):
        keys = jax.random.split(jax.random.key(0), 3)
        many = jax.vmap(lambda key: factory()(key, (2, 5)))(keys)
        for prompt, key in zip(many, keys, strict=True):
            np.testing.assert_allclose(prompt, factory()(key, (2, 5)), rtol=1e-6)


def test_uniform_lies_between_0_and_scale():
    values = np.asarray(init_random(2.0)(jax.random.key(0), SHAPE))
    assert values.min() >= 0
    assert values.max() < 2
    np.testing.assert_allclose(values.mean(), 1, atol=0.02)
    np.testing.assert_allclose(values.var(), 4 / 12, rtol=0.02)


def test_normal_has_the_standard_deviation():
    values = np.asarray(init_normal(2.0)(jax.random.key(0), SHAPE))
    np.testing.assert_allclose(values.mean(), 0, atol=0.05)
    np.testing.assert_allclose(values.std(), 2, rtol=0.02)
    assert np.abs(values).max() > 6


def test_truncated_normal_ends_at_two_standard_deviations():
    values = np.asarray(init_truncated_normal(2.0)(jax.random.key(0), SHAPE))
    assert 3.9 < np.abs(values).max() <= 4
    # The standard deviation of a standard normal cut at -2 and 2.
    np.testing.assert_allclose(values.std(), 2 * 0.87962566, rtol=0.02)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (init_random, nn.initializers.uniform),
        (init_normal, nn.initializers.normal),
        (init_truncated_normal, nn.initializers.truncated_normal),
    ],
)
def test_values_are_those_of_flax(ours, theirs):
    key = jax.random.key(1)
    np.testing.assert_array_equal(ours(0.3)(key, (4, 5)), theirs(0.3)(key, (4, 5)))
