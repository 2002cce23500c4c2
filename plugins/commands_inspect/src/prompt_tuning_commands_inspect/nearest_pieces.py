"""Finds the pieces of a vocabulary that are nearest to the positions of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.formats import ModelFile
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

_BLOCK_BYTES = 16 << 20


def read_pieces(
    vocabulary: SentencePieceVocabulary, trained_with: Mapping[str, Any] | None = None
) -> list[str]:
    """Reads the pieces of a vocabulary by id, T5's extra ids included.

    Args:
      vocabulary: The vocabulary.
      trained_with: The vocabulary in the prompt's provenance: `sha256`, the checksum that the file
        must have, and `size`, the number of ids; None if the provenance has none.

    Raises:
      InputError: If the file cannot be read, or has another checksum.
    """
    known = trained_with or {}
    path, expected, size = (
        vocabulary.sentencepiece_model_file,
        known.get("sha256"),
        known.get("size"),
    )
    if expected not in (None, vocabulary.sha256):
        raise InputError(
            f"vocabulary {path}: its sha256 is {vocabulary.sha256}, and the provenance of the "
            f"prompt names {expected}; give the vocabulary that it was trained with"
        )
    pieces = vocabulary.pieces
    in_file = len(pieces) - vocabulary.added_ids
    # The vocabulary may have had fewer extra ids than T5's 100: drop the last ones.
    if expected is not None and isinstance(size, int) and in_file <= size != len(pieces):
        extra_ids = vocabulary.extra_ids + size - len(pieces)
        return SentencePieceVocabulary(path, extra_ids).pieces
    return pieces


def nearest_rows(
    model: ModelFile, prompt: np.ndarray, count: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows of a model's embedding table that are nearest to each position of a prompt.

    It reads the table in blocks, and keeps one block in memory.

    Args:
      model: The model.
      prompt: float32 `[P, H]`, finite.
      count: Number of rows to find for each position; all rows if there are fewer.
      rows: Number of rows to compare, from the first on: one for each id of the vocabulary.

    Returns:
      int `[P, count]` and float32 `[P, count]`: ids and cosines, nearest first. Of equal cosines,
      the lowest id comes first.

    Raises:
      InputError: If the model has no such table, its width is not H, it has fewer rows, or its
        data is damaged.
    """
    table = model.variables.get(EMBEDDING_VARIABLE)
    if table is None or len(table.shape) != 2:
        raise InputError(f"the model has no embedding table {EMBEDDING_VARIABLE!r}")
    if table.shape[1] != prompt.shape[1]:
        raise InputError(
            f"the prompt has the width {prompt.shape[1]}, and the model {table.shape[1]}; give "
            "the model that it was trained for"
        )
    if table.shape[0] < rows:
        raise InputError(
            f"the vocabulary has {rows} ids, and the model's embedding table {table.shape[0]} "
            "rows; give the vocabulary of this model"
        )
    directions = _normalized(prompt)
    ids = np.empty((len(prompt), 0), np.int64)
    cosines = np.empty((len(prompt), 0), np.float32)
    block = max(1, _BLOCK_BYTES // (4 * prompt.shape[1]))
    for start in range(0, rows, block):
        some = np.arange(start, min(start + block, rows))
        new = directions @ _normalized(model.rows(EMBEDDING_VARIABLE, some)).T
        ids = np.concatenate([ids, np.broadcast_to(some, new.shape)], axis=1)
        cosines = np.concatenate([cosines, new], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        ids = np.take_along_axis(ids, order, axis=1)
        cosines = np.take_along_axis(cosines, order, axis=1)
    return ids, cosines


def _normalized(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
