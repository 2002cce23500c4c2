"""Makes the parameters of a prompt module, and checks all that the module returns.

An engine makes the parameters before it loads a model. So a wrong module is refused before the
first step, in one line: its plugin, the point, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule, described, overrides
from prompt_tuning_core.protocols import SavedPrompt

__all__ = ["check_points", "make_parameters", "visit_points"]


def make_parameters(
    module: PromptModule, rng: jax.Array, dtype: str = "float32"
) -> dict[str, jax.Array]:
    """Makes all parameters of a prompt module, and checks what its points return.

    This calls every point once for every layer, attention and site, on a batch of 1 x 1. So
    submodules that make their parameters in their first call, such as `nn.Dense`, make them here.
    Initializers run outside any JAX transformation, so that they can read only the rows that they
    need.

    Args:
      module: A module whose `stack` is set. If its `prompt_init` is the saved prompt of a module,
        the values are the saved ones, by name, and no other initializer is needed.
      rng: Key of the initial values.
      dtype: The dtype of the model's activations.

    Returns:
      float32 arrays by "/"-joined names within the module.

    Raises:
      InputError: If the module, or a value, does not follow the protocol.
      ValueError: From an initializer that cannot serve a shape.
    """
    tokens, embedded = _batch(module, 1, 1, dtype)
    file = module.prompt_init
    if isinstance(file, SavedPrompt) and file.plugin is not None:
        shapes = jax.eval_shape(lambda: module.init(rng, tokens, embedded, method=visit_points))
        made = file.values(module, _flat(shapes))
    else:
        made = _flat(module.init(rng, tokens, embedded, method=visit_points))
    for name, leaf in made.items():
        if leaf.dtype != jnp.float32:
            raise InputError(
                f"{described(module)}: parameter {name!r} is {leaf.dtype}, expected float32"
            )
        if not np.isfinite(leaf).all():
            raise InputError(
                f"{described(module)}: parameter {name!r} has values that are not finite; set "
                "another initializer, with a file of prompts/ for example"
            )
    check_points(module, made, dtype)
    return made


def check_points(
    module: PromptModule, parameters: Mapping[str, Any], dtype: str = "float32"
) -> None:
    """Checks what a module's points return for a batch of 2 x 3, with and without dropout.

    It computes shapes and dtypes only.

    Raises:
      InputError: If a point returns what the protocol does not allow.
    """

    def visit(parameters: Mapping[str, Any], rngs: dict[str, jax.Array]) -> None:
        tokens, embedded = _batch(module, 2, 3, dtype)
        variables = {"params": traverse_util.unflatten_dict(dict(parameters), sep="/")}
        module.apply(variables, tokens, embedded, rngs=rngs, method=visit_points)

    jax.eval_shape(visit, parameters, {})
    jax.eval_shape(visit, parameters, {"dropout": jax.random.key(0)})


def visit_points(module: PromptModule, tokens: jax.Array, embedded: jax.Array) -> None:
    """Calls each point that the module overrides as an engine does, and checks what it returns.

    Args:
      module: A bound module whose `stack` is set.
      tokens: `[B, T]` int32.
      embedded: `[B, T, H]`.

    Raises:
      InputError: If a point returns what the protocol does not allow.
    """
    batch, width = embedded.shape[0], embedded.shape[2]
    state = _state(module, tokens)
    hidden = module.input(tokens, embedded)
    mask = module.input_mask(tokens)
    if mask.ndim != 2 or len(mask) != batch or mask.dtype != bool:
        raise _wrong(module, "input_mask", mask, f"bool [{batch}, S]")
    _check_same(
        module, "input", hidden, (batch, mask.shape[1], width), embedded.dtype, " (input_mask's S)"
    )
    for number in range(module.stack.layers):
        if overrides(module, "layer"):
            found = module.layer(number, hidden, state)
            _check_same(module, "layer", found, hidden.shape, hidden.dtype)
        if overrides(module, "prefix"):
            for attention in module.stack.attentions:
                _check_prefix(module, batch, module.prefix(number, attention, state))
        if overrides(module, "activations"):
            for site in module.stack.sites:
                x = _activations(module, site, hidden)
                found = module.activations(number, site, x, state)
                _check_same(module, f"activations of {site!r}", found, x.shape, x.dtype)
    _check_scalar(module, "penalty", module.penalty())
    for name, value in module.report().items():
        _check_scalar(module, f"report of {name!r}", value)
    matrix = module.matrix()
    if matrix is not None:
        _check_same(module, "matrix", matrix, (module.length, width), jnp.dtype("float32"))


def _batch(
    module: PromptModule, batch: int, length: int, dtype: str
) -> tuple[jax.Array, jax.Array]:
    tokens = jnp.ones((batch, length), jnp.int32)
    return tokens, jnp.zeros((batch, length, module.stack.width), dtype)


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(variables.get("params", {}), sep="/"))


def _state(module: PromptModule, tokens: jax.Array) -> Any:
    state = module.start(tokens)
    for leaf in jax.tree.leaves(state):
        if jnp.ndim(leaf) < 1 or len(leaf) != len(tokens):
            raise _wrong(module, "start", leaf, f"arrays whose first axis is {len(tokens)}")
    return state


def _check_prefix(module: PromptModule, batch: int, found: Any) -> None:
    if found is None:
        return
    width = (module.stack.heads, module.stack.head_width)
    expected = f"two floating arrays [{batch} or 1, n, {width[0]}, {width[1]}], or None"
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise InputError(
            f"{described(module)}: prefix returned {type(found).__name__}, expected {expected}"
        )
    keys, values = found
    for one in (keys, values):
        if (
            jnp.ndim(one) != 4
            or one.shape[0] not in (1, batch)
            or one.shape[1] != keys.shape[1]
            or one.shape[2:] != width
            or not jnp.issubdtype(one.dtype, jnp.floating)
        ):
            raise _wrong(module, "prefix", one, expected)


def _activations(module: PromptModule, site: str, hidden: jax.Array) -> jax.Array:
    stack = module.stack
    tail = (stack.mlp_width,) if site == "mlp" else (stack.heads, stack.head_width)
    return jnp.zeros((*hidden.shape[:2], *tail), hidden.dtype)


def _check_scalar(module: PromptModule, point: str, value: Any) -> None:
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise _wrong(module, point, value, "a floating scalar")
    if not isinstance(value, jax.core.Tracer) and not np.isfinite(value):
        raise InputError(f"{described(module)}: {point} returned {value}, expected a finite number")


def _check_same(
    module: PromptModule, point: str, found: Any, shape: tuple[int, ...], dtype: Any, why: str = ""
) -> None:
    if jnp.shape(found) != shape or jnp.result_type(found) != dtype:
        raise _wrong(module, point, found, f"{dtype} {list(shape)}{why}")


def _wrong(module: PromptModule, point: str, found: Any, expected: str) -> InputError:
    shape = f"{jnp.result_type(found)} {list(jnp.shape(found))}"
    return InputError(f"{described(module)}: {point} returned {shape}, expected {expected}")
