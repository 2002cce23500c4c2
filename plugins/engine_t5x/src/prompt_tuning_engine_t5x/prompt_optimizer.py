"""T5X's optimizers, for the parameters of a prompt only."""

from __future__ import annotations

from typing import Any

from flax import traverse_util
from t5x import optimizers

from prompt_tuning_core.prompts import PromptFactory
from prompt_tuning_engine_t5x.prompt_parameters import PromptParameters


def prompt_only(
    optimizer: optimizers.OptimizerDef, prompt_factory: PromptFactory
) -> PromptOptimizer:
    """Makes an optimizer that updates only the trained parameters of the prompt module.

    Frozen parameters have no state, and XLA removes the computation of their gradients. T5X's
    Adafactor factors the second moment of a prompt if both sizes are at least 128, as for any
    matrix; `logical_factor_rules` for its axes do not change that. It counts from the step of the
    loaded checkpoint. The local engine's Adafactor does the same.

    Args:
      optimizer: T5X's optimizer for the prompt, such as Adafactor.
      prompt_factory: Makes the prompt module (PROMPT), which decides which parameters it trains.
    """
    return PromptOptimizer(optimizer, PromptParameters(prompt_factory))


class PromptOptimizer(optimizers.MultiOptimizer):
    """One optimizer for the trained parameters of a prompt; checkpoints hold only its state.

    T5X's class has an empty state for each frozen parameter, which Orbax saves and cannot restore.

    Args:
      optimizer: The prompt's optimizer.
      parameters: Finds the prompt's parameters.
    """

    def __init__(self, optimizer: optimizers.OptimizerDef, parameters: PromptParameters) -> None:
        # A traversal's paths begin with "/".
        prompt = traverse_util.ModelParamTraversal(
            lambda path, _: parameters.is_trained(path.removeprefix("/"))
        )
        super().__init__([(prompt, optimizer)])
        self._parameters = parameters

    def state_dict(self, target: Any, state: Any) -> dict[str, Any]:
        """Returns parameters and state as T5X saves them, without the empty states."""
        whole = super().state_dict(target, state)
        flat = traverse_util.flatten_dict(whole["state"]["param_states"], sep="/")
        trained = {n: v for n, v in flat.items() if self._parameters.holds(n)}
        whole["state"]["param_states"] = traverse_util.unflatten_dict(trained, sep="/")
        return whole

    def restore_state(self, opt_target: Any, opt_state: Any, state_dict: Any) -> tuple[Any, Any]:
        """Restores the output of `state_dict`."""
        template = super().state_dict(opt_target, opt_state)["state"]["param_states"]
        flat = traverse_util.flatten_dict(template, sep="/")
        states = traverse_util.flatten_dict(state_dict["state"]["param_states"], sep="/")
        empty = {n: None for n in flat if not self._parameters.holds(n)}
        whole = {
            **state_dict,
            "state": {
                **state_dict["state"],
                "param_states": traverse_util.unflatten_dict({**empty, **states}, sep="/"),
            },
        }
        return super().restore_state(opt_target, opt_state, whole)
