"""T5X's optimizers, for the parameters of a prompt only."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.core
import jax
from flax import traverse_util
from t5x import adafactor, optimizers

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptFactory
from prompt_tuning_engine_t5x.prompt_parameters import ModelPrompts, PromptParameters, named


def prompt_only(
    optimizer: optimizers.OptimizerDef,
    prompt_factory: PromptFactory,
    learning_rate_factors: Sequence[tuple[str, float]] = (),
) -> PromptOptimizer:
    """Makes an optimizer that updates only the trained parameters of the prompt module.

    Frozen parameters have no state, and XLA removes the computation of their gradients. T5X's
    Adafactor factors the second moment of a matrix of a prompt if both sizes are at least 128; it
    factors no array of another rank. It counts steps from the step of the loaded checkpoint. The
    local engine's Adafactor does the same.

    Args:
      optimizer: T5X's optimizer for the prompt, such as Adafactor.
      prompt_factory: Makes the prompt module (PROMPT), which decides which parameters it trains.
      learning_rate_factors: Pairs of a regular expression and a factor of the learning rate. For
        each parameter, the first pair applies whose expression is found in its name. For example,
        `(('up/kernel', 0.1),)` trains `encoder/prompt/up/kernel` at a tenth of the rate.

    Raises:
      InputError: If a pair is no regular expression and number.
    """
    factors = [*checked_factors(learning_rate_factors), ("", 1.0)]
    return PromptOptimizer(optimizer, PromptParameters(prompt_factory), factors)


def checked_factors(factors: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Checks learning_rate_factors; see `prompt_only`."""
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


class PromptOptimizer(optimizers.MultiOptimizer):
    """One optimizer for the trained parameters of a prompt; checkpoints hold only its state.

    T5X's class has an empty state for each frozen parameter, which Orbax saves and cannot restore.

    Args:
      optimizer: The prompt's optimizer.
      parameters: Tells which parameters are trained.
      factors: Pairs of a regular expression and a factor of the learning rate. The last expression
        must be found in every name.
    """

    def __init__(
        self,
        optimizer: optimizers.OptimizerDef,
        parameters: PromptParameters,
        factors: Sequence[tuple[str, float]] = (("", 1.0),),
    ) -> None:
        self._optimizer, self._parameters, self._factors = optimizer, parameters, list(factors)
        self._model: ModelPrompts | None = None
        super().__init__(
            # Copies, since each has rules for its own parameters.
            [(self._traversal(group), copy.copy(optimizer)) for group in range(len(factors))]
        )

    def for_model(self, model: ModelPrompts) -> PromptOptimizer:
        """Returns the optimizer for a model, whose prompt modules may have a penalty."""
        parameters = PromptParameters(self._parameters.prompt_factory, model.by_side)
        made = PromptOptimizer(self._optimizer, parameters, self._factors)
        made._model = model if model.has_penalty else None
        return made

    def init_state(self, params: Any) -> Any:
        """Returns the state of the trained parameters."""
        trained = [name for name in named(params) if self._parameters.is_trained(name)]
        groups = {self._group(name) for name in trained}
        for number, (pattern, _) in enumerate(self._factors[:-1]):
            if number not in groups:
                raise InputError(
                    f"learning_rate_factors: {pattern!r} matches no trained parameter, or an "
                    f"earlier pair matches it first; there are {', '.join(trained)}"
                )
        for optimizer in self.sub_optimizers:
            _never_factor_other_ranks(optimizer, named(params))
        return super().init_state(params)

    def apply_gradient(self, hyper_params: Any, params: Any, state: Any, grads: Any) -> Any:
        """Updates the prompt; adds the gradient of its penalty once, not once per microbatch."""
        if self._model is not None:
            grads = _with_gradient_of(self._model, params, grads)
        scaled = [
            each if factor == 1.0 else each.replace(learning_rate=each.learning_rate * factor)
            for each, (_, factor) in zip(hyper_params, self._factors, strict=True)
        ]
        return super().apply_gradient(scaled, params, state, grads)

    def state_dict(self, target: Any, state: Any) -> dict[str, Any]:
        """Returns parameters and state as T5X saves them, without the empty states."""
        whole = super().state_dict(target, state)
        flat = traverse_util.flatten_dict(whole["state"]["param_states"], sep="/")
        trained = {n: v for n, v in flat.items() if not self._is_empty(n, v)}
        whole["state"]["param_states"] = traverse_util.unflatten_dict(trained, sep="/")
        return whole

    def restore_state(self, opt_target: Any, opt_state: Any, state_dict: Any) -> tuple[Any, Any]:
        """Restores the output of `state_dict`."""
        template = super().state_dict(opt_target, opt_state)["state"]["param_states"]
        flat = traverse_util.flatten_dict(template, sep="/")
        states = traverse_util.flatten_dict(state_dict["state"]["param_states"], sep="/")
        empty = {n: None for n, v in flat.items() if self._is_empty(n, v)}
        whole = {
            **state_dict,
            "state": {
                **state_dict["state"],
                "param_states": traverse_util.unflatten_dict({**empty, **states}, sep="/"),
            },
        }
        return super().restore_state(opt_target, opt_state, whole)

    def _is_empty(self, name: str, value: Any) -> bool:
        """Returns True for the state of a frozen parameter, which has that parameter's name."""
        return value is None and not self._parameters.is_trained(name)

    def _group(self, name: str) -> int:
        """Returns the number of the first pair whose expression is found in a name."""
        found = (n for n, (pattern, _) in enumerate(self._factors) if re.search(pattern, name))
        return next(found)

    def _traversal(self, group: int) -> traverse_util.ModelParamTraversal:
        def chosen(path: str, _: Any) -> bool:
            name = path.removeprefix("/")  # A traversal's paths begin with "/".
            return self._parameters.is_trained(name) and self._group(name) == group

        return traverse_util.ModelParamTraversal(chosen)


def _never_factor_other_ranks(optimizer: Any, params: Mapping[str, Any]) -> None:
    """Gives T5X's Adafactor a rule for each parameter, unless the user has given some.

    Without a rule, Adafactor refuses arrays of more than two axes. With the rule None, it factors
    no axis and clips over the whole array.
    """
    if not isinstance(optimizer, adafactor.Adafactor):
        return
    own = optimizer.hyper_params
    if (
        not own.factored
        or own.logical_factor_rules
        or isinstance(own.factor_map, adafactor.HParamMap)
    ):
        return
    rules = {
        name: adafactor.HEURISTIC_RULE if leaf.ndim == 2 else None for name, leaf in params.items()
    }
    optimizer.hyper_params = own.replace(factor_map=rules)


def _with_gradient_of(model: ModelPrompts, params: Any, grads: Any) -> Any:
    """Adds the gradient of the penalty, which depends on the prompt's parameters alone."""
    nested, flat = (
        flax.core.unfreeze(params),
        traverse_util.flatten_dict(flax.core.unfreeze(grads), sep="/"),
    )

    def penalty(prompt: Mapping[str, Any]) -> jax.Array:
        return model.penalty(traverse_util.unflatten_dict(dict(prompt), sep="/"))

    for name, gradient in jax.grad(penalty)(named(nested)).items():
        flat[name] = flat[name] + gradient
    summed = traverse_util.unflatten_dict(flat, sep="/")
    return flax.core.freeze(summed) if isinstance(grads, flax.core.FrozenDict) else summed
