"""The embedded engine: trains, evaluates and infers on one machine, without TensorFlow.

From Python:

    import prompt_tuning_engine_local as prompt_tuning

    model = prompt_tuning.load_model("t5_small")
    prompt = prompt_tuning.train(model, rows, 100, validation=more_rows)
    prompt.save("my_prompt")
    model.generate(["a text"], prompt)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local import extras, huge_pages

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import RunFlags
    from prompt_tuning_engine_local.api.answering import Model, load_model
    from prompt_tuning_engine_local.api.prompt_values import Prompt, load_prompt
    from prompt_tuning_engine_local.api.train_prompt import PromptTraining, train

__all__ = [
    "LocalEngine",
    "Model",
    "Prompt",
    "PromptTraining",
    "keep_what_is_compiled",
    "load_model",
    "load_prompt",
    "train",
]

_HOMES = {
    "Model": "answering",
    "load_model": "answering",
    "Prompt": "prompt_values",
    "load_prompt": "prompt_values",
    "PromptTraining": "train_prompt",
    "train": "train_prompt",
}
"""The modules of the Python API, imported when a name is first used: they import JAX."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.api.{_HOMES[name]}"), name)


class LocalEngine:
    """The engine `local`: parses the gin files and calls what they configure."""

    def train(self, flags: RunFlags) -> None:
        """Trains a prompt; see `training.train`."""
        self._run("training.train", "TrainingOptions", "runs/prompt_finetune.gin", flags)

    def eval(self, flags: RunFlags) -> None:
        """Evaluates a prompt; see `inference.evaluate`."""
        self._run("inference.evaluate", "EvaluationOptions", "runs/prompt_eval.gin", flags)

    def infer(self, flags: RunFlags) -> None:
        """Answers the texts of a file; see `inference.infer`."""
        self._run("inference.infer", "InferenceOptions", "runs/prompt_infer.gin", flags)

    def _run(self, function: str, options_class: str, runs_file: str, flags: RunFlags) -> None:
        if flags.extra:
            raise InputError(
                f"unknown flag {flags.extra[0]!r}; the local engine takes --gin_file, "
                "--gin_search_paths, --gin.NAME=VALUE and --hooks"
            )
        huge_pages.start_again()  # Before anything slow is imported.
        import importlib

        import gin

        from prompt_tuning_core import gin_config
        from prompt_tuning_files import trained_prompts

        keep_what_is_compiled()
        options = importlib.import_module(f"{__name__}.runs.options")
        try:
            fill = (
                trained_prompts.announce if function == "training.train" else trained_prompts.fill
            )
            parsed = gin_config.parse(flags, engine="local", fill=fill, check=options.check)
        except InputError as e:  # It may come from a module that a gin file imports.
            raise InputError(f"{e}{extras.how_to_install(e.__cause__)}") from e
        for note in parsed.notes:
            sys.stdout.write(f"{note}\n")
        try:
            configured = gin.get_configurable(getattr(options, options_class))
        except (KeyError, ValueError):
            raise InputError(
                f"no gin file configures options.{options_class}: add --gin_file={runs_file}"
            ) from None
        module, _, name = function.partition(".")
        run = getattr(importlib.import_module(f"{__name__}.runs.{module}"), name)
        run(configured(extra_hooks=flags.hooks))


def keep_what_is_compiled() -> None:
    """Lets JAX keep compiled programs on disk, so that a second start is quick.

    Settings of JAX that the user has made stay as they are (`JAX_COMPILATION_CACHE_DIR`,
    `JAX_ENABLE_COMPILATION_CACHE`).
    """
    import os
    from pathlib import Path

    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "prompt-tuning" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # The home folder is read-only: each start compiles.
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
