"""Makes the options of a run from gin files, and runs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin

from prompt_tuning_core import gin_config
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_engine_local import extras
from prompt_tuning_engine_local.runs import options
from prompt_tuning_files import trained_prompts


class _Command(NamedTuple):
    """A command of the engine.

    Attributes:
      module: The module in this folder with the function; it is imported when the command runs.
      function: Takes the options.
      options: The class of the options.
      runs_file: The gin file that configures them.
      fill: Gives values to missing macros.
    """

    module: str
    function: str
    options: type
    runs_file: str
    fill: gin_config.FillMacros


_COMMANDS = {
    "train": _Command(
        "training",
        "train",
        options.TrainingOptions,
        "runs/prompt_finetune.gin",
        trained_prompts.announce,
    ),
    "eval": _Command(
        "inference",
        "evaluate",
        options.EvaluationOptions,
        "runs/prompt_eval.gin",
        trained_prompts.fill,
    ),
    "infer": _Command(
        "inference",
        "infer",
        options.InferenceOptions,
        "runs/prompt_infer.gin",
        trained_prompts.fill,
    ),
}


def run(command: str, flags: RunFlags) -> None:
    """Runs `train`, `eval` or `infer`.

    Raises:
      PromptTuningError: If a file, a value or a plugin cannot be used.
    """
    found, notes = configured(command, flags)
    for note in notes:
        sys.stdout.write(f"{note}\n")
    named = _COMMANDS[command]
    module = importlib.import_module(f"{__package__}.{named.module}")
    getattr(module, named.function)(found)


def configured(command: str, flags: RunFlags) -> tuple[Any, Sequence[str]]:
    """Returns the options of a command, and lines about the values that were filled in.

    Raises:
      InputError: If the files or the values cannot be used.
      PluginError: If a plugin that they name cannot be used.
    """
    named = _COMMANDS[command]
    try:
        parsed = gin_config.parse(flags, engine="local", fill=named.fill, check=options.check)
    except InputError as e:  # Perhaps from a module that a gin file imports.
        raise InputError(f"{e}{extras.how_to_install(e.__cause__)}") from e
    try:
        make = gin.get_configurable(named.options)
    except (KeyError, ValueError):
        raise InputError(
            f"no gin file configures options.{named.options.__name__}: add "
            f"--gin_file={named.runs_file}"
        ) from None
    return make(extra_hooks=flags.hooks), parsed.notes
