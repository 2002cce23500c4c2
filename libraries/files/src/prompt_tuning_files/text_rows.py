"""The rows of a table that stand for a text: the ids of its pieces in a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_tuning_core.errors import InputError

if TYPE_CHECKING:
    from prompt_tuning_files.embeddings import EmbeddingTable
    from prompt_tuning_files.vocabularies import Vocabulary

__all__ = ["check_ids", "check_vocabulary", "piece_ids"]


def check_vocabulary(vocab: Any) -> None:
    """Checks that `vocab` is a vocabulary, without a call of its methods.

    Raises:
      InputError: If it has no `encode`.
    """
    # A str has a method `encode` too; it may be a vocabulary's path, given by mistake.
    if isinstance(vocab, str) or not callable(getattr(vocab, "encode", None)):
        raise InputError(
            f"vocab is {vocab!r}, expected something with encode(str) -> ids; set VOCABULARY"
        )


def piece_ids(vocab: Vocabulary, text: str, what: str) -> np.ndarray:
    """Returns the ids `[n]` of the pieces of `text`, at least one, as int64.

    Args:
      vocab: The vocabulary.
      text: The text to encode.
      what: The name of the text in errors.

    Raises:
      InputError: If there are no pieces, or they aren't integers.
    """
    ids = np.asarray(vocab.encode(text))
    if ids.size == 0:
        raise InputError(f"{what} {text!r} has no pieces in this vocabulary; give it other words")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(
            f"{what} {text!r}: vocab.encode returned {ids.dtype} of shape {ids.shape}, expected "
            "a sequence of ids"
        )
    return ids.astype(np.int64)


def check_ids(table: EmbeddingTable, ids: np.ndarray, text: str, what: str) -> None:
    """Checks that the ids `[n]` of the pieces of `text` are rows of `table`.

    Raises:
      InputError: If not; names the text, the id and the table's size.
    """
    outside = ids[(ids < 0) | (ids >= table.shape[0])]
    if outside.size:
        raise InputError(
            f"{what} {text!r} has a piece with id {outside[0]}, but {table} has "
            f"{table.shape[0]} rows; use the vocabulary and the table of one model"
        )
