"""init_string: the pieces of a text, EOS, the positions after it, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_init_string import init_string
from prompt_tuning_testing import SampleTable, parametrize_with_checks

TABLE = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
KEY = jax.random.key(0)


class Letters:
    """A vocabulary of one piece a letter, ids 3 to 28; hyphens have none."""

    def encode(self, s):
        return [3 + ord(letter) - ord("a") for letter in s if letter != "-"]


class LikeSeqio(Letters):
    eos_id = 1


class LikeSentencepiece(Letters):
    def eos_id(self):
        return 1


class AppendsEos(LikeSeqio):
    def encode(self, s):
        return [*super().encode(s), 1]


class WithoutEos(Letters):
    def eos_id(self):
        return -1


def make(text, vocab=None, **options):
    return init_string(TABLE, vocab or LikeSeqio(), text, **options)


@pytest.mark.slow
@parametrize_with_checks(
    init_string,
    lambda samples: {
        "embeddings": samples.table,
        "vocab": LikeSeqio(),
        "text": "yes",
        "add_eos": True,
    },
    refuses={(3, 7): (3, 4)},
    max_examples=4,
)
def test_keeps_the_contract(check):
    check()


@pytest.mark.parametrize("vocab", [LikeSeqio(), LikeSentencepiece(), AppendsEos()])
class TestEos:
    def test_is_left_out(self, vocab):
        prompt = make("abc", vocab)(KEY, (3, 3))
        assert prompt.dtype == jnp.float32
        np.testing.assert_array_equal(prompt, TABLE[3:6])

    def test_is_the_last_piece_if_asked_for(self, vocab):
        prompt = make("abc", vocab, add_eos=True)(KEY, (4, 3))
        np.testing.assert_array_equal(prompt, TABLE[[3, 4, 5, 1]])


@pytest.mark.parametrize("vocab", [Letters(), WithoutEos()])
def test_eos_that_the_vocabulary_does_not_name(vocab):
    np.testing.assert_array_equal(make("abc", vocab)(KEY, (3, 3)), TABLE[3:6])
    with pytest.raises(ValueError, match="vocab has no eos_id"):
        make("abc", vocab, add_eos=True)(KEY, (4, 3))


def test_fallback_fills_the_rest():
    prompt = make("ab", initializer=lambda rng, shape: jnp.ones(shape))(KEY, (4, 3))
    np.testing.assert_array_equal(prompt, np.concatenate([TABLE[3:5], np.ones((2, 3))]))
    rest = np.asarray(make("a")(KEY, (200, 3)))[1:]
    assert 0 <= rest.min() < rest.max() < 0.01


@pytest.mark.parametrize("traced", [False, True])
def test_reads_the_rows_of_the_pieces_only(traced):
    table = SampleTable(5000, 3)
    initializer = init_string(table, Letters(), "abc")
    if traced:
        jax.eval_shape(lambda key: initializer(key, (5, 3)), KEY)
    else:
        initializer(KEY, (5, 3))
    assert table.rows_read == 3


class TestMorePiecesThanPositions:
    def test_is_an_error(self):
        with pytest.raises(ValueError, match=r"'abc' has 3 pieces for a prompt of length 2; .* 3,"):
            make("abc")(KEY, (2, 3))

    def test_is_said_once_where_allowed(self):
        initializer = make("abc", add_eos=True, allow_truncation=True)
        with pytest.warns(UserWarning, match="leaves out the last 2 of the 4 pieces"):
            prompt = initializer(KEY, (2, 3))
        initializer(KEY, (2, 3))  # A warning would be an error here.
        np.testing.assert_array_equal(prompt, TABLE[3:5])


@pytest.mark.parametrize("text", ["", "  ", None, ["a"], 3])
def test_refuses_another_text_when_made(text):
    with pytest.raises(ValueError, match="expected a text; set PROMPT_STRING"):
        make(text)


@pytest.mark.parametrize(
    ("vocab", "text", "message"),
    [
        (LikeSeqio(), "--", "text '--' has no pieces"),
        (AppendsEos(), "--", "no pieces but EOS"),
        (LikeSeqio(), "a~", r"'a~' has a piece with id 32, but .* has 30 rows"),
    ],
)
def test_refuses_a_text_without_usable_pieces(vocab, text, message):
    with pytest.raises(ValueError, match=message):
        make(text, vocab)(KEY, (4, 3))


def test_refuses_what_is_no_vocabulary():
    with pytest.raises(ValueError, match=r"vocab is 'spiece\.model', expected something with"):
        init_string(TABLE, "spiece.model", "a")


def test_refuses_another_width():
    with pytest.raises(ValueError, match="vectors of 3 numbers, but the prompt needs 4"):
        make("a")(KEY, (1, 4))
