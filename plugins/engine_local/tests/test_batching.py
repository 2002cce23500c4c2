"""The examples of each batch: every example comes once an epoch, for all sizes."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_tuning_engine_local.data.batch_plan import (
    BatchPlan,
    ExampleStream,
    PaddedLengths,
    permutation,
)

SEEDS = st.integers(0, 2**32 - 1)


def plan_of(groups, batch_size, seed, bucketing=True, shuffle=True):
    groups = np.asarray(groups)
    stream = ExampleStream([len(groups)], None, seed, shuffle=shuffle)
    return BatchPlan(stream, batch_size, seed, groups if bucketing else None)


def read(plan, batches):
    return np.concatenate([plan[k] for k in batches])


@settings(max_examples=200)
@given(
    groups=st.lists(st.integers(0, 7), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=SEEDS,
    bucketing=st.booleans(),
)
def test_no_example_is_lost_or_doubled_in_an_epoch(groups, batch_size, seed, bucketing):
    plan = plan_of(groups, batch_size, seed, bucketing)
    count = len(groups)
    batches = -(-3 * count // batch_size)
    found = read(plan, range(batches))
    for epoch in range(3):
        assert sorted(found[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(groups=st.lists(st.integers(0, 7), min_size=1, max_size=300), seed=SEEDS)
@settings(max_examples=20)
def test_windows_end_within_the_epoch(groups, seed):
    # Batches of one: as many as there are examples, in windows of at most 64.
    plan = plan_of(groups, 1, seed)
    count = len(groups)
    for batch in range(2 * count):
        first, stop = plan._window_of(batch)
        assert first <= batch < stop <= first + 64
        assert first // count == (stop - 1) // count


@settings(max_examples=50)
@given(
    groups=st.lists(st.integers(0, 7), min_size=1, max_size=200),
    batch_size=st.integers(1, 20),
    seed=SEEDS,
    start=st.integers(0, 10**12),
)
def test_a_batch_depends_on_nothing_but_its_number(groups, batch_size, seed, start):
    one, other = (plan_of(groups, batch_size, seed) for _ in range(2))
    forwards = {k: one[k] for k in range(start, start + 5)}
    for k in reversed(forwards):
        np.testing.assert_array_equal(other[k], forwards[k])


@given(groups=st.lists(st.integers(0, 3), min_size=3, max_size=500), seed=SEEDS)
@settings(max_examples=20)
def test_groups_move_examples_within_their_epoch_only(groups, seed):
    grouped, plain = (plan_of(groups, 3, seed, bucketing) for bucketing in (True, False))
    whole = len(groups) // 3
    assert sorted(read(grouped, range(whole))) == sorted(read(plain, range(whole)))
    # Batches of one group each, but for one batch between two groups, and in each window.
    mixed = sum(len(set(np.asarray(groups)[grouped[k]])) > 1 for k in range(whole))
    assert mixed <= 3 * -(-whole // 64)


def test_epochs_and_seeds_differ_and_shuffling_can_be_off():
    plan = plan_of([0] * 20, 4, seed=1)
    first, second = read(plan, range(5)), read(plan, range(5, 10))
    assert first.tolist() != second.tolist()
    # Not one shuffle moved by one: the next seed's first epoch is another order still.
    assert read(plan_of([0] * 20, 4, seed=2), range(5)).tolist() not in (
        first.tolist(), second.tolist()
    )  # fmt: skip
    in_order = plan_of([0] * 20, 8, seed=1, bucketing=False, shuffle=False)
    assert read(in_order, range(5)).tolist() == [*range(20), *range(20)]


def test_examples_of_one_length_meet_others_in_the_next_epoch():
    plan = plan_of([0] * 50 + [1] * 50, 10, seed=0)
    first, second = ({frozenset(plan[k]) for k in range(e, e + 10)} for e in (0, 10))
    assert not first & second


def test_orders_are_those_of_the_first_release():
    # A run resumed with another version of this package or of numpy sees the same examples.
    assert permutation(8, 5, 0, 0, 3).tolist() == [4, 6, 5, 1, 3, 7, 0, 2]
    assert plan_of([0, 1] * 5, 3, seed=7)[1].tolist() == [8, 2, 0]


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    data=st.data(),
    batch_size=st.integers(1, 9),
    seed=SEEDS,
)
def test_mixtures_draw_at_their_rates_and_keep_each_tasks_epochs(sizes, data, batch_size, seed):
    rates = data.draw(
        st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)), "rates"
    )
    stream = ExampleStream(sizes, rates, seed)
    total = 400
    examples = stream.take(0, total)
    source = np.searchsorted(np.cumsum(sizes), examples, side="right")
    for number, (size, rate) in enumerate(zip(sizes, rates, strict=True)):
        drawn = examples[source == number] - sum(sizes[:number])
        # At any moment within a few examples of the exact share.
        assert abs(len(drawn) - total * rate / sum(rates)) < len(sizes) + 1
        for start in range(0, len(drawn) - size + 1, size):
            assert sorted(drawn[start : start + size]) == list(range(size))
    middle = data.draw(st.integers(0, total), "middle")
    np.testing.assert_array_equal(stream.take(middle, total), examples[middle:])
    # With groups, a window of 64 batches holds the same examples.
    groups = np.arange(sum(sizes)) % 3
    plan = BatchPlan(stream, batch_size, seed, groups)
    expected = stream.take(64 * batch_size, 128 * batch_size)
    found = read(plan, range(64, 128))
    assert collections.Counter(found.tolist()) == collections.Counter(expected.tolist())


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_padded_lengths_are_few_and_reach_the_feature_length(inputs, targets):
    padded = PaddedLengths.of(inputs, targets)
    for lengths, most, count, multiple in (
        (padded.inputs, inputs, 9, 8),
        (padded.targets, targets, 3, 4),
    ):
        assert lengths[-1] == most
        assert len(lengths) <= count
        assert list(lengths) == sorted(set(lengths))
        assert all(length % multiple == 0 for length in lengths[:-1])
    assert PaddedLengths.of(inputs, targets, bucketing=False) == PaddedLengths(
        (inputs,), (targets,)
    )


@given(st.lists(st.tuples(st.integers(1, 128), st.integers(1, 64)), min_size=1, max_size=20))
def test_examples_of_one_group_are_padded_alike(lengths):
    padded = PaddedLengths.of(128, 64)
    inputs, targets = zip(*lengths, strict=True)
    groups = padded.groups(inputs, targets)
    fitting = [padded.fitting(*pair) for pair in lengths]
    assert all(i <= p and t <= q for (i, t), (p, q) in zip(lengths, fitting, strict=True))
    by_group = collections.defaultdict(set)
    for group, pair in zip(groups, fitting, strict=True):
        by_group[group].add(pair)
    assert all(len(pairs) == 1 for pairs in by_group.values())
    assert len(by_group) == len(set(fitting))


@pytest.mark.parametrize(
    ("feature_length", "lengths"),
    [
        (12, (12,)),
        (128, (16, 24, 32, 40, 48, 64, 96, 128)),
        (512, (32, 64, 96, 128, 160, 192, 256, 384, 512)),
    ],
)
def test_padded_lengths_of_usual_feature_lengths(feature_length, lengths):
    assert PaddedLengths.of(feature_length, 8).inputs == lengths


@pytest.mark.parametrize(
    ("feature_length", "lengths"),
    [(3, (3,)), (4, (4,)), (8, (4, 8)), (16, (4, 8, 16)), (62, (16, 32, 62))],
)
def test_padded_lengths_of_usual_target_lengths(feature_length, lengths):
    assert PaddedLengths.of(128, feature_length).targets == lengths
