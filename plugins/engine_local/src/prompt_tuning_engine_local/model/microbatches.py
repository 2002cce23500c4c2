"""Gradient accumulation: the loss of a batch whose parts are computed one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params

Loss = Callable[[Params], tuple[jax.Array, jax.Array]]
"""Returns a loss to differentiate, and another value, for the trained parameters."""


def loss_in_parts(
    model: EncoderDecoderModel,
    fixed: Params,
    frozen: Params,
    batch: Params,
    dropout_rng: jax.Array,
    number: int,
) -> Loss:
    """Returns `model.loss` of a batch, with a gradient that needs the memory of one part only.

    Loss and gradient equal the loss and gradient of the whole batch, except for rounding and for
    dropout masks: each part has its own key. A single part is the whole batch, with the key of the
    step.

    Args:
      model: The model.
      fixed: The prompt's parameters that are not trained.
      frozen: The model's parameters.
      batch: Arrays `[B, …]`; see `batching.make_batch`.
      dropout_rng: The key of the step.
      number: The number of equal parts (NUM_MICROBATCHES); it divides B.
    """
    if number == 1:
        return lambda trained: model.loss({**fixed, **trained}, frozen, batch, dropout_rng)
    divisors = model.divisors(batch)

    def of_part(trained: Params, part: tuple[Params, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return model.loss_of_targets({**fixed, **trained}, frozen, *part, divisors)

    # Part 0 has the rows 0, number, 2 * number, …, so that each device has its share of each part.
    rows = jax.tree.map(
        lambda leaf: leaf.reshape(-1, number, *leaf.shape[1:]).swapaxes(0, 1), dict(batch)
    )
    of_parts = _sum_over(of_part, (rows, jax.random.split(dropout_rng, number)))

    def loss(trained: Params) -> tuple[jax.Array, jax.Array]:
        total, per_token = of_parts(trained)
        penalty = model.penalty({**fixed, **trained})
        return total if penalty is None else total + penalty, per_token

    return loss


def _sum_over(of_part: Callable[[Params, Any], tuple[jax.Array, jax.Array]], parts: Any) -> Loss:
    """Sums the loss over parts, and computes its gradient at the same time.

    JAX's own gradient of such a sum would keep the layers' outputs of all parts until the last part
    is done. Here, the gradient of a part is done before the next part begins. Only the first of the
    two values has a gradient.
    """
    with_gradient = jax.value_and_grad(of_part, has_aux=True)

    def forward(trained: Params) -> tuple[tuple[jax.Array, jax.Array], Any]:
        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, with_gradient(trained, part)), None

        zero = jnp.zeros((), jnp.float32)
        nothing = ((zero, zero), jax.tree.map(jnp.zeros_like, trained))
        total: tuple[tuple[jax.Array, jax.Array], Any] = jax.lax.scan(add, nothing, parts)[0]
        return total

    def backward(gradient: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any]:
        return (jax.tree.map(lambda leaf: cotangents[0] * leaf, gradient),)

    summed = jax.custom_vjp(lambda trained: forward(trained)[0])
    summed.defvjp(forward, backward)
    return summed
