"""Calls hooks plugins when T5X logs: by T5X's actions in training, seqio's loggers in `eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import seqio
from t5x import trainer

from prompt_tuning_core import registry
from prompt_tuning_files import trained_prompts

if TYPE_CHECKING:
    from t5x import train_state


def actions(hooks: Sequence[str] = ()) -> dict[str, list[trainer.BaseAction]] | None:
    """Returns the actions that call hooks plugins, for `t5x.train.train`.

    Args:
      hooks: Names of hooks plugins (HOOKS). `step_logged` is called when T5X logs training metrics,
        `evaluated` after each evaluation with decoding, on the first process.

    Returns:
      None without plugins.

    Raises:
      PluginError: If one cannot be used.
    """
    if not hooks:
        return None
    hook = registry.process_registry().load_hooks(hooks)
    answers: list[object] = []  # T5X keeps only the last action's answer.
    return {
        "TRAIN": [_Teller(hook.step_logged, answers)],
        "INFER_EVAL": [_Teller(hook.evaluated, answers)],
    }


def concurrent_metrics(hooks: Sequence[str] = ()) -> bool:
    """Returns True if no plugin waits for metrics: T5X may then compute them while it trains."""
    return not hooks


class _Teller(trainer.BaseAction):
    """Calls one hook with the step and the metrics of all tasks.

    Args:
      hook: The hook.
      answers: The values that plugins have returned so far, for all hooks.
    """

    def __init__(self, hook: Any, answers: list[object]) -> None:
        self._hook, self._answers = hook, answers

    def run(
        self, train_state: train_state.TrainState, metrics_by_task: Mapping[str, Mapping[str, Any]]
    ) -> bool:
        """Calls the plugins; returns True if a plugin has ended the run."""
        metrics = {}
        for task, values in metrics_by_task.items():
            prefix = f"{task}/" if len(metrics_by_task) > 1 else ""
            metrics.update({prefix + name: value for name, value in _numbers(values).items()})
        step = train_state.step
        if isinstance(step, jax.Array):
            step = step.addressable_data(0)
        self._answers += self._hook(step=int(step), metrics=metrics)
        return True in self._answers


class EvaluationLogger(seqio.Logger):
    """Calls the hook `evaluated` with a task's metrics; for `seqio.Evaluator.logger_cls`.

    Args:
      output_dir: Passed by seqio to each logger; not used.
      hooks: Names of hooks plugins (HOOKS).
      prompt_file: The file of the prompt: plugins get its step. With None, or if the prompt's step
        is not known, they get the step of the checkpoint (PROMPT_FILE).

    Raises:
      PluginError: If one cannot be used.
      InputError: If the prompt file cannot be read.
    """

    def __init__(
        self, output_dir: str, hooks: Sequence[str] = (), prompt_file: str | None = None
    ) -> None:
        super().__init__(output_dir)
        self._hook = registry.process_registry().load_hooks(hooks)
        prompt = trained_prompts.find(prompt_file) if hooks and prompt_file else None
        self._prompt_step = None if prompt is None else prompt.step

    def __call__(
        self,
        task_name: str,
        step: int | None,
        metrics: Mapping[str, Any],
        dataset: Any,
        inferences: Any,
        targets: Any,
    ) -> None:
        """Calls the plugins; see `seqio.Logger` for the parameters."""
        del task_name, dataset, inferences, targets
        told = int(step or 0) if self._prompt_step is None else self._prompt_step
        self._hook.evaluated(step=told, metrics=_numbers(metrics))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics that are single numbers, without texts and histograms."""
    found = {}
    for name, value in metrics.items():
        number = np.asarray(getattr(value, "value", value))
        if number.ndim == 0 and np.issubdtype(number.dtype, np.number):
            found[name] = float(number)
    return found
