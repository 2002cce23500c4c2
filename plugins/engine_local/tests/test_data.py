"""Vocabularies and batches."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_tuning_core.tasks import Example
from prompt_tuning_engine_local import data
from prompt_tuning_engine_local.data import FeatureLengths, TokenizedExample
from prompt_tuning_engine_local.vocabularies import SentencePieceVocabulary

MODEL = Path(__file__).parent / "golden" / "seqio_test_sentencepiece.model"


@pytest.fixture(scope="module")
def vocabulary():
    return SentencePieceVocabulary(MODEL, extra_ids=10)


def test_ids_are_seqios(vocabulary):
    # The model has 26 pieces; seqio puts the extra ids behind them, the highest number first.
    assert vocabulary.vocab_size == 36
    assert vocabulary.encode("this is a test") == [11, 8, 6, 3, 8, 6, 3, 5, 10]
    assert vocabulary.encode("<extra_id_0>")[-1] == 35
    assert vocabulary.encode("<extra_id_9>")[-1] == 26
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)


def test_decoding_ends_at_eos_and_survives_ids_outside(vocabulary):
    ids = vocabulary.encode("this is a test")
    assert vocabulary.decode(np.array([*ids, 1, 5, 0])) == "this is a test"
    assert vocabulary.decode([*ids, 999]) == "this is a test ⁇ "


def test_examples_end_in_eos_and_are_cut_as_t5x_cuts(vocabulary):
    examples = [Example("this is a test", "is"), Example("a", "this is a test")]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first, second = data.tokenize(examples, vocabulary, FeatureLengths(6, 8), "here")
    assert list(first.inputs) == [11, 8, 6, 3, 8, 6]
    assert list(first.targets) == [3, 8, 6, 1]
    assert list(second.inputs) == [3, 5, 1]
    assert [str(w.message).split(";")[0] for w in said] == [
        "here: 1 of 2 inputs are longer than 6 ids and were cut",
        "here: 1 of 2 targets are longer than 8 ids and were cut",
    ]


def test_batches_are_padded_and_targets_shifted():
    batch = data.make_batch(
        [TokenizedExample(np.array([5, 1]), np.array([7, 8, 1]))], FeatureLengths(4, 5)
    )
    expected = {
        "encoder_input_tokens": [[5, 1, 0, 0]],
        "decoder_input_tokens": [[0, 7, 8, 1, 0]],
        "decoder_target_tokens": [[7, 8, 1, 0, 0]],
        "decoder_loss_weights": [[1, 1, 1, 0, 0]],
    }
    assert {name: array.tolist() for name, array in batch.items()} == expected


def numbered(count):
    return [TokenizedExample(np.array([n]), np.array([1])) for n in range(1, count + 1)]


def inputs_of(batches, count):
    rows = itertools.chain.from_iterable(b["encoder_input_tokens"][:, 0] for b in batches)
    return [int(n) for n in itertools.islice(rows, count)]


@settings(max_examples=25)
@given(count=st.integers(1, 17), batch_size=st.integers(1, 9), seed=st.integers(0, 2**31 - 1))
def test_every_example_comes_once_an_epoch_in_an_order_the_seed_decides(count, batch_size, seed):
    lengths = FeatureLengths(1, 1)

    def order():
        batches = data.training_batches(numbered(count), lengths, batch_size, seed)
        return inputs_of(batches, 3 * count)

    found = order()
    for epoch in range(3):
        assert sorted(found[epoch * count : (epoch + 1) * count]) == list(range(1, count + 1))
    assert order() == found


def test_epochs_differ_and_shuffling_can_be_off():
    lengths = FeatureLengths(1, 1)
    found = inputs_of(data.training_batches(numbered(20), lengths, 4, seed=1), 40)
    assert found[:20] != found[20:]
    in_order = data.training_batches(numbered(20), lengths, 8, seed=1, shuffle=False)
    assert inputs_of(in_order, 40) == [*range(1, 21), *range(1, 21)]


@given(count=st.integers(1, 17), batch_size=st.integers(1, 9))
def test_evaluation_sees_every_example_once_in_order(count, batch_size):
    found = []
    for batch, real in data.evaluation_batches(numbered(count), FeatureLengths(1, 1), batch_size):
        assert len(batch["encoder_input_tokens"]) == batch_size
        found += list(batch["encoder_input_tokens"][:real, 0])
    assert found == list(range(1, count + 1))
