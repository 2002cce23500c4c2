"""Vocabularies, and batches of ids; which examples share a batch is in test_batching."""

from __future__ import annotations

import itertools
import json
import warnings

import golden_data
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.data.batch_plan import PaddedLengths
from prompt_tuning_engine_local.data.batching import TokenizedExample
from prompt_tuning_engine_local.data.engine_task import Answers, Reading
from prompt_tuning_engine_local.data.text_components import TextComponent
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks import Example, TextTask
from prompt_tuning_tasks.feature_lengths import FeatureLengths

MODEL = golden_data.VOCABULARY


@pytest.fixture(scope="module")
def vocabulary():
    return SentencePieceVocabulary(MODEL, extra_ids=10)


def test_ids_are_seqios(vocabulary):
    # The model has 26 pieces; the extra ids follow them, the highest number first, as in seqio.
    assert vocabulary.vocab_size == 36
    assert vocabulary.encode("this is a test") == [11, 8, 6, 3, 8, 6, 3, 5, 10]
    assert vocabulary.encode("<extra_id_0> <extra_id_9>") == [35, 26]
    assert vocabulary.encode("this <extra_id_1> is") == [11, 8, 6, 34, 3, 8, 6]
    # Within a word it is text, of which this model has no piece for some letters.
    assert vocabulary.encode("is<extra_id_0>")[:4] == [3, 8, 6, 2]
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)


def test_decoding_ends_at_eos_and_survives_ids_outside(vocabulary):
    ids = vocabulary.encode("this is a test")
    assert vocabulary.decode(np.array([*ids, 1, 5, 0])) == "this is a test"
    assert vocabulary.decode([*ids, 999]) == "this is a test ⁇ "


def test_examples_end_in_eos_and_are_cut_as_t5x_cuts(vocabulary):
    examples = [Example("this is a test", "is"), Example("a", "this is a test")]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first, second = batching.tokenize(examples, vocabulary, FeatureLengths(6, 8), "here")
    assert list(first.inputs) == [11, 8, 6, 3, 8, 6]
    assert list(first.targets) == [3, 8, 6, 1]
    assert list(second.inputs) == [3, 5, 1]
    assert [str(w.message).split(";")[0] for w in said] == [
        "here: 1 of 2 inputs are longer than 6 ids and were cut",
        "here: 1 of 2 targets are longer than 8 ids and were cut",
    ]


def test_strict_lengths_name_the_first_text_that_is_too_long(vocabulary):
    examples = [Example("a", "is"), Example("this is a test", "is", "rows.tsv:7")]
    with pytest.raises(InputError, match=r"^rows\.tsv:7: the inputs have 10 ids and TASK_FEATURE"):
        batching.tokenize(examples, vocabulary, FeatureLengths(6, 8), "here", strict=True)
    examples = [Example("a", "is"), Example("a", "this is a test")]
    with pytest.raises(InputError, match=r"^here, example 2: the targets have 10 ids"):
        batching.tokenize(examples, vocabulary, FeatureLengths(6, 8), "here", strict=True)
    assert (
        len(batching.tokenize(examples[:1], vocabulary, FeatureLengths(6, 8), "", strict=True)) == 1
    )


def test_batches_are_padded_and_targets_shifted():
    examples = [TokenizedExample(np.array([5, 1]), np.array([7, 8, 1]))]
    expected = {
        "encoder_input_tokens": [[5, 1, 0, 0]],
        "decoder_input_tokens": [[0, 7, 8, 1, 0]],
        "decoder_target_tokens": [[7, 8, 1, 0, 0]],
        "decoder_loss_weights": [[1, 1, 1, 0, 0]],
    }
    for padded in (PaddedLengths((4,), (5,)), PaddedLengths((1, 4, 9), (2, 5, 6))):
        batch = batching.make_batch(examples, padded)
        assert {name: array.tolist() for name, array in batch.items()} == expected


def of_lengths(lengths):
    """Examples whose first id is their number, from 1, and whose inputs are so long."""
    return [
        TokenizedExample(np.array([number, *[9] * (length - 1)]), np.array([3, 1]))
        for number, length in enumerate(lengths, 1)
    ]


def numbers_in(batches, count):
    """The first id of each row of some batches."""
    return [b["encoder_input_tokens"][:, 0].tolist() for b in itertools.islice(batches, count)]


LENGTHS = FeatureLengths(128, 8)


@pytest.mark.parametrize("bucketing", [True, False])
def test_batches_continue_exactly_where_an_iterator_was(bucketing):
    sources = [of_lengths(np.random.default_rng(0).integers(1, 129, 75)), of_lengths([5] * 7)]

    def iterator():
        return batching.training_batches(
            sources, LENGTHS, 4, seed=3, rates=[2, 1], bucketing=bucketing
        )

    whole = list(itertools.islice(iterator(), 80))
    interrupted = iterator()
    next(interrupted)
    for position in (0, 1, 33, 63, 64, 79):
        # As a file would keep it.
        interrupted.set_state(json.loads(json.dumps({"next_index": position})))
        assert interrupted.get_state() == {"next_index": position}
        batch = next(interrupted)
        for name, array in whole[position].items():
            np.testing.assert_array_equal(batch[name], array)
        state = interrupted.get_state()
        resumed = iterator()
        resumed.set_state(state)
        assert numbers_in(resumed, 3) == numbers_in(interrupted, 3)


