"""The prompt in PROMPT_FILE: the file that this means, and what its provenance tells."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Mapping
from typing import Any

from prompt_tuning_core import formats, prompt_files


@dataclasses.dataclass(frozen=True)
class TrainedPrompt:
    """A prompt that was trained before.

    Attributes:
      path: Its file or directory; for the directory of a run, the one that is taken.
      length: P, how many positions it has.
      provenance: What is written beside it; empty if nothing is.
    """

    path: str
    length: int
    provenance: Mapping[str, Any]

    @property
    def step(self) -> int | None:
        """The step at which it was saved, by its provenance or its name; None if neither says."""
        step = self.provenance.get("step")
        return step if isinstance(step, int) else prompt_files.step_of(self.path)


def find(path: str | os.PathLike[str]) -> TrainedPrompt | None:
    """Finds the prompt that PROMPT_FILE means.

    Args:
      path: A prompt of any installed form, or the directory of a run; see `formats.locate_prompt`.

    Returns:
      The prompt; None for a `.npz` archive, of which an array's name may choose one of several.

    Raises:
      InputError: If there is none, or it cannot be read.
    """
    if os.path.isfile(path) and zipfile.is_zipfile(path):
        return None
    located = formats.locate_prompt(path)
    prompt = located.format.read_prompt(located.path)
    return TrainedPrompt(located.path, prompt.array.shape[0], prompt.provenance)
