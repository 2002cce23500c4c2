"""The base's SentencePiece vocabulary: T5's layout, trained on the texts of pretraining."""

from __future__ import annotations

import io
from collections.abc import Sequence

import sentencepiece

from prompt_tuning_demo.prefixes import PLOT, PLOT_OR_REVIEW_PREFIX, REVIEW, WORDINGS

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2

# Prefixes and answers are added to the text this often, so that each answer becomes one piece.
_REPEATED = 200


def make_vocabulary(texts: Sequence[str], pieces: int) -> bytes:
    """Trains a unigram model on case-folded text.

    Args:
      texts: Sentences.
      pieces: Number of pieces, including padding (0), EOS (1) and unknown (2). T5's 100 extra ids
        are not in the file: as in T5, they follow the ids of the pieces.

    Returns:
      The content of a `.model` file.
    """
    told = [PLOT_OR_REVIEW_PREFIX, *(wording.prefix for wording in WORDINGS)]
    answers = [answer for w in WORDINGS for answer in (w.positive, w.negative)] + [PLOT, REVIEW]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *(told + answers) * _REPEATED]),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=-1,
        # One thread: the pieces' scores are sums whose order must not vary.
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class WordEncoder:
    """Encodes word by word, so that words can be dropped before a text is put together.

    No piece has a space inside, so the pieces of the words are the pieces of the whole text.

    Args:
      processor: The vocabulary.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor
        self._known: dict[str, list[int]] = {}

    def words(self, text: str) -> list[list[int]]:
        """Returns the ids of each word of `text`."""
        return [self._word(word) for word in text.split()]

    def ids(self, text: str) -> list[int]:
        """Returns the ids of `text`, without EOS."""
        return [id_ for word in self.words(text) for id_ in word]

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = self._processor.encode(word)
        return self._known[word]
