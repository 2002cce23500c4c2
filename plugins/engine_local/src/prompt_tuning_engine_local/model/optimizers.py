"""Optimizers with T5X's defaults; gin can also name any other optax transformation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from prompt_tuning_core.errors import InputError


def adafactor(
    learning_rate: optax.ScalarOrSchedule = 0.3,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    *,
    multiply_by_parameter_scale: bool = False,
    clipping_threshold: float | None = 1.0,
    weight_decay_rate: float | None = 1e-5,
    learning_rate_factors: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
    """Makes Adafactor (Shazeer and Stern 2018) with the settings of Lester et al. 2021, appendix A.

    Its results equal T5X's. The second moment of a matrix is factored if both of its sizes are at
    least 128, for example for a prompt with P = 150 and H = 512. It is never factored for an array
    that is no matrix. The update of each array is clipped as a whole.

    Args:
      learning_rate: A constant or an optax schedule, such as `schedules.learning_rate` makes. The
        state keeps the rate of the last step as `learning_rate`.
      decay_rate: Exponent of the second moment's decay, `1 - t^-decay_rate` at step t = 1, 2, …,
        counted from the step of the loaded model (`start_at`).
      step_offset: Subtracted from the step in that decay. With the step of the loaded model, the
        decay begins at step 1.
      multiply_by_parameter_scale: True multiplies the step by the root mean square of the
        parameter.
      clipping_threshold: Largest root mean square of an update; None for no clipping.
      weight_decay_rate: Share of the parameter subtracted at each step, independent of the
        learning rate; None for none.
      learning_rate_factors: Pairs of a regular expression and a factor of the learning rate. For
        each parameter, the first pair applies whose expression is found in its name. For example,
        `(('up/kernel', 0.1),)` trains `encoder/prompt/up/kernel` at a tenth of the rate.

    Raises:
      InputError: If a setting is no number, or a pair is no regular expression and number. `init`
        raises it if a pair applies to no parameter.
    """
    _check_number("learning_rate", learning_rate, "an optax schedule")
    _check_number("decay_rate", decay_rate)
    _check_number("step_offset", step_offset)
    _check_number("clipping_threshold", clipping_threshold, "None")
    _check_number("weight_decay_rate", weight_decay_rate, "None")
    factors = _checked(learning_rate_factors)
    inner = optax.adafactor(
        learning_rate=learning_rate,
        decay_rate=decay_rate,
        decay_offset=step_offset,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        clipping_threshold=clipping_threshold,
        # No factor applies to the decay.
        weight_decay_rate=None if factors else weight_decay_rate,
        factored=True,
        min_dim_size_to_factor=128,
    )

    of_arrays, kept = _as_matrices_or_vectors(inner), _keep(learning_rate)
    if not factors:
        return optax.chain(of_arrays, kept)
    decay = optax.add_decayed_weights(-(weight_decay_rate or 0.0))
    return optax.chain(of_arrays, _scale_by_name(factors), decay, kept)


class LearningRateState(NamedTuple):
    """The number of steps taken, int32, and the learning rate of the last step, float32."""

    taken: jax.Array
    learning_rate: jax.Array


def _keep(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Keeps the learning rate of each step in the state, and changes no update."""

    def at(count: jax.Array) -> jax.Array:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return jnp.asarray(rate, jnp.float32)

    def init(params: optax.Params) -> LearningRateState:
        del params
        count = jnp.zeros([], jnp.int32)
        return LearningRateState(count, at(count))

    def update(
        updates: optax.Updates, state: LearningRateState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LearningRateState]:
        del params
        return updates, LearningRateState(optax.safe_increment(state.taken), at(state.taken))

    return optax.GradientTransformation(init, update)


def _as_matrices_or_vectors(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Gives a transformation vectors for arrays that are no matrices: optax would factor rank 3."""

    def flat(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf if leaf.ndim == 2 else leaf.reshape(-1), tree)

    def update(
        gradients: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(flat(gradients), state, flat(params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), updates, gradients), state

    return optax.GradientTransformation(lambda params: inner.init(flat(params)), update)


def _scale_by_name(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by the factor for its name."""

    def init(params: optax.Params) -> optax.OptState:
        _factor_of_each(params, factors)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        scales = _factor_of_each(updates, factors)
        return jax.tree.map(lambda one, scale: one * scale, updates, scales), state

    return optax.GradientTransformation(init, update)


def _check_number(name: str, value: object, may_be: str = "") -> None:
    """Refuses a setting that is neither a number of at least 0 nor the other allowed value."""
    is_other = {"None": value is None, "an optax schedule": callable(value)}.get(may_be, False)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if not is_other and not is_number:
        raise InputError(
            f"adafactor.{name} is {value!r}, expected a number of at least 0"
            + (f", or {may_be}" if may_be else "")
        )


def start_at(state: optax.OptState, step: int) -> optax.OptState:
    """Makes Adafactor's decay count from `step` in the state of a new optimizer, as in T5X.

    For example, a released model has the step 1,000,000 or more. The first steps then move the
    second moment by 1e-5 of a squared gradient; counted from 0, they would move it by most of a
    squared gradient. Schedules of the learning rate still count from 0.

    Args:
      state: The result of the optimizer's `init`.
      step: The step of the loaded model.
    """

    def counted(node: Any) -> Any:
        if isinstance(node, optax.FactoredState):
            return node._replace(count=jnp.asarray(step, jnp.int32))
        return node

    return jax.tree.map(counted, state, is_leaf=lambda node: isinstance(node, optax.FactoredState))


def _checked(factors: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Checks learning_rate_factors."""
    for pair in factors:
        try:
            pattern, factor = pair
            re.compile(pattern)
            float(factor)
        except (TypeError, ValueError, re.error) as error:
            raise InputError(
                f"learning_rate_factors has {pair!r} ({error}), expected pairs of a regular "
                "expression and a number: (('regex', 0.1),)"
            ) from None
    return [(pattern, float(factor)) for pattern, factor in factors]


def _factor_of_each(tree: Any, factors: Sequence[tuple[str, float]]) -> Any:
    """Returns the factor of the learning rate for each leaf; refuses a pair of no leaf."""
    names, taken = [], set()

    def factor_of(path: Any, leaf: Any) -> float:
        del leaf
        names.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        for pattern, factor in factors:
            if re.search(pattern, names[-1]):
                taken.add(pattern)
                return factor
        return 1.0

    found = jax.tree_util.tree_map_with_path(factor_of, tree)
    for pattern, _ in factors:
        if pattern not in taken:
            raise InputError(
                f"learning_rate_factors: {pattern!r} matches no trained parameter, or an earlier "
                f"pair matches it first; there are {', '.join(names)}"
            )
    return found
