"""The engine's default plugins in Python; `models/t5_common.gin` names the same."""

from __future__ import annotations

import os

from prompt_tuning_core import registry
from prompt_tuning_core.prompts import PromptFactory, PromptModule
from prompt_tuning_core.protocols import Initializer
from prompt_tuning_files import loaded_prompts
from prompt_tuning_files.loaded_prompts import Prompt


def prompt_module(length: int = 0) -> PromptModule:
    """Makes the plain prompt module, with P = `length` vectors."""
    made: PromptModule = registry.process_registry().load("prompt", "prompt_basic")(length=length)
    return made


def initializer() -> Initializer:
    """Makes the initializer of random uniform values in [0, 0.5)."""
    made: Initializer = registry.process_registry().load("initializer", "init_random")(scale=0.5)
    return made


def load_prompt(path: str | os.PathLike[str], module: PromptFactory | None = None) -> Prompt:
    """Reads a prompt.

    Args:
      path: A prompt file of any installed form, the directory of a run, or the name of a prompt
        that a catalog has.
      module: Makes its prompt module; needed only for a class that no plugin provides.

    Raises:
      InputError: If there is none, if it is damaged, or if its values are not finite.
      PluginError: If the plugin of its prompt module cannot be used.
    """
    return loaded_prompts.load(path, prompt_module, module)
