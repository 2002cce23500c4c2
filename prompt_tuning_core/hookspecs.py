"""The events of a run that hooks plugins get, as pluggy specifications.

A hooks plugin is a module (or an object) with functions marked by `hookimpl`, for example
`@hookimpl def step_logged(step, metrics): …`. An entry point of the group `prompt_tuning.hooks`
names it. A run uses it only with `HOOKS = ['its_name']` in gin or with `--hooks`. Instead of a
name, they take a path that ends in `.py`, of a Python file with such functions. It needs no entry
point. An implementation may leave out arguments that it does not use. An exception ends the run
with an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import numpy as np

PROJECT = "prompt_tuning"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def prompt_initialized(
    prompt: np.ndarray | None,
    parameters: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
) -> None:
    """Called once, when the prompt has its first value and before the first step.

    Args:
      prompt: `[P, H]` float32, the plain prompt as initialized; None if there is none.
      parameters: All arrays of the prompt module by name, such as `encoder/prompt/prompts`.
      provenance: The provenance to write with the prompt, as far as it is known now.
    """


@hookspec
def step_logged(step: int, metrics: Mapping[str, float]) -> bool | None:
    """Called whenever the engine logs training metrics, possibly not at every step.

    If it returns True, training ends after this step: the run is saved, evaluated and finished.

    Args:
      step: The number of steps taken, counted as in file names.
      metrics: Training metrics by name, such as `loss`, averaged since the last call.
    """


@hookspec
def evaluated(step: int, metrics: Mapping[str, float]) -> None:
    """Called after each evaluation, during training and in `prompt-tuning eval`.

    Args:
      step: The step of the evaluated prompt. In `eval` it comes from the provenance or the name,
        `prompt_STEP.npy`; if neither has it, it is the step of the frozen model.
      metrics: The task's metrics by name.
    """


@hookspec
def prompt_saved(paths: Sequence[str | os.PathLike[str]], provenance: Mapping[str, Any]) -> None:
    """Called after the files of a prompt and its provenance are complete on disk.

    Args:
      paths: The prompt's files: `.npy` for a plain prompt, `.safetensors` for a prompt module, and
        both for a module that has an equivalent plain prompt. The provenance is the `.json` file in
        the same folder.
      provenance: The content of that file.
    """


@hookspec
def run_finished(run: object) -> None:
    """Called once, after the last save and evaluation of a run that did not fail.

    Args:
      run: The engine's own description of the run; see the engine's documentation.
    """
