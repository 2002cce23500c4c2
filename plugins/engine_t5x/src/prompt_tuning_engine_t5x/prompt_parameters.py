"""Which parameters of a model are the prompt's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from prompt_tuning_core.prompts import PromptModule

PromptFactory = Callable[[], PromptModule]


@dataclasses.dataclass(frozen=True)
class PromptParameters:
    """Tells the parameters of a prompt module from those of the frozen model, by their names.

    Args:
      prompt_factory: Makes the prompt module (the macro PROMPT).
    """

    prompt_factory: PromptFactory

    @property
    def prefix(self) -> str:
        """What the prompt's names begin with: `encoder/prompt/` or `decoder/prompt/`."""
        return f"{self.prompt_factory().side}/prompt/"

    def holds(self, name: str) -> bool:
        """Whether a parameter, by "/"-joined name, is the prompt module's."""
        return name.startswith(self.prefix)

    def is_trained(self, name: str) -> bool:
        """Whether a parameter is the prompt module's and the module trains it."""
        return self.holds(name) and self.prompt_factory().is_trained(name.removeprefix(self.prefix))
