"""The engine for many devices and hosts: T5X's own scripts, with our gin files and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import RunFlags

__all__ = ["T5XEngine"]


class T5XEngine:
    """The engine `t5x`: `prompt-tuning train|eval|infer --engine t5x`.

    The same gin files also work in `python -m t5x.train|eval|infer`; docs/t5x.md lists the
    additions of this command.
    """

    def missing(self) -> str | None:
        """Returns an error line if T5X or Flaxformer is not installed; None if both are."""
        from prompt_tuning_core.errors import InputError
        from prompt_tuning_engine_t5x import requirements

        try:
            requirements.check_installed()
        except InputError as error:
            return str(error)
        return None

    def train(self, flags: RunFlags) -> None:
        """Trains a prompt; see `runs/prompt_finetune.gin`."""
        self._run("train", flags)

    def eval(self, flags: RunFlags) -> None:
        """Scores a prompt; see `runs/prompt_eval.gin`."""
        self._run("eval", flags)

    def infer(self, flags: RunFlags) -> None:
        """Answers texts with a prompt; see `runs/prompt_infer.gin`."""
        self._run("infer", flags)

    def _run(self, command: str, flags: RunFlags) -> None:
        from prompt_tuning_engine_t5x import launching

        launching.run(command, flags)
