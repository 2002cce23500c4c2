"""Metrics: shares, and F1 as scikit-learn and T5 have it."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_tuning_core.errors import InputError
from prompt_tuning_tasks import metrics

PAIRS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["a", "b", "c", "d", "none", ""])),
    min_size=1,
)


@given(PAIRS)
def test_shares_of_equal_texts(pairs):
    targets, predictions = zip(*pairs, strict=True)
    share = len([1 for target, prediction in pairs if target == prediction]) / len(pairs)
    assert metrics.exact_match(targets, predictions) == {"exact_match": share}
    assert metrics.accuracy(targets, predictions) == {"accuracy": share}


@given(PAIRS, st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
def test_macro_f1_is_scikit_learns(pairs, classes):
    from sklearn.metrics import f1_score

    targets, predictions = zip(*pairs, strict=True)

    def expected(labels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of labels that occur nowhere.
            return f1_score(targets, predictions, labels=labels, average="macro", zero_division=0)

    found = metrics.macro_f1(targets, predictions)
    assert found == {"macro_f1": pytest.approx(expected(sorted(set(targets))))}
    found = metrics.macro_f1(targets, predictions, classes=classes)
    assert found == {"macro_f1": pytest.approx(expected(classes))}


@pytest.mark.parametrize(
    ("target", "prediction", "f1"),
    [
        ("The cat", "a cat!", 1.0),  # Case, articles and punctuation do not count.
        ("the cat sat", "cat", 2 / 3),
        ("big big dog", "big dog dog", 2 / 3),  # As often as in both.
        ("U.S.A.", "usa", 1.0),  # Punctuation goes without leaving a space.
        ("well-known", "well known", 0.0),
        ("theatre another", "theatre", 2 / 3),  # Articles are whole words.
        ("cat", "dog", 0.0),
        ("the", "a", 0.0),  # Nothing is left of either, and T5 gives 0.
        ("", "", 0.0),
        ("«cat»", "cat", 0.0),  # Only ASCII punctuation is dropped.
    ],
)
def test_token_f1_compares_words_as_squad_does(target, prediction, f1):
    assert metrics.token_f1([target], [prediction]) == {"token_f1": pytest.approx(f1)}


def test_token_f1_is_the_mean():
    found = metrics.token_f1(["a cat", "dog", "bird"], ["cat", "fish", "bird song"])
    assert found["token_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)


def test_metrics_are_known_by_name_or_given_as_functions():
    for name, function in metrics.METRICS.items():
        assert metrics.get(name) is function
        assert set(function(["x"], ["x"])) == {name}
    assert metrics.get(len) is len
    with pytest.raises(InputError, match=r"unknown metric 'macro_f'; did you mean 'macro_f1'"):
        metrics.get("macro_f")
    with pytest.raises(InputError, match=r"a metric is 7, expected a name or a function"):
        metrics.get(7)
