"""The initializers give the values of the reference (golden/t5x/initializers.npz)."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from prompt_tuning_files.embeddings import np_load
from prompt_tuning_init_file import init_file
from prompt_tuning_init_labels import init_labels
from prompt_tuning_init_random import init_random
from prompt_tuning_init_string import init_string
from prompt_tuning_init_vocab import init_vocab

GOLDEN = Path(__file__).parent / "golden"
WIDTH = 16
FALLBACKS = ["sample_pop10", "default_uniform"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "initializers.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def meta(golden):
    return json.loads(str(golden["meta_json"]))


@pytest.fixture(scope="module")
def vocab():
    model = str(golden_data.VOCABULARY)
    return sentencepiece.SentencePieceProcessor(model_file=model)


@pytest.fixture(scope="module")
def table(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.npy"
    np.save(path, golden["embedding_table"])
    return np_load(path)


def close(found, expected):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def call(initializer, key, shape, way):
    if way == "eager":
        return initializer(key, shape)
    return jax.jit(lambda k: initializer(k, shape))(key)


@pytest.fixture(scope="module")
def sample(table):
    """A function that returns an initializer's function of a key, compiled for all keys."""

    @functools.cache
    def make(way, population, length):
        initializer = init_vocab(table, population)

        def of_key(key):
            return initializer(key, (length, WIDTH))

        return jax.jit(of_key) if way == "jit" else of_key

    return make


def fallback(name, table):
    return init_vocab(table, 10) if name == "sample_pop10" else None


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("population", [None, 20, 10])
@pytest.mark.parametrize("length", [5, 20, 60])
@pytest.mark.filterwarnings("ignore:prompt length")  # The longest exceeds the population.
@pytest.mark.slow
def test_vocab(golden, sample, way, seed, population, length):
    name = f"sample_k{seed}_pop{population}_P{length}"
    raw = golden[f"PRNGKey_k{seed}"]
    for key in (raw, jnp.asarray(raw), jax.random.key(seed)):
        prompt = sample(way, population, length)(key)
        close(prompt, golden[name])
        # All rows of the table differ, so the rows of the prompt tell the indices.
        same = (np.asarray(prompt)[:, None] == golden["embedding_table"]).all(-1)
        np.testing.assert_array_equal(same.argmax(1), golden[f"{name}_indices"])
        assert same.any(1).all()


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("filled", FALLBACKS)
@pytest.mark.parametrize("length", [3, 6, 10])
@pytest.mark.filterwarnings("ignore:the prompt of length 3 leaves out")  # As the reference does.
def test_labels(golden, meta, vocab, table, way, filled, length):
    initializer = init_labels(
        table, vocab, meta["labels"], fallback(filled, table), allow_truncation=True
    )
    prompt = call(initializer, golden["PRNGKey_k42"], (length, WIDTH), way)
    close(prompt, golden[f"list_fallback_{filled}_k42_P{length}"])


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("filled", FALLBACKS)
@pytest.mark.parametrize("length", [4, 21, 26])
@pytest.mark.filterwarnings("ignore:the prompt of length 4 leaves out")  # As the reference does.
@pytest.mark.filterwarnings("ignore:prompt length 26 exceeds")
def test_string(golden, meta, vocab, table, way, filled, length):
    initializer = init_string(
        table, vocab, meta["text"], fallback(filled, table), allow_truncation=True
    )
    prompt = call(initializer, golden["PRNGKey_k42"], (length, WIDTH), way)
    close(prompt, golden[f"string_fallback_{filled}_k42_P{length}"])


def test_the_vocabulary_gives_the_reference_ids(golden, meta, vocab):
    ids = [vocab.encode(label) for label in meta["labels"]]
    assert [len(label) for label in ids] == golden["list_token_lens"].tolist()
    assert np.concatenate(ids).tolist() == golden["list_token_ids_concat"].tolist()
    assert vocab.encode(meta["text"]) == golden["string_token_ids"].tolist()


@pytest.mark.parametrize("way", ["eager", "jit"])
def test_uniform(golden, way):
    prompt = call(init_random(), golden["PRNGKey_k0"], (5, WIDTH), way)
    close(prompt, golden["flax_uniform_scale0.5_k0_P5"])


@pytest.mark.parametrize("way", ["eager", "jit"])
def test_file(golden, tmp_path, way):
    np.save(tmp_path / "prompt.npy", golden["from_array_in"])
    prompt = call(init_file(tmp_path / "prompt.npy"), jax.random.key(0), (7, WIDTH), way)
    close(prompt, golden["from_array_out"])
