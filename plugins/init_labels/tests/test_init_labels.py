"""init_labels: labels, their pieces, the positions after them, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_init_labels import init_labels
from prompt_tuning_testing import SampleTable, parametrize_with_checks

TABLE = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
KEY = jax.random.key(0)


class Letters:
    """A vocabulary of one piece a letter, ids 3 to 28; blanks have none."""

    def encode(self, s):
        return [3 + ord(letter) - ord("a") for letter in s if letter != "-"]


def ones(rng, shape):
    return jnp.ones(shape, jnp.bfloat16)


def make(texts, **options):
    return init_labels(TABLE, Letters(), texts, **options)


@pytest.mark.slow
@parametrize_with_checks(
    init_labels,
    lambda samples: {"embeddings": samples.table, "vocab": Letters(), "texts": ["yes", "no"]},
    refuses={(1, 7): (1, 2)},
    max_examples=4,
)
def test_keeps_the_contract(check):
    check()


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("mean", lambda rows: sum(rows) / len(rows)),
        ("sum", sum),
        ("first", lambda rows: rows[0]),
        ("max", lambda rows: [max(row[i] for row in rows) for i in range(3)]),
        (lambda pieces: pieces[-1], lambda rows: rows[-1]),
    ],
)
def test_aggregates_the_pieces(aggregate, expected):
    prompt = make(["abc", "b"], aggregate=aggregate)(KEY, (2, 3))
    assert prompt.dtype == jnp.float32
    np.testing.assert_allclose(prompt[0], expected([TABLE[3], TABLE[4], TABLE[5]]), atol=1e-6)
    np.testing.assert_allclose(prompt[1], TABLE[4], atol=1e-6)


def test_mean_is_the_default():
    np.testing.assert_array_equal(
        make(["abc"])(KEY, (1, 3)), make(["abc"], aggregate="mean")(KEY, (1, 3))
    )


def test_fallback_fills_the_rest():
    prompt = make(("a", "b"), initializer=ones)(KEY, (5, 3))
    assert prompt.dtype == jnp.float32
    np.testing.assert_array_equal(prompt, np.concatenate([TABLE[3:5], np.ones((3, 3))]))
    rest = np.asarray(make(["a"])(KEY, (200, 3)))[1:]
    assert 0 <= rest.min() < rest.max() < 0.01


def test_fallback_is_not_called_without_a_rest():
    def unwanted(rng, shape):
        raise AssertionError

    make(["a", "b"], initializer=unwanted)(KEY, (2, 3))


def test_fallback_of_another_shape():
    with pytest.raises(ValueError, match=r"returned shape \(1, 3\), expected \(2, 3\)"):
        make(["a"], initializer=lambda rng, shape: jnp.ones((1, 3)))(KEY, (2, 3))


@pytest.mark.parametrize("traced", [False, True])
def test_reads_the_rows_of_the_pieces_only(traced):
    table = SampleTable(5000, 3)
    initializer = init_labels(table, Letters(), ["abc", "b"])
    if traced:
        jax.eval_shape(lambda key: initializer(key, (5, 3)), KEY)
    else:
        initializer(KEY, (5, 3))
    assert table.rows_read == 4


class TestLabelsFromAFile:
    @pytest.mark.parametrize("content", ["a\nbc", "a\nbc\n", "a\r\nbc\r\n", "\ufeffa\nbc\n"])
    def test_are_its_lines(self, tmp_path, content):
        path = tmp_path / "labels.txt"
        path.write_bytes(content.encode())
        for given in (path, str(path)):
            np.testing.assert_array_equal(make(given)(KEY, (4, 3)), make(["a", "bc"])(KEY, (4, 3)))

    def test_are_read_when_called(self, tmp_path):
        initializer = make(tmp_path / "labels.txt")
        (tmp_path / "labels.txt").write_text("a\n")
        initializer(KEY, (1, 3))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"line 1 is blank"),
            (b"a\n\nb\n", r"line 2 is blank"),
            (b"a\n \t\n", r"line 2 is blank"),
            (b"a\n\xff\n", r"isn't UTF-8"),
        ],
    )
    def test_that_can_not_be_used(self, tmp_path, content, message):
        (tmp_path / "labels.txt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"labels\.txt.*{message}"):
            make(tmp_path / "labels.txt")(KEY, (4, 3))

    def test_that_is_missing_may_have_been_meant_as_labels(self):
        with pytest.raises(ValueError, match=r"can't read yes, no: .*\['yes', 'no'\]"):
            make("yes, no")(KEY, (4, 3))


class TestMoreLabelsThanPositions:
    def test_is_an_error(self):
        with pytest.raises(ValueError, match=r"3 labels for a prompt of length 2; .*at least 3"):
            make(["a", "b", "c"])(KEY, (2, 3))

    def test_is_said_once_where_allowed(self):
        initializer = make(["a", "b", "c"], allow_truncation=True)
        with pytest.warns(UserWarning, match=r"leaves out the labels \('b', 'c'\)"):
            prompt = initializer(KEY, (1, 3))
        initializer(KEY, (1, 3))  # A warning would be an error here.
        np.testing.assert_array_equal(prompt, TABLE[3:4])


def test_labels_of_the_same_pieces_are_warned_of():
    initializer = make(["a", "b", "a"])
    with pytest.warns(UserWarning, match=r"the labels \['a', 'a'\] have the same pieces"):
        initializer(KEY, (4, 3))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty, expected labels such as"),
        ((), "texts is empty"),
        ("", "texts is ''"),
        (None, "texts is None, expected labels"),
        ({"a": 1}, "expected labels"),
        (7, "texts is 7"),
        (["a", ""], "label ''"),
        (["a", "  "], "label '  '"),
        (["a", 1], "label 1, expected a string"),
    ],
)
def test_refuses_texts_when_made(texts, message):
    with pytest.raises(ValueError, match=message):
        make(texts)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("--", "label '--' has no pieces"),
        ("a~", r"label 'a~' has a piece with id 32, but .*float32\[30, 3\] has 30 rows"),
        ("A", "label 'A' has a piece with id -29"),
    ],
)
def test_refuses_labels_without_usable_pieces(label, message):
    with pytest.raises(ValueError, match=message):
        # Also of a label that would be left out: its piece is as wrong there.
        init_labels(TABLE[:30], Letters(), ["a", label], allow_truncation=True)(KEY, (1, 3))


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        ("median", "aggregate is 'median', expected one of mean, sum, first, max"),
        ("meen", "did you mean 'mean'"),
        (None, "aggregate is None"),
    ],
)
def test_refuses_another_aggregate(aggregate, message):
    with pytest.raises(ValueError, match=message):
        make(["a"], aggregate=aggregate)


def test_refuses_an_aggregate_of_another_shape():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) from the pieces of label 'ab'"):
        make(["ab"], aggregate=lambda pieces: pieces)(KEY, (2, 3))


def test_refuses_what_is_no_vocabulary():
    with pytest.raises(ValueError, match="vocab is None, expected something with encode"):
        init_labels(TABLE, None, ["a"])


def test_refuses_an_encode_that_returns_no_ids():
    class Pieces:
        def encode(self, s):
            return list(s)

    with pytest.raises(ValueError, match=r"label 'ab': vocab\.encode returned <U1"):
        init_labels(TABLE, Pieces(), ["ab"])(KEY, (1, 3))


def test_refuses_another_width():
    with pytest.raises(ValueError, match="vectors of 3 numbers, but the prompt needs 4"):
        make(["a"])(KEY, (1, 4))
