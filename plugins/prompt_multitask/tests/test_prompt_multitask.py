"""Multitask prompts: the prompt of each example's task, in the five ways."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bound_prompts import H, P, called, drawn, made, normal

from prompt_tuning_core.errors import InputError
from prompt_tuning_prompt_multitask import PromptMultitask

TASKS, SENTINEL = 3, 60
# Of task 1 and task 0; their first token names the task.
TOKENS = jnp.array([[59, 5, 6, 1], [60, 7, 1, 0]])
EMBEDDED = jnp.arange(2 * 4 * H, dtype=jnp.float32).reshape(2, 4, H)


def of(how, **fields):
    fields = {"task_inits": (normal,), **fields} if how != "scale" else fields
    return PromptMultitask(P, prompt_init=normal, how=how, tasks=TASKS, sentinel=SENTINEL, **fields)


def prompt_of(how, parameters, task):
    """Computes the prompt of one task with numpy."""
    shared = parameters["shared"]
    if how == "scale":
        return shared * np.outer(parameters["rows"][task], parameters["columns"][task])
    own = parameters["tasks"][task]
    if how == "add":
        return shared + own
    if how == "concatenate":
        return np.concatenate([shared, own])
    if how == "concatenate_features":
        return np.concatenate([shared, own], axis=1)
    kernel, bias = own[:-1], own[-1]
    return np.stack([row @ kernel + bias for row in shared])


@pytest.mark.parametrize(
    ("how", "fields", "shapes"),
    [
        ("scale", {}, {"shared": (P, H), "rows": (TASKS, P), "columns": (TASKS, H)}),
        ("add", {}, {"shared": (P, H), "tasks": (TASKS, P, H)}),
        ("concatenate", {}, {"shared": (P, H), "tasks": (TASKS, P, H)}),
        ("concatenate", {"task_length": 2}, {"shared": (P, H), "tasks": (TASKS, 2, H)}),
        ("concatenate_features", {"task_features": 3}, {"shared": (P, 5), "tasks": (TASKS, P, 3)}),
        ("project", {"task_features": 3}, {"shared": (P, 3), "tasks": (TASKS, 4, H)}),
    ],
)
def test_the_prompt_of_a_task_and_the_input_without_its_token(how, fields, shapes):
    module, parameters = made(of(how, **fields))
    assert {name: array.shape for name, array in parameters.items()} == shapes
    parameters = drawn(parameters)
    found = called(module, parameters, "input", TOKENS, EMBEDDED)
    mask = called(module, parameters, "input_mask", TOKENS)
    for row, task in enumerate([1, 0]):
        prompt = prompt_of(how, parameters, task)
        np.testing.assert_allclose(found[row, : len(prompt)], prompt, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[row, len(prompt) :], EMBEDDED[row, 1:])
        expected = [True] * len(prompt) + [token > 0 for token in TOKENS[row, 1:].tolist()]
        np.testing.assert_array_equal(mask[row], expected)


@pytest.mark.parametrize("token", [SENTINEL + 1, SENTINEL - TASKS, 5])
def test_an_example_of_no_task_has_no_prompt(token):
    module, parameters = made(of("add"))
    found = called(module, parameters, "input", jnp.array([[token, 1]]), jnp.ones((1, 2, H)))
    assert np.isnan(found[0, :P]).all()


def test_a_part_may_be_frozen_and_each_task_has_an_initializer():
    inits = tuple(
        lambda rng, shape, value=value: jnp.full(shape, value) for value in (1.0, 2.0, 3.0)
    )
    module, parameters = made(of("add", frozen=("shared",), task_inits=inits))
    assert [module.is_trained(name) for name in ("shared", "tasks")] == [False, True]
    np.testing.assert_array_equal(parameters["tasks"][:, 0, 0], [1, 2, 3])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"how": "multiply"}, "how is 'multiply', expected one of 'scale', 'add'"),
        ({"tasks": 0}, "tasks is 0, expected the number of tasks"),
        ({"sentinel": 0}, "sentinel is 0, expected the id of the token"),
        ({"how": "project"}, "task_features is 0, expected 1 to 7"),
        ({"how": "add", "task_inits": (normal, normal)}, "none, 1 or 3 initializers"),
        ({"frozen": ("share",)}, "frozen is .'share',., expected names among shared, rows"),
    ],
)
def test_refuses(fields, expected):
    fields = {"how": "scale", "tasks": TASKS, "sentinel": SENTINEL, **fields}
    with pytest.raises(InputError, match=expected):
        made(PromptMultitask(P, prompt_init=normal, **fields))
