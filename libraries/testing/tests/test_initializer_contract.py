"""The contract of initializers (docs/plugins.md): ours keep it, and each check can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import importlib_metadata
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from prompt_tuning_testing import INITIALIZER_CHECKS, SampleTable, check_initializer

pytestmark = pytest.mark.slow

CLAUSES = [
    "shape_and_dtype",
    "deterministic_and_rng",
    "transformations",
    "keys_and_shape_types",
    "refuses_bad_shapes",
    "no_side_effects",
    "bounded_memory",
]
FEW_SHAPES = st.sampled_from([(2, 3), (4, 5)])  # JAX compiles for each.
FIRST_PARTY = {
    f"prompt-tuning-init-{name}" for name in ("random", "vocab", "labels", "string", "file")
}


class Letters:
    """A vocabulary of one piece a letter, ids 3 to 28."""

    eos_id = 1

    def encode(self, s: str) -> list[int]:
        return [3 + ord(letter) - ord("a") for letter in s]


def entry_points() -> dict[str, importlib_metadata.EntryPoint]:
    found = importlib_metadata.entry_points(group="prompt_tuning.initializers")
    return {e.name: e for e in found if e.dist is not None and e.dist.name in FIRST_PARTY}


def cases(prompt_file: str) -> dict[str, dict[str, Any]]:
    """Sample arguments of every first-party factory, and what holds of them."""
    vocab, at_least_3 = Letters(), st.tuples(st.integers(3, 9), st.integers(1, 12))

    def sampled(table):
        return entry_points()["init_vocab"].load()(table, population_size=20)

    return {
        "init_random": {},
        "init_normal": {"arguments": {"stddev": 0.1}},
        "init_truncated_normal": {},
        "init_vocab": {
            "arguments": lambda table: {"embeddings": table, "population_size": 20},
            "traced_rows": 20,
        },
        "init_labels": {
            "arguments": lambda table: {
                "embeddings": table,
                "vocab": vocab,
                "texts": ["yes", "no", "maybe"],
                "initializer": sampled(table),
            },
            "shapes": at_least_3,
            "refuses": {(2, 4): (2, 3)},
            "uses_rng": lambda shape: shape[0] > 3,
            "traced_rows": 30,
        },
        "init_string": {
            "arguments": lambda table: {"embeddings": table, "vocab": vocab, "text": "yes"},
            "shapes": at_least_3,
            "refuses": {(2, 4): (2, 3)},
            "uses_rng": lambda shape: shape[0] > 3,
            "traced_rows": 3,
        },
        "init_file": {
            "arguments": {"path": prompt_file},
            "shapes": st.just((4, 6)),
            "refuses": {(3, 6): (3, 4), (5, 6): (5, 4), (4, 7): (7, 6), (4, 1): (1, 6)},
        },
    }


def test_every_first_party_factory_has_a_case(tmp_path):
    assert entry_points().keys() == cases("").keys()


@pytest.mark.parametrize(
    "name",
    [
        "init_random",
        "init_normal",
        "init_truncated_normal",
        "init_vocab",
        "init_labels",
        "init_string",
        "init_file",
    ],
)
def test_first_party_factory_keeps_the_contract(name, tmp_path):
    path = tmp_path / "prompt.npy"
    np.save(path, np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6))
    factory = entry_points()[name].load()
    results = check_initializer(factory, **cases(str(path))[name], max_examples=5)
    assert [result.name for result in results] == CLAUSES
    assert [result for result in results if not result.passed] == []
    assert all(result.examples > 0 for result in results)


# Seven that are wrong, each in one clause. They are right otherwise, so they refuse bad shapes.


def checked(shape):
    length, width = shape
    if length < 1 or width < 1:
        raise ValueError(f"can't make {length} x {width}")
    return length, width


def a_row_too_long():
    def initialize(rng, shape):
        length, width = checked(shape)
        return jax.random.uniform(rng, (length + 1, width))

    return initialize


def deaf_to_its_key():
    def initialize(rng, shape):
        return jax.random.uniform(jax.random.PRNGKey(0), checked(shape))

    return initialize


def concrete_only():
    def initialize(rng, shape):
        return jnp.asarray(np.asarray(jax.random.uniform(rng, checked(shape))))

    return initialize


def raw_keys_only():
    def initialize(rng, shape):
        return jax.random.uniform(jax.random.wrap_key_data(rng), checked(shape))

    return initialize


def padding(embeddings):
    def initialize(rng, shape):
        length, width = checked(shape)
        ids = jax.random.choice(rng, 20, (length,))
        rows = jnp.asarray(embeddings.rows(np.arange(20)))[ids]
        return jnp.pad(rows, ((0, 0), (0, width)))[:, :width]

    return initialize


def changing_its_arguments(names):
    def initialize(rng, shape):
        names.append("called")
        return jax.random.uniform(rng, checked(shape))

    return initialize


def loading_the_table(embeddings):
    def initialize(rng, shape):
        length, width = checked(shape)
        if width != embeddings.shape[1]:
            raise ValueError(f"width {width} of a table of width {embeddings.shape[1]}")
        table = jnp.asarray(np.asarray(embeddings))
        return table[jax.random.choice(rng, len(table), (length,))]

    return initialize


def with_table(table: SampleTable) -> dict[str, Any]:
    return {"embeddings": table}


@pytest.mark.parametrize(
    ("clause", "factory", "arguments"),
    [
        ("shape_and_dtype", a_row_too_long, None),
        ("deterministic_and_rng", deaf_to_its_key, None),
        ("transformations", concrete_only, None),
        ("keys_and_shape_types", raw_keys_only, None),
        ("refuses_bad_shapes", padding, with_table),
        ("no_side_effects", changing_its_arguments, {"names": ["a"]}),
        ("bounded_memory", loading_the_table, with_table),
    ],
)
def test_wrong_initializer_fails_by_its_clause(clause, factory, arguments):
    results = check_initializer(factory, arguments, shapes=FEW_SHAPES, max_examples=4)
    failed = [result for result in results if not result.passed]
    assert [result.name for result in failed] == [clause]
    assert failed[0].clause == CLAUSES.index(clause) + 1
    assert "shape (" in failed[0].detail
    assert [result.detail for result in results if result.passed] == [""] * 6


def result_of(clause: str, factory: Callable[..., Any], arguments: Any = None, **options: Any):
    (check,) = [c for c in INITIALIZER_CHECKS if c.name == clause]
    options.setdefault("shapes", FEW_SHAPES)
    results = check_initializer(factory, arguments, max_examples=2, **options)
    return results[check.clause - 1]


class TestOtherWaysToBeWrong:
    """A clause has more sides than its one wrong initializer above shows."""

    def test_not_finite(self):
        def not_finite():
            return lambda rng, shape: jax.random.uniform(rng, shape).at[0, 0].set(jnp.nan)

        assert "aren't finite" in result_of("shape_and_dtype", not_finite).detail

    def test_integers(self):
        def integers():
            return lambda rng, shape: jnp.ones(shape, jnp.int32)

        assert "int32" in result_of("shape_and_dtype", integers).detail

    def test_shapes_as_lists(self):
        def tuples_only():
            made = {}  # A list is no key of a dict.
            return lambda rng, shape: made.setdefault(shape, jax.random.uniform)(rng, shape)

        assert "TypeError" in result_of("keys_and_shape_types", tuples_only).detail

    def test_declared_uses_rng_is_false_to_behaviour(self):
        def uniform():
            return lambda rng, shape: jax.random.uniform(rng, shape)

        detail = result_of("deterministic_and_rng", uniform, uses_rng=False).detail
        assert "uses_rng is false" in detail

    def test_global_generator(self):
        def numpys():
            return lambda rng, shape: jnp.asarray(np.random.standard_normal(shape))

        assert "later" in result_of("deterministic_and_rng", numpys).detail
        assert "numpy.random" in result_of("no_side_effects", numpys).detail

    def test_reading_in_the_factory(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones((2, 2)))

        def eager(path):
            array = jnp.asarray(np.load(path))
            return lambda rng, shape: array

        result = result_of(
            "no_side_effects", eager, {"path": tmp_path / "a.npy"}, shapes=st.just((2, 2))
        )
        assert "a.npy" in result.detail

    def test_reading_the_table_in_the_factory(self):
        def eager(embeddings):
            rows = jnp.asarray(embeddings.rows(np.arange(20)))
            return lambda rng, shape: rows[jax.random.choice(rng, 20, shape[:1])]

        assert "read 20 rows" in result_of("no_side_effects", eager, with_table).detail

    def test_error_that_names_one_size_only(self):
        def terse(embeddings):
            def initialize(rng, shape):
                if shape[1] != embeddings.shape[1] or min(shape) < 1:
                    raise ValueError(f"can't serve {shape}")
                return jax.random.uniform(rng, shape)

            return initialize

        assert "doesn't name" in result_of("refuses_bad_shapes", terse, with_table).detail

    def test_another_exception(self):
        def asserting():
            def initialize(rng, shape):
                assert min(shape) > 0
                return jax.random.uniform(rng, shape)

            return initialize

        assert "AssertionError" in result_of("refuses_bad_shapes", asserting).detail

    def test_too_many_rows_within_a_trace(self):
        def whole(embeddings):
            def initialize(rng, shape):
                index = jax.random.choice(rng, 20, shape[:1])
                if isinstance(index, jax.core.Tracer):
                    return jnp.asarray(embeddings.rows(np.arange(embeddings.shape[0])))[index]
                return jnp.asarray(embeddings.rows(np.asarray(index)))

            return initialize

        result = result_of("bounded_memory", whole, with_table, traced_rows=20)
        assert "within a trace" in result.detail


def test_the_same_examples_are_tried_every_time():
    options = {"shapes": FEW_SHAPES, "max_examples": 2}
    first, second = (check_initializer(a_row_too_long, **options) for _ in range(2))
    assert first == second


def test_missing_hypothesis_is_named():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from prompt_tuning_testing import check_initializer\n"
        "try: check_initializer(lambda: None)\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install hypothesis" in run.stdout
