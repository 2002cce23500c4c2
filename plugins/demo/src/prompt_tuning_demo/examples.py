"""Batches of pretraining: examples with a text prefix that names a task, and bare examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from prompt_tuning_demo import reviews
from prompt_tuning_demo.prefixes import PLOT, PLOT_OR_REVIEW_PREFIX, REVIEW, WORDINGS
from prompt_tuning_demo.recipe import EXTRA_IDS, Recipe
from prompt_tuning_demo.vocabulary import EOS_ID, UNK_ID, WordEncoder

Pair = tuple[list[int], list[int]]  # ids of inputs and targets, each ending in EOS_ID
Batch = dict[str, np.ndarray]  # int32 `[B, length]`

_TOLD_TARGET_LENGTH = 2  # an answer of one piece, and the end
_BATCHES_IN_A_POOL = 4


class Examples:
    """Draws examples from one random generator.

    Args:
      recipe: Sizes and shares of the examples.
      corpus: Only its training split is used.
      encoder: The vocabulary.
    """

    def __init__(self, recipe: Recipe, corpus: reviews.Corpus, encoder: WordEncoder) -> None:
        self._recipe = recipe
        self._random = np.random.default_rng(recipe.seed)
        self._encoder = encoder
        self._reviews = [
            (encoder.words(review.text), review.label == reviews.POSITIVE)
            for review in corpus.reviews["train"]
        ]
        self._plots = [
            encoder.words(sentence) for sentence in reviews.plot_sentences(corpus, "train")
        ]
        self._lexicon = [
            (encoder.words(word), label == reviews.POSITIVE)
            for word, label in reviews.read_lexicon().items()
        ]
        self._answers = [
            encoder.ids(answer)[0] for w in WORDINGS for answer in (w.positive, w.negative)
        ]
        self._order: list[int] = []

    def batches(self) -> Iterator[Batch]:
        """Yields batches without end: inputs and targets of examples with a prefix and without."""
        recipe = self._recipe
        size = recipe.told_batch
        while True:
            # Sorted, so that a batch has examples of similar length and little padding.
            pool = [self._told() for _ in range(_BATCHES_IN_A_POOL * size)]
            pool.sort(key=lambda pair: len(pair[0]))
            for at in self._random.permutation(_BATCHES_IN_A_POOL):
                told = pool[at * size : (at + 1) * size]
                longest = len(told[-1][0])
                bare = [self._bare() for _ in range(recipe.bare_batch)]
                yield {
                    "told_inputs": padded(
                        [inputs for inputs, _ in told],
                        min(length for length in recipe.told_lengths if length >= longest),
                    ),
                    "told_targets": padded([targets for _, targets in told], _TOLD_TARGET_LENGTH),
                    "bare_inputs": padded([inputs for inputs, _ in bare], recipe.bare_length),
                    "bare_targets": padded(
                        [targets for _, targets in bare], recipe.bare_target_length
                    ),
                }

    def _next_review(self) -> tuple[list[list[int]], bool]:
        """Returns the next review; all reviews come once before one comes again."""
        if not self._order:
            self._order = list(self._random.permutation(len(self._reviews)))
        return self._reviews[self._order.pop()]

    def _thinned(self, words: list[list[int]]) -> list[int]:
        rate = self._random.uniform(*self._recipe.dropped_words)
        kept = self._random.random(len(words)) >= rate
        ids = [id_ for word, keep in zip(words, kept, strict=True) if keep for id_ in word]
        return ids or _joined(words)

    def _told(self) -> Pair:
        if self._random.random() < self._recipe.sentiment_share:
            prefix, ids, answer = self._sentiment()
        else:
            prefix, ids, answer = self._plot_or_review()
        inputs = [*self._encoder.ids(prefix), *ids][: self._recipe.told_lengths[-1] - 1]
        return [*inputs, EOS_ID], [*self._encoder.ids(answer), EOS_ID]

    def _sentiment(self) -> tuple[str, list[int], str]:
        wording = WORDINGS[
            self._random.choice(len(WORDINGS), p=[wording.share for wording in WORDINGS])
        ]
        if self._random.random() < self._recipe.lexicon_share:
            words, is_positive = self._lexicon[self._random.integers(len(self._lexicon))]
            ids = _joined(words)
        else:
            words, is_positive = self._next_review()
            ids = self._thinned(words)
        return wording.prefix, ids, wording.positive if is_positive else wording.negative

    def _plot_or_review(self) -> tuple[str, list[int], str]:
        if self._random.random() < 0.5:
            words, answer = self._plots[self._random.integers(len(self._plots))], PLOT
        else:
            words, answer = self._next_review()[0], REVIEW
        return PLOT_OR_REVIEW_PREFIX, self._thinned(words), answer

    def _bare(self) -> Pair:
        recipe = self._recipe
        if self._random.random() < 0.5:
            words = self._plots[self._random.integers(len(self._plots))]
        else:
            words, _ = self._reviews[self._random.integers(len(self._reviews))]
        ids = _joined(words)
        before = self._unrelated()
        room = recipe.bare_length - len(before) - 1
        if self._random.random() < recipe.continued_share:
            cut = int(self._random.integers(1, len(ids) + 1))
            return [*before, *ids[max(0, cut - room) : cut], EOS_ID], [*ids[cut:], EOS_ID]
        inputs, targets = corrupt_spans(
            ids[:room],
            self._random,
            recipe.noise_density,
            recipe.mean_noise_span,
            recipe.pieces + EXTRA_IDS,
        )
        return [*before, *inputs], targets

    def _unrelated(self) -> list[int]:
        """Returns random pieces and answers to put in front of a bare text, or nothing."""
        recipe, random = self._recipe, self._random
        if random.random() >= recipe.unrelated_share:
            return []
        count = random.integers(1, recipe.unrelated_length + 1)
        pieces = random.integers(UNK_ID + 1, recipe.pieces, count)
        is_answer = random.random(count) < recipe.unrelated_answers
        return list(np.where(is_answer, random.choice(self._answers, count), pieces))


def corrupt_spans(
    ids: Sequence[int],
    random: np.random.Generator,
    noise_density: float,
    mean_noise_span: float,
    vocab_size: int,
) -> Pair:
    """Replaces spans by sentinels (Raffel et al. 2020, section 3.1.4).

    Args:
      ids: The ids of a text, without EOS.
      random: The generator that draws the spans.
      noise_density: The share of ids to hide; at least one is hidden.
      mean_noise_span: The mean length of a hidden span.
      vocab_size: The first sentinel is the last id, the second the id before it, and so on.

    Returns:
      The ids with a sentinel for each hidden span, and the sentinels, each followed by the ids that
      it hides.
    """
    hidden = min(max(1, round(len(ids) * noise_density)), max(1, len(ids) - 1))
    kept = len(ids) - hidden
    spans = max(1, min(round(hidden / mean_noise_span), kept + 1))
    cuts = np.sort(random.choice(hidden - 1, spans - 1, replace=False)) + 1
    lengths = np.diff([0, *cuts, hidden])
    # The lengths of text before each span; only before the first span it may be 0.
    gaps = np.diff([0, *np.sort(random.choice(kept + 1, spans, replace=False))])
    inputs: list[int] = []
    targets: list[int] = []
    at = 0
    for number, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        sentinel = vocab_size - 1 - number
        inputs += [*ids[at : at + gap], sentinel]
        targets += [sentinel, *ids[at + gap : at + gap + length]]
        at += gap + length
    return [*inputs, *ids[at:], EOS_ID], [*targets, EOS_ID]


def padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Cuts each row at `length` or pads it with 0; returns int32 `[len(rows), length]`."""
    out = np.zeros((len(rows), length), np.int32)
    for at, row in enumerate(rows):
        out[at, : min(len(row), length)] = row[:length]
    return out


def _joined(words: list[list[int]]) -> list[int]:
    return [id_ for word in words for id_ in word]