def test_without_shuffling_examples_come_in_order():
    examples = of_lengths([3, 100, 20, 128, 7])
    for bucketing, padded in ((True, [128, 128, 16, 128, 128]), (False, [128] * 5)):
        batches = batching.training_batches(
            [examples], LENGTHS, 2, seed=1, shuffle=False, bucketing=bucketing
        )
        found = list(itertools.islice(batches, 5))
        assert [b["encoder_input_tokens"][:, 0].tolist() for b in found] == [
            [1, 2], [3, 4], [5, 1], [2, 3], [4, 5]
        ]  # fmt: skip
        assert [b["encoder_input_tokens"].shape[1] for b in found] == padded


def test_bucketing_makes_few_shapes_and_little_padding():
    lengths = np.random.default_rng(0).gamma(4, 8, 3000).astype(int).clip(2, 128)
    batches = list(
        itertools.islice(batching.training_batches([of_lengths(lengths)], LENGTHS, 16, seed=0), 187)
    )
    shapes = {b["encoder_input_tokens"].shape for b in batches}
    assert len(shapes) <= 8
    assert {b["decoder_target_tokens"].shape for b in batches} == {(16, 4)}
    positions = sum(b["encoder_input_tokens"].size for b in batches)
    assert positions < 1.25 * lengths.sum()


def test_targets_can_be_padded_to_their_feature_length_all_the_same():
    lengths = FeatureLengths(128, 64)

    def shapes(**flags):
        batch = next(batching.training_batches([of_lengths([5] * 4)], lengths, 4, seed=0, **flags))
        return batch["encoder_input_tokens"].shape, batch["decoder_target_tokens"].shape

    assert shapes() == ((4, 16), (4, 16))
    assert shapes(target_bucketing=False) == ((4, 16), (4, 64))
    assert shapes(bucketing=False) == ((4, 128), (4, 64))


@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    bucketing=st.booleans(),
)
def test_evaluation_sees_every_example_once(lengths, batch_size, bucketing):
    seen = []
    padded = batching.padded_lengths(LENGTHS, bucketing=bucketing)
    for batch, numbers in batching.evaluation_batches(of_lengths(lengths), padded, batch_size):
        tokens = batch["encoder_input_tokens"]
        assert len(tokens) == batch_size
        assert tokens.shape[1] in padded.inputs
        assert (tokens[: len(numbers), 0] == numbers + 1).all()
        assert (tokens > 0).sum(1)[: len(numbers)].tolist() == [lengths[n] for n in numbers]
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(lengths)))
    if not bucketing:
        assert seen == list(range(len(lengths)))


LOST = ["{this}", "this  is", "is ", "THIS", "½", "\uff54\uff48is", "日"]


@pytest.mark.parametrize("text", LOST)
def test_targets_that_no_answer_can_equal_are_warned_of(vocabulary, text):
    rows = [{"x": "a", "y": "this"}, {"x": "a", "y": text}, {"x": "b", "y": text}]
    task = TextTask("t", {"train": lambda: rows}, "{x}", "{y}")
    reading = Reading(vocabulary, FeatureLengths(20, 20))
    with pytest.warns(UserWarning, match="no answer can equal 2 of 3 targets") as said:
        TextComponent(task).read("train", reading)
    message = str(said[0].message)
    assert f"t, split 'train', row 2: {text!r} becomes " in message.replace("task 't'", "t")


def test_empty_targets_are_counted(vocabulary):
    rows = [{"x": "a", "y": "this"}, {"x": "a", "y": ""}, {"x": "b", "y": ""}]
    task = TextTask("t", {"train": lambda: rows}, "{x}", "{y}")
    reading = Reading(vocabulary, FeatureLengths(20, 20))
    with pytest.warns(UserWarning, match="2 of 3 targets are empty, .* the first, .*row 2$"):
        TextComponent(task).read("train", reading)


def test_two_metrics_of_one_name_are_refused(vocabulary):
    def mine(targets, predictions):
        return {"exact_match": 1.0}

    rows = [{"x": "a", "y": "this"}]
    task = TextTask("t", {"train": lambda: rows}, "{x}", "{y}", metrics=["exact_match", mine])
    split = TextComponent(task).read("train", Reading(vocabulary, FeatureLengths(20, 20)))
    with pytest.raises(InputError, match="task 't': the metric mine returns 'exact_match', and so"):
        split.metrics(Answers(np.zeros((1, 1), np.int32), ["this"]))
