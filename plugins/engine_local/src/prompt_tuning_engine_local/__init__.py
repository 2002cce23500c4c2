"""The embedded engine: trains, evaluates and infers on one machine, without TensorFlow.

From Python:

    import prompt_tuning_engine_local as prompt_tuning

    model = prompt_tuning.load_model("t5_small")
    prompt = prompt_tuning.train(model, rows, 100, validation=more_rows)
    prompt.save("my_prompt")
    model.generate(["a text"], prompt)
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local import huge_pages

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import RunFlags
    from prompt_tuning_engine_local.api.answering import Ensemble, Model, load_model
    from prompt_tuning_engine_local.api.train_prompt import PromptTraining, train
    from prompt_tuning_engine_local.runs.defaults import load_prompt
    from prompt_tuning_files.loaded_prompts import Prompt

__all__ = [
    "Ensemble",
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
    "Ensemble": "api.answering",
    "Model": "api.answering",
    "load_model": "api.answering",
    "Prompt": "runs.defaults",
    "load_prompt": "runs.defaults",
    "PromptTraining": "api.train_prompt",
    "train": "api.train_prompt",
}
"""The modules of the Python API, imported when a name is first used: they import JAX."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


class LocalEngine:
    """The engine `local`: parses the gin files and calls the function that they configure."""

    def train(self, flags: RunFlags) -> None:
        """Trains a prompt; see `training.train`."""
        self._run("train", flags)

    def eval(self, flags: RunFlags) -> None:
        """Evaluates a prompt; see `inference.evaluate`."""
        self._run("eval", flags)

    def infer(self, flags: RunFlags) -> None:
        """Answers the texts of a file; see `inference.infer`."""
        self._run("infer", flags)

    def _run(self, command: str, flags: RunFlags) -> None:
        refuse_other_flags(flags)
        set_up_command()  # Before anything slow is imported.
        from prompt_tuning_engine_local.runs import from_gin

        from_gin.run(command, flags)


def refuse_other_flags(flags: RunFlags) -> None:
    """Refuses flags that this engine does not know.

    Raises:
      InputError: If there is one.
    """
    if flags.extra:
        raise InputError(
            f"unknown flag {flags.extra[0]!r}; the local engine takes --gin_file, "
            "--gin_search_paths, --gin.NAME=VALUE and --hooks"
        )


def set_up_command() -> None:
    """Sets up the process of a command of this engine, so that it starts and computes quickly."""
    huge_pages.start_again()
    # Tracing makes hundreds of thousands of objects that stay. With Python's usual threshold of
    # about a thousand new objects, looking for garbage takes a tenth of the start.
    gc.set_threshold(100_000)
    keep_what_is_compiled()


def keep_what_is_compiled() -> None:
    """Lets JAX keep compiled programs on disk, so that a second start is quick.

    It does not change settings of JAX that the user has made (`JAX_COMPILATION_CACHE_DIR`,
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
