"""Embeddings of the class labels.

References:
  Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021,
  https://arxiv.org/abs/2104.08691, section 3.2 ("class label": a label of several tokens is the
  mean of their embeddings, and the remaining positions are sampled from the vocabulary).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import git_lfs, readable
from prompt_tuning_files.embeddings import as_table
from prompt_tuning_files.initial_values import WarnOnce, check_width, fill, prompt_shape
from prompt_tuning_files.text_rows import check_ids, check_vocabulary, piece_ids

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import Initializer
    from prompt_tuning_files.embeddings import EmbeddingTable
    from prompt_tuning_files.vocabularies import Vocabulary

__all__ = ["init_labels"]

Aggregate = Callable[[np.ndarray], np.ndarray]

_AGGREGATES: Mapping[str, Aggregate] = {
    "mean": lambda pieces: pieces.mean(axis=0),
    "sum": lambda pieces: pieces.sum(axis=0),
    "first": lambda pieces: pieces[0],
    "max": lambda pieces: pieces.max(axis=0),
}
_EXPECTED_TEXTS = "expected labels such as ['yes', 'no'], or a file's path (one label a line)"


def init_labels(
    embeddings: EmbeddingTable | np.ndarray | jax.Array,
    vocab: Vocabulary,
    texts: Sequence[str] | str | os.PathLike[str],
    initializer: Initializer | None = None,
    aggregate: str | Aggregate = "mean",
    allow_truncation: bool = False,
) -> Initializer:
    """Makes an initializer of the embeddings of class labels, one label at each position.

    It reads only the rows of the labels' pieces, even within `jax.jit`.

    Args:
      embeddings: The table `[V, H]`, float16 to float64; `prompt_tuning_files.embeddings.np_load`
        or `checkpoint_load`, or an array.
      vocab: Splits a label into pieces: anything with `encode(str) -> ids`.
      texts: The labels as a list or tuple; or the path of a UTF-8 file with one label on each line
        and no blank line. The file is read when the initializer is called.
      initializer: Fills the positions after the labels; `init_vocab` is the paper's. None is
        uniform with scale 0.01.
      aggregate: Makes one vector from a label's pieces: "mean", "sum", "first", "max", or a
        function from float32 `[n, H]` to `[H]`.
      allow_truncation: True leaves out labels for which the prompt has no position, with a warning
        that names them. False makes them an error.

    Returns:
      A function `(rng, shape) -> [P, H]` float32. It raises `InputError`, a `ValueError`, if
      `shape` isn't `(P, H)` with sizes of at least 1, if H isn't the table's, if there are more
      labels than positions, if a label has no pieces or a piece outside the table, or if a file
      can't be read.

    Raises:
      InputError: If an argument is of the wrong kind, `texts` is empty or has an empty label, or
        `aggregate` is unknown.
    """
    table = as_table(embeddings)
    check_vocabulary(vocab)
    read_labels = _label_source(texts)
    combine = _aggregate(aggregate)
    warn_once = WarnOnce()

    def initialize(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        length, width = prompt_shape(shape)
        check_width(table, width)
        labels = read_labels()
        if len(labels) > length and not allow_truncation:
            raise InputError(
                f"{len(labels)} labels for a prompt of length {length}; set PROMPT_LENGTH to at "
                f"least {len(labels)}, or allow_truncation to leave out the last "
                f"{len(labels) - length}"
            )
        pieces = [_pieces(vocab, label, table) for label in labels][:length]
        if len(labels) > length:
            warn_once(f"the prompt of length {length} leaves out the labels {labels[length:]}")
        for equal in _with_equal_pieces(labels, pieces):
            warn_once(f"the labels {equal} have the same pieces, and so the same vector")
        values = _vectors(table, labels[:length], pieces, combine)
        return fill(values, initializer, rng, (length, width))

    return initialize


def _label_source(texts: Any) -> Callable[[], tuple[str, ...]]:
    """Checks `texts`; returns a function that returns the labels, and reads a file each time."""
    if not isinstance(texts, str | os.PathLike):
        labels = _checked_labels(texts)
        return lambda: labels
    path = os.fspath(texts)
    if not path:
        raise InputError(f"texts is '', {_EXPECTED_TEXTS}; set CLASS_LABELS")
    return lambda: _read_labels(Path(path))


def _checked_labels(texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list | tuple):
        raise InputError(f"texts is {texts!r}, {_EXPECTED_TEXTS}; set CLASS_LABELS")
    if not texts:
        raise InputError(f"texts is empty, {_EXPECTED_TEXTS}; set CLASS_LABELS")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"texts has the label {text!r}, expected a string with characters")
    return tuple(texts)


def _read_labels(path: Path) -> tuple[str, ...]:
    """Reads a file with one label on each line."""
    readable.check_is_file(path, f"texts: {path}")
    try:
        # utf-8-sig: some editors write a byte order mark, which is no part of the first label.
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"texts: can't read {path}: {error.strerror}; {_EXPECTED_TEXTS}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"texts: {path} isn't UTF-8: {error.reason}; save it as UTF-8") from error
    git_lfs.refuse(content.encode(), f"texts: {path}")
    lines = content.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"texts: {path}, line {number} is blank, expected one label a line")
    return tuple(lines)


def _pieces(vocab: Vocabulary, label: str, table: EmbeddingTable) -> np.ndarray:
    ids = piece_ids(vocab, label, "label")
    check_ids(table, ids, label, "label")
    return ids


def _with_equal_pieces(labels: Sequence[str], pieces: Sequence[np.ndarray]) -> list[list[str]]:
    """Returns groups of labels with the same pieces: equal labels, or labels that are unknown.

    For example, an English vocabulary has only its unknown piece for any label in Chinese.
    """
    groups: dict[bytes, list[str]] = {}
    for label, ids in zip(labels, pieces, strict=False):  # Labels past the end have no ids.
        groups.setdefault(ids.tobytes(), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _vectors(
    table: EmbeddingTable, labels: Sequence[str], pieces: Sequence[np.ndarray], combine: Aggregate
) -> np.ndarray:
    """Makes one vector from the pieces of each label, `[labels, H]` float32; reads rows once."""
    width = table.shape[1]
    rows = table.rows(np.concatenate(pieces))
    ends = np.cumsum([len(ids) for ids in pieces])[:-1]
    values = np.empty((len(pieces), width), np.float32)
    for i, vectors in enumerate(np.split(rows, ends)):
        value = np.asarray(combine(vectors))
        if value.shape != (width,):
            raise InputError(
                f"aggregate made shape {value.shape} from the pieces of label {labels[i]!r}, "
                f"expected ({width},)"
            )
        values[i] = value
    return values


def _aggregate(aggregate: str | Aggregate) -> Aggregate:
    if isinstance(aggregate, str) and aggregate in _AGGREGATES:
        return _AGGREGATES[aggregate]
    if isinstance(aggregate, str) or not callable(aggregate):
        raise InputError(
            f"aggregate is {aggregate!r}, expected one of {', '.join(_AGGREGATES)} or a function"
            f"{nearest(str(aggregate), _AGGREGATES)}"
        )
    return aggregate
