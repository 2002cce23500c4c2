"""Faults of prompt modules: each is one line, before the first step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bound_prompts import DECODER, ENCODER, P, made, normal
from flax import linen as nn

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import InputPrompt, each, in_stack


class Good(InputPrompt):
    """Acts at every point, rightly; each class below does one thing wrong."""

    def setup(self):
        self.prompt = self.parameter("prompt", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens, embedded):
        return self.prompt[None]

    def start(self, tokens):
        return {"first": tokens[:, 0]}

    def layer(self, layer, hidden, state):
        return hidden.at[:, : self.length].multiply(2)

    def prefix(self, layer, attention, state):
        keys = jnp.zeros((1, 2, self.stack.heads, self.stack.head_width))
        return keys, keys

    def activations(self, layer, site, x, state):
        return x * 2

    def penalty(self):
        return jnp.sum(self.prompt)

    def report(self):
        return {"norm": jnp.linalg.norm(self.prompt)}


def wrong(**methods):
    """Makes a class with other methods or fields than `Good`."""
    return type("Wrong", (Good,), methods)


def half(self):
    self.prompt = self.param("prompt", nn.initializers.ones, (self.length, 8), jnp.bfloat16)


def with_a_width(self):
    self.prompt = self.parameter("prompt", self.prompt_init, (self.length, 5))


def test_a_module_that_is_right_is_accepted_on_each_side():
    for stack in (ENCODER, DECODER):
        made(Good(P, prompt_init=normal, sides=("encoder", "decoder")), stack)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (
            {"rows": lambda s, t, e: s.prompt},
            "rows returned the shape [3, 8], expected [1 or 1, 3, 8]",
        ),
        ({"rows": lambda s, t, e: s.prompt[None, :2]}, "rows returned the shape [1, 2, 8]"),
        (
            {"input": lambda s, t, e: e[:1]},
            "input returned float32 [1, 1, 8], expected float32 [1, 4, 8]",
        ),
        ({"input": lambda s, t, e: e.astype(jnp.bfloat16)}, "input returned bfloat16 [1, 1, 8]"),
        (
            {"input_mask": lambda s, t: jnp.ones((len(t), 4))},
            "input_mask returned float32 [1, 4], expected bool [1, S]",
        ),
        (
            {"input_mask": lambda s, t: t > 0},
            "input returned float32 [1, 4, 8], expected float32 [1, 1, 8] (input_mask's S)",
        ),
        (
            {"start": lambda s, t: jnp.zeros(3)},
            "start returned float32 [3], expected arrays whose first axis is 1",
        ),
        (
            {"start": lambda s, t: t[:1]},
            "start returned int32 [1, 3], expected arrays whose first axis is 2",
        ),
        (
            {"layer": lambda s, n, h, state: h[:, 1:]},
            "layer returned float32 [1, 3, 8], expected float32 [1, 4, 8]",
        ),
        (
            {"layer": lambda s, n, h, state: h[:1]},
            "layer returned float32 [1, 6, 8], expected float32 [2, 6, 8]",
        ),
        (
            {"prefix": lambda s, n, a, state: jnp.zeros(3)},
            "prefix returned ArrayImpl, expected two floating arrays",
        ),
        (
            {"prefix": lambda s, n, a, state: (jnp.zeros((1, 2, 8)),) * 2},
            "prefix returned float32 [1, 2, 8], expected two",
        ),
        (
            {"prefix": lambda s, n, a, state: (jnp.zeros((1, 2, 2, 4)), jnp.zeros((1, 3, 2, 4)))},
            "prefix returned float32 [1, 3, 2, 4]",
        ),
        (
            {"activations": lambda s, n, site, x, state: x.mean(-1)},
            "activations of 'attention/keys' returned float32 [1, 4, 2]",
        ),
        (
            {"penalty": lambda s: s.prompt.sum(0)},
            "penalty returned float32 [8], expected a floating scalar",
        ),
        ({"penalty": lambda s: jnp.nan}, "penalty returned nan, expected a finite number"),
        (
            {"report": lambda s: {"rows": s.prompt}},
            "report of 'rows' returned float32 [3, 8], expected a floating scalar",
        ),
        (
            {"matrix": lambda s: s.prompt[:2]},
            "matrix returned float32 [2, 8], expected float32 [3, 8]",
        ),
        ({"setup": half}, "parameter 'prompt' is bfloat16, expected float32"),
        ({"setup": with_a_width}, "rows returned the shape [1, 3, 5]"),
    ],
)
def test_a_point_that_returns_what_it_may_not(methods, expected):
    with pytest.raises(InputError) as raised:
        made(wrong(**methods)(P, prompt_init=normal))
    assert str(raised.value).startswith(("Wrong: ", "parameter"))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_initializer_that_cannot_serve_a_part_names_both_widths():
    def table(rng, shape):
        raise ValueError(f"has vectors of 512 numbers, but the prompt needs {shape[1]}")

    with pytest.raises(ValueError, match="512 numbers, but the prompt needs 8"):
        made(Good(P, prompt_init=table))


@pytest.mark.parametrize(
    ("sides", "stacks"),
    [
        (("decoder",), ("encoder",)),
        (("left",), ("encoder", "decoder")),
        ((), ("encoder",)),
        ("encoder", ("encoder",)),
    ],
)
def test_a_side_that_the_model_lacks_is_refused(sides, stacks):
    with pytest.raises(InputError, match=r"Good: sides is .*, expected a tuple of 'encoder'"):
        in_stack(Good(P, sides=sides), ENCODER, stacks)


def test_each_makes_rows_with_keys_of_their_own():
    made_rows = each(normal, 4)(jax.random.key(0), (4, P, 8))
    assert made_rows.shape == (4, P, 8)
    for number, key in enumerate(jax.random.split(jax.random.key(0), 4)):
        np.testing.assert_array_equal(made_rows[number], normal(key, (P, 8)))
    assert each(None, 4) is None
