"""The prompts in a run's directory: the first and the newest one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_files import formats, prompt_files


@dataclasses.dataclass(frozen=True)
class SavedPrompt:
    """A prompt of a run.

    Attributes:
      path: Its file.
      step: The step at which it was saved.
      array: The plain prompt, float32 `[P, H]`; None if its module has no equivalent plain prompt.
      provenance: The provenance in its file, or in the `.json` file next to it.
    """

    path: Path
    step: int
    array: np.ndarray | None
    provenance: Mapping[str, Any]


def first_and_newest(directory: Path) -> list[SavedPrompt]:
    """Reads the prompts of the lowest and of the highest step: none, one or two.

    Raises:
      InputError: If a prompt is damaged.
      PluginError: If no installed format reads it.
    """
    paths = prompt_files.by_step(directory)
    ends = dict.fromkeys([*paths[:1], *paths[-1:]])
    return [_read(path) for path in ends]


def _read(path: Path) -> SavedPrompt:
    prompt = formats.read_prompt(path)
    return SavedPrompt(path, prompt_files.step_of(path) or 0, prompt.array, prompt.provenance)
