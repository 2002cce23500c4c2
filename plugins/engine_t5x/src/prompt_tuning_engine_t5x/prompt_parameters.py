"""Finds the prompt's parameters among those of a model."""

from __future__ import annotations

import dataclasses

from prompt_tuning_core.prompts import PromptFactory


@dataclasses.dataclass(frozen=True)
class PromptParameters:
    """Separates the parameters of a prompt module from those of the frozen model, by name.

    Args:
      prompt_factory: Makes the prompt module (the macro PROMPT).
    """

    prompt_factory: PromptFactory

    @property
    def prefix(self) -> str:
        """The beginning of the prompt's names: `encoder/prompt/` or `decoder/prompt/`."""
        return f"{self.prompt_factory().sides[0]}/prompt/"

    def holds(self, name: str) -> bool:
        """Returns True if a parameter, by "/"-joined name, belongs to the prompt module."""
        return name.startswith(self.prefix)

    def is_trained(self, name: str) -> bool:
        """Returns True if a parameter belongs to the prompt module and the module trains it."""
        return self.holds(name) and self.prompt_factory().is_trained(name.removeprefix(self.prefix))
