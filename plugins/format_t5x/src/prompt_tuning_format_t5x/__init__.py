"""Reads models, and the prompts saved with them, from checkpoints of T5X and Orbax.

- `T5X`: a msgpack index named `checkpoint`, with each array as a zarr array next to it or inline.
- `T5XOrbax`: an Orbax checkpoint, which T5X writes by default today.

Neither T5X nor Orbax is needed: msgpack and tensorstore read them.
"""

from __future__ import annotations

from prompt_tuning_core.errors import InputError
from prompt_tuning_files.formats import ModelFile, Prompt
from prompt_tuning_format_t5x.locations import Checkpoint, find_checkpoint

__all__ = ["T5X", "T5XOrbax"]


class _Format:
    """The common part of the two formats: it finds checkpoints, and prompts in their variables."""

    _kind: str

    def recognizes_model(self, path: str) -> bool:
        """See `prompt_tuning_files.formats.ModelFormat`.

        Raises:
          InputError: If `path` is in a bucket that cannot be reached, or cannot be read.
        """
        found = find_checkpoint(path)
        return found is not None and found.kind == self._kind

    def open_model(self, path: str) -> ModelFile:
        """See `prompt_tuning_files.formats.ModelFormat`."""
        found = find_checkpoint(path)
        if found is None or found.kind != self._kind:
            raise InputError(f"model {path}: holds no checkpoint of the form {self._kind}")
        return self._open(found)

    def recognizes_prompt(self, path: str) -> bool:
        """Checks that `path` holds a checkpoint of this form; it may contain a prompt."""
        return self.recognizes_model(path)

    def read_prompt(self, path: str, shape: tuple[int, int] | None = None) -> Prompt:
        """See `prompt_tuning_files.formats.PromptFormat`."""
        from prompt_tuning_format_t5x.checkpoint_model import read_prompt

        return read_prompt(self.open_model(path), path, shape)

    def _open(self, checkpoint: Checkpoint) -> ModelFile:
        raise NotImplementedError


class T5X(_Format):
    """T5X's own checkpoints, such as the released T5 1.1 models.

    Also recognizes checkpoints of Mesh TensorFlow, to raise an error that says how to convert them.
    """

    _kind = "t5x_legacy"

    def recognizes_model(self, path: str) -> bool:
        """See `prompt_tuning_files.formats.ModelFormat`; raises the same errors as `T5XOrbax`."""
        found = find_checkpoint(path)
        return found is not None and found.kind in (self._kind, "tensorflow")

    def open_model(self, path: str) -> ModelFile:
        """See `prompt_tuning_files.formats.ModelFormat`."""
        found = find_checkpoint(path)
        if found is not None and found.kind == "tensorflow":
            raise InputError(
                f"model {path}: a TensorFlow checkpoint, as Mesh TensorFlow wrote T5, mT5 and "
                "ByT5; convert it with python -m t5x.scripts.convert_tf_checkpoint, or use the "
                "model's T5X or Hugging Face copy"
            )
        return super().open_model(path)

    def _open(self, checkpoint: Checkpoint) -> ModelFile:
        from prompt_tuning_format_t5x.msgpack_index import open_checkpoint

        return open_checkpoint(checkpoint)


class T5XOrbax(_Format):
    """Orbax checkpoints, of T5X or of a parameter tree."""

    _kind = "t5x_orbax"

    def _open(self, checkpoint: Checkpoint) -> ModelFile:
        from prompt_tuning_format_t5x.orbax_index import open_checkpoint

        return open_checkpoint(checkpoint)
