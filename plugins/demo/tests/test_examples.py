"""The examples of pretraining: span corruption, unrelated pieces, shapes."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis
import numpy as np
import pytest
import sentencepiece
from hypothesis import strategies as st

from prompt_tuning_demo import model, reviews
from prompt_tuning_demo.examples import Examples, corrupt_spans, padded
from prompt_tuning_demo.recipe import Recipe
from prompt_tuning_demo.vocabulary import WordEncoder

_FIRST_SENTINEL = 4095


@hypothesis.settings(deadline=None)
@hypothesis.given(
    ids=st.lists(st.integers(3, 3995), min_size=1, max_size=60), seed=st.integers(0, 2**32 - 1)
)
def test_corrupted_spans_fill_the_gaps(ids: list[int], seed: int) -> None:
    inputs, targets = corrupt_spans(ids, np.random.default_rng(seed), 0.15, 3.0, 4096)
    assert inputs[-1] == targets[-1] == 1
    spans: dict[int, list[int]] = {}
    for id_ in targets[:-1]:
        if id_ > 3995:
            spans[id_] = []
            sentinel = id_
        else:
            spans[sentinel].append(id_)
    # The sentinels are the last ids, in falling order, in both.
    assert list(spans) == [_FIRST_SENTINEL - n for n in range(len(spans))]
    assert [id_ for id_ in inputs if id_ > 3995] == list(spans)
    restored = [x for id_ in inputs[:-1] for x in spans.get(id_, [id_])]
    assert restored == ids
    hidden = sum(map(len, spans.values()))
    assert hidden == max(1, round(0.15 * len(ids)))
    assert all(spans.values())


def test_padded_cuts_and_pads() -> None:
    rows = padded([[5, 1], [5, 6, 7, 1]], 3)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[5, 1, 0], [5, 6, 7]]


@pytest.fixture(scope="module")
def encoder() -> WordEncoder:
    return WordEncoder(sentencepiece.SentencePieceProcessor(model_file=model.vocabulary_path()))


def test_words_encode_as_the_whole_text(encoder: WordEncoder) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=model.vocabulary_path())
    for review in reviews.read_corpus().reviews["train"][:500]:
        assert encoder.ids(review.text) == processor.encode(review.text)


def test_batches_have_the_recipe_s_shapes_and_repeat(encoder: WordEncoder) -> None:
    recipe = dataclasses.replace(Recipe(), told_batch=8, bare_batch=4)
    corpus = reviews.read_corpus()
    first, second = (
        list(itertools.islice(Examples(recipe, corpus, encoder).batches(), 12)) for _ in range(2)
    )
    for batch, same in zip(first, second, strict=True):
        assert all(np.array_equal(batch[name], same[name]) for name in batch)
        assert batch["told_inputs"].shape[0] == 8
        assert batch["told_inputs"].shape[1] in recipe.told_lengths
        assert batch["told_targets"].shape == (8, 2)
        assert (batch["told_targets"][:, 1] == 1).all()
        assert batch["bare_inputs"].shape == (4, recipe.bare_length)
        assert batch["bare_targets"].shape == (4, recipe.bare_target_length)
        for name, rows in batch.items():
            assert rows.min() >= 0, name
            assert rows.max() < recipe.pieces + 100, name
            assert (rows[:, 0] > 0).all(), name
