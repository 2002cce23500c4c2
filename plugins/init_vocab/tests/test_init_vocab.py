"""init_vocab: which rows it reads, from what population, and what it refuses."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_files.embeddings import np_load
from prompt_tuning_init_vocab import init_vocab
from prompt_tuning_testing import SampleTable, parametrize_with_checks

TABLE = np.arange(24, dtype=np.float32).reshape(12, 2)
KEY = jax.random.key(0)


def row_numbers(prompt):
    """Returns the numbers of the rows of TABLE in a prompt; the first value shows the number."""
    np.testing.assert_array_equal(prompt[:, 1], prompt[:, 0] + 1)
    return (np.asarray(prompt[:, 0]) / 2).astype(int)


@pytest.mark.slow
@parametrize_with_checks(
    init_vocab,
    lambda samples: {"embeddings": samples.table, "population_size": 20},
    max_examples=4,
)
def test_keeps_the_contract(check):
    check()


@pytest.mark.parametrize("population", [None, 5, np.int64(5)])
def test_draws_without_replacement_from_the_population(population):
    size = 12 if population is None else 5
    initializer = init_vocab(TABLE, population)
    drawn = row_numbers(initializer(KEY, (size, 2)))
    assert sorted(drawn) == list(range(size))


def test_reads_the_drawn_rows_only():
    table = SampleTable(5000, 8)
    initializer = init_vocab(table, 1000)
    assert table.rows_read == 0
    initializer(KEY, (7, 8))
    assert table.rows_read == 7


@pytest.mark.parametrize("population", [None, 50, 1000])
def test_reads_the_population_within_a_trace(population):
    table = SampleTable(500, 8)
    initializer = init_vocab(table, population)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax.eval_shape(lambda: initializer(KEY, (7, 8)))  # With a key that is a constant.
    assert table.rows_read == min(population or 500, 500)


@pytest.mark.slow
def test_draws_the_same_rows_within_a_trace():
    initializer = init_vocab(TABLE, 10)
    eager = initializer(KEY, (4, 2))
    np.testing.assert_array_equal(jax.jit(initializer, static_argnums=1)(KEY, (4, 2)), eager)
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda key: initializer(key, (4, 2)))(keys)
    for prompt, key in zip(many, keys, strict=True):
        np.testing.assert_array_equal(prompt, initializer(key, (4, 2)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_tables_of_other_dtypes(tmp_path, dtype):
    tables = [TABLE.astype(jnp.dtype(dtype))]
    if dtype == "bfloat16":
        tables.append(jnp.asarray(tables[0]))
    else:
        np.save(tmp_path / "table.npy", tables[0])
        tables.append(np_load(tmp_path / "table.npy"))
    for table in tables:
        prompt = init_vocab(table)(KEY, (4, 2))
        assert prompt.dtype == jnp.float32
        np.testing.assert_array_equal(prompt, init_vocab(TABLE)(KEY, (4, 2)))


@pytest.mark.parametrize(
    ("population", "length", "message"),
    [
        (3, 5, "prompt length 5 exceeds the population of 3: sampling with replacement"),
        (13, 5, "population_size is 13, but .* has 12 rows: using all 12"),
    ],
)
def test_warns_once(population, length, message):
    initializer = init_vocab(TABLE, population)
    with pytest.warns(UserWarning, match=message):
        drawn = row_numbers(initializer(KEY, (length, 2)))
    with warnings.catch_warnings():  # JAX does so, and Python forgets what it has warned of.
        warnings.simplefilter("error")
        initializer(KEY, (length, 2))
        jax.eval_shape(lambda: initializer(KEY, (length, 2)))
    assert drawn.max() < population


@pytest.mark.parametrize("population", [0, -1, 2.5, "5", True])
def test_refuses_another_population(population):
    with pytest.raises(ValueError, match=f"population_size is {population!r}, expected"):
        init_vocab(TABLE, population)


def test_refuses_another_width():
    with pytest.raises(ValueError, match=r"float32\[12, 2\]: has vectors of 2 .* needs 3"):
        init_vocab(TABLE)(KEY, (4, 3))


def test_refuses_what_is_no_table():
    with pytest.raises(ValueError, match=r"not an embedding table: 'table\.npy'"):
        init_vocab("table.npy")
