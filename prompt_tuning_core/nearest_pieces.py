"""The pieces of a vocabulary that lie nearest to the positions of a prompt."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from prompt_tuning_core.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.formats import ModelFile

EXTRA_IDS = 100
"""How many ids T5's vocabularies have besides the pieces of the SentencePiece model."""

_BLOCK_BYTES = 16 << 20


def read_pieces(path: str | os.PathLike[str], sha256: str | None = None) -> list[str]:
    """Reads the pieces of a SentencePiece model by id, T5's extra ids after them.

    Args:
      path: The file.
      sha256: The checksum that it must have; None for any.

    Raises:
      InputError: If the package `sentencepiece` is missing, or `path` is no SentencePiece model,
        or another than expected.
    """
    try:
        import sentencepiece
    except ImportError:
        raise InputError(
            "reading a vocabulary needs the package sentencepiece; run: pip install sentencepiece"
        ) from None
    try:
        with open(path, "rb") as file:
            serialized = file.read()
    except OSError as error:
        raise InputError(f"vocabulary {path}: cannot be read: {error.strerror}") from None
    found = hashlib.sha256(serialized).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"vocabulary {path}: its sha256 is {found}, and the provenance of the prompt names "
            f"{sha256}; give the vocabulary that it was trained with"
        )
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(serialized)
    except RuntimeError:
        raise InputError(f"vocabulary {path}: not a SentencePiece model") from None
    pieces = [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
    if not pieces:
        raise InputError(f"vocabulary {path}: not a SentencePiece model: it has no pieces")
    # The highest number first, as T5 counts its sentinels.
    return pieces + [f"<extra_id_{number}>" for number in reversed(range(EXTRA_IDS))]


def nearest_rows(
    model: ModelFile, prompt: np.ndarray, count: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows of a model's embedding table that are nearest to each position of a prompt.

    The table is read in blocks, of which one is in memory at a time.

    Args:
      model: The model.
      prompt: float32 `[P, H]`, finite.
      count: How many to find for each position; all, if there are fewer.
      rows: Only the first rows of the table are compared: those of the vocabulary's ids.

    Returns:
      int `[P, count]` and float32 `[P, count]`: ids and cosines, nearest first; of equal ones the
      lowest id.

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
