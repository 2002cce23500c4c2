"""What a hooks plugin can be told of while an engine runs, as pluggy specifications.

A hooks plugin is a module (or an object) with functions marked by `hookimpl`, named by an entry
point of the group `prompt_tuning.hooks`:

    from prompt_tuning_core.hookspecs import hookimpl

    @hookimpl
    def step_logged(step, metrics):
        ...

It runs only in a run that asks for it, by `HOOKS = ['its_name']` in gin or by `--hooks`. An
implementation may leave out arguments that it does not use; what it returns is ignored, and what
it raises stops the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import numpy as np

PROJECT = "prompt_tuning"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def prompt_initialized(prompt: np.ndarray, provenance: Mapping[str, Any]) -> None:
    """Called once, when the prompt has its first value and before the first step.

    Args:
      prompt: `[P, H]` float32, the prompt as initialized.
      provenance: What will be written beside the prompt, as far as it is known by now.
    """


@hookspec
def step_logged(step: int, metrics: Mapping[str, float]) -> None:
    """Called whenever the engine logs training metrics, which need not be at every step.

    Args:
      step: The number of steps taken, counted as in file names.
      metrics: Training metrics by name, such as `loss`, averaged since the last call.
    """


@hookspec
def evaluated(step: int, metrics: Mapping[str, float]) -> None:
    """Called after each evaluation, during training and in `prompt-tuning eval`.

    Args:
      step: The step of the prompt that was evaluated: in `eval` by its provenance or its name,
        `prompt_STEP.npy`; the frozen model's step where neither says.
      metrics: The task's metrics by name.
    """


@hookspec
def prompt_saved(path: str | os.PathLike[str], provenance: Mapping[str, Any]) -> None:
    """Called after a prompt file and its provenance are complete on disk.

    Args:
      path: The prompt's `.npy` file; the provenance lies beside it as `.json`.
      provenance: What that file says.
    """


@hookspec
def run_finished(run: object) -> None:
    """Called once, after the last save and evaluation of a run that did not fail.

    Args:
      run: The engine's own description of the run; an engine documents what it holds.
    """
