"""Embeddings of a text, one piece at each position: a soft prompt that starts as a hard prompt.

References:
  Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021,
  https://arxiv.org/abs/2104.08691, section 3.2 ("class label": a prompt may start from the
  embeddings of words; here these are the words of any text).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files.embeddings import as_table
from prompt_tuning_files.initial_values import WarnOnce, check_width, fill, prompt_shape
from prompt_tuning_files.text_rows import check_ids, check_vocabulary, piece_ids

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import Initializer
    from prompt_tuning_files.embeddings import EmbeddingTable
    from prompt_tuning_files.vocabularies import Vocabulary

__all__ = ["init_string"]


def init_string(
    embeddings: EmbeddingTable | np.ndarray | jax.Array,
    vocab: Vocabulary,
    text: str,
    initializer: Initializer | None = None,
    add_eos: bool = False,
    allow_truncation: bool = False,
) -> Initializer:
    """Makes an initializer of the embeddings of the pieces of a text.

    It reads only the rows of the pieces, even within `jax.jit`.

    Args:
      embeddings: The table `[V, H]`, float16 to float64; `prompt_tuning_files.embeddings.np_load`
        or `checkpoint_load`, or an array.
      vocab: Splits the text into pieces: anything with `encode(str) -> ids`.
      text: The text.
      initializer: Fills the positions after the text. None is uniform with scale 0.01.
      add_eos: True makes EOS the text's last piece; its id is `vocab.eos_id`, a number or a method.
        False leaves EOS out, even if `vocab.encode` appends one.
      allow_truncation: True leaves out pieces for which the prompt has no position, with a
        warning. False makes them an error.

    Returns:
      A function `(rng, shape) -> [P, H]` float32. It raises `InputError`, a `ValueError`, if
      `shape` isn't `(P, H)` with sizes of at least 1, if H isn't the table's, if there are more
      pieces than positions, if the text has no pieces or a piece outside the table, if `add_eos` is
      True and EOS has no id, or if the table can't be read.

    Raises:
      InputError: If an argument is of the wrong kind or `text` is blank.
    """
    table = as_table(embeddings)
    check_vocabulary(vocab)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"text is {text!r}, expected a text; set PROMPT_STRING")
    warn_once = WarnOnce()

    def initialize(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        length, width = prompt_shape(shape)
        check_width(table, width)
        ids = _text_ids(vocab, text, add_eos)
        check_ids(table, ids, text, "text")
        if len(ids) > length:
            if not allow_truncation:
                raise InputError(
                    f"text {text!r} has {len(ids)} pieces for a prompt of length {length}; set "
                    f"PROMPT_LENGTH to at least {len(ids)}, or allow_truncation to leave out the "
                    f"last {len(ids) - length}"
                )
            warn_once(
                f"the prompt of length {length} leaves out the last {len(ids) - length} of the "
                f"{len(ids)} pieces of text {text!r}"
            )
        return fill(table.rows(ids[:length]), initializer, rng, (length, width))

    return initialize


def _text_ids(vocab: Vocabulary, text: str, add_eos: bool) -> np.ndarray:
    """Returns the ids `[n]` of the pieces of `text`, with or without EOS at the end."""
    eos = _eos_id(vocab)
    ids = piece_ids(vocab, text, "text")
    if ids[-1] == eos:
        ids = ids[:-1]
    if not add_eos:
        if not len(ids):
            raise InputError(f"text {text!r} has no pieces but EOS in this vocabulary")
        return ids
    if eos is None:
        raise InputError("add_eos is set, but vocab has no eos_id; leave add_eos at False")
    return np.append(ids, eos)


def _eos_id(vocab: Vocabulary) -> int | None:
    """Returns the id of EOS; None if the vocabulary names none."""
    # An attribute of seqio's vocabularies, a method of sentencepiece's processors.
    eos = getattr(vocab, "eos_id", None)
    if callable(eos):
        eos = eos()
    try:
        eos = operator.index(eos)  # type: ignore[arg-type]  # None is a TypeError, too.
    except TypeError:
        return None
    return eos if eos >= 0 else None  # sentencepiece returns -1 for a model without EOS.
