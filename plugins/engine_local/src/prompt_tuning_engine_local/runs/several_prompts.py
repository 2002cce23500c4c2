"""Several plain prompts for one frozen model: one for each example, or all for every example."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_engine_local.model.prompt_of_each import PromptChoice, PromptOfEach, PromptTable
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_local.runs import defaults
from prompt_tuning_engine_local.runs.options import AnsweringOptions
from prompt_tuning_files import loaded_prompts
from prompt_tuning_tasks import Example

VOTE, MEAN_LOGIT = "vote", "mean_logit"
"""The two answers of an ensemble: the most frequent one, and the one of the mean logits."""


@dataclasses.dataclass(frozen=True)
class SeveralPrompts:
    """Prompts by name (PROMPT_FILES).

    Attributes:
      names: The name of each prompt.
      table: The values of the prompts.
    """

    names: Sequence[str]
    table: PromptTable

    @classmethod
    def of(cls, options: AnsweringOptions) -> SeveralPrompts | None:
        """Reads the prompts in PROMPT_FILES; None if there is one prompt for all examples.

        Raises:
          InputError: In the cases of `read`, and if a prompt has the name of an ensemble's answer.
        """
        files = options.prompt_files
        taken = {VOTE, MEAN_LOGIT} & set(files or ()) if options.prompt_column is None else ()
        if taken:
            raise InputError(
                f"PROMPT_FILES has the name {min(taken)!r}, which is that of an answer of all "
                "prompts together; give the prompt another name"
            )
        return None if files is None else cls.read(files, options.model)

    @classmethod
    def read(cls, files: Mapping[str, str], model: EncoderDecoderModel) -> SeveralPrompts:
        """Reads the prompts.

        Args:
          files: The file of each prompt, by name.
          model: The model of the prompts.

        Raises:
          InputError: If a prompt cannot be read, is not plain, does not have the width of the
            model, or was trained with another vocabulary.
        """
        found = [defaults.load_prompt(path) for path in files.values()]
        matrices = loaded_prompts.plain_matrices(found, model.config.emb_dim, model.vocabulary)
        return cls(tuple(files), PromptTable.of(matrices))

    def named_by(self, examples: Sequence[Example], column: str) -> PromptChoice:
        """Returns the prompt that each example names.

        Args:
          examples: The examples, with their columns.
          column: The column that has the name (PROMPT_COLUMN).

        Raises:
          InputError: If an example has no such column, or names no prompt.
        """
        numbers = []
        for example in examples:
            place = example.place or "an example"
            if column not in example.columns:
                raise InputError(
                    f"{place}: has no column {column!r}{nearest(column, example.columns)}, and "
                    "PROMPT_COLUMN says that it names the prompt"
                )
            name = example.columns[column]
            if name not in self.names:
                raise InputError(
                    f"{place}: the column {column!r} names the prompt {name!r}, which PROMPT_FILES "
                    f"lacks{nearest(str(name), self.names)}"
                )
            numbers.append(self.names.index(str(name)))
        return PromptChoice(self.table, np.array(numbers, np.int32))

    def every(self, examples: int) -> PromptChoice:
        """Returns every prompt for each example; the copies of an example follow each other."""
        numbers = np.tile(np.arange(len(self.names), dtype=np.int32), examples)
        return PromptChoice(self.table, numbers)


def model_for(model: EncoderDecoderModel) -> EncoderDecoderModel:
    """Returns a model that takes a `PromptChoice`, with the network and the decoding of `model`."""
    return EncoderDecoderModel(
        model.config, model.vocabulary, PromptOfEach, decode_fn=model.decode_fn
    )
