"""The frozen model and the vocabulary of a run, if their files are on this machine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_commands_inspect import nearest_pieces
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import formats
from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

NEAREST = 5


@dataclasses.dataclass(frozen=True)
class FrozenTable:
    """The embedding table of a model, read by rows, and its vocabulary.

    Attributes:
      model: The model.
      vocabulary: The vocabulary.
      pieces: The pieces by id.
    """

    model: formats.ModelFile
    vocabulary: SentencePieceVocabulary
    pieces: Sequence[str]

    def nearest(self, prompt: np.ndarray) -> list[list[tuple[str, float]]]:
        """Returns the pieces nearest to each position of a prompt `[P, H]`, with their cosines."""
        ids, cosines = nearest_pieces.nearest_rows(
            self.model, prompt, NEAREST, rows=len(self.pieces)
        )
        return [
            [(self.pieces[number], float(cosine)) for number, cosine in zip(*row, strict=True)]
            for row in zip(ids, cosines, strict=True)
        ]

    def embedding(self, text: str) -> np.ndarray:
        """Returns the mean of the embeddings of a text's pieces, float32 `[H]`."""
        ids = np.asarray(self.vocabulary.encode(text) or [self.vocabulary.eos_id])
        return self.model.rows(EMBEDDING_VARIABLE, ids).mean(axis=0)


def open_table(facts: Mapping[str, Any]) -> FrozenTable:
    """Opens the model that the facts of a run name; does not read its table yet.

    Raises:
      InputError: If a file is not on this machine, or damaged.
      PluginError: If no installed format reads it.
    """
    model, vocabulary = (_on_this_machine(facts, what) for what in ("model", "vocabulary"))
    found = SentencePieceVocabulary(vocabulary)
    pieces = nearest_pieces.read_pieces(found, facts["vocabulary"])
    return FrozenTable(formats.open_model(model), found, pieces)


def _on_this_machine(facts: Mapping[str, Any], what: str) -> str:
    path = facts[what].get("path")
    if not isinstance(path, str) or not os.path.exists(path):
        is_relative = isinstance(path, str) and not os.path.isabs(path) and "://" not in path
        place = "below the current directory" if is_relative else "on this machine"
        raise InputError(f"the {what} {path} is not {place}")
    return path
