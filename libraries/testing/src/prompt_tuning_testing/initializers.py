"""The contract of initializers as seven checks, one for each of its clauses.

`INITIALIZER_CHECKS` is the list; `check_initializer` runs it on a factory and returns records.
No check knows the expected values: a check tests a property that every initializer must have, or
compares two calls of one initializer.

The clauses are as independent as possible: keys are raw `PRNGKey` arrays and shapes are tuples,
except in the clause about them. So if an initializer breaks one clause, only that clause fails.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import os
import random
import re
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core.errors import InputError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from prompt_tuning_core.protocols import Initializer

    Arguments = Mapping[str, Any] | Callable[["SampleTable"], Mapping[str, Any]]

Shape = tuple[int, int]

_TOLERANCE = 1e-6
_KEYS = 16
_LOW_TABLE_ROWS, _HIGH_TABLE_ROWS, _TABLE_WIDTH = 1 << 10, 1 << 16, 64
_MEMORY_LIMIT = 16 << 20
_CODE_SUFFIXES = (".py", ".pyc", ".so", ".pyd", ".dylib")


class SampleTable:
    """An embedding table of any height that takes no memory and counts the rows read from it.

    It also converts to an array, and counts that as reading all rows.

    Attributes:
      shape: `(V, H)`.
      dtype: float32.
      rows_read: Number of rows read so far.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.shape = (rows, width)
        self.dtype = np.dtype(np.float32)
        self.rows_read = 0

    def __repr__(self) -> str:
        return f"SampleTable{self.shape}"

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns rows `ids` `[n]`, float32 `[n, H]`; all rows differ.

        Raises:
          InputError: If an id is outside the table.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not 0 <= ids.min() <= ids.max() < self.shape[0]):
            raise InputError(f"{self}: asked for the rows {ids}")
        self.rows_read += ids.size
        width = self.shape[1]
        cells = ids.astype(np.uint32)[:, np.newaxis] * np.uint32(width) + np.arange(
            width, dtype=np.uint32
        )
        # A multiplicative hash (Knuth). The factor is odd, so different ids give different values.
        cells *= np.uint32(2654435761)
        return (cells / np.float64(1 << 32) - 0.5).astype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.rows(np.arange(self.shape[0])).astype(dtype or self.dtype)


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
      name: The check's name.
      clause: The number of the contract's clause.
      statement: The clause.
      passed: True if the clause holds.
      detail: The smallest failing example and what happened; empty if the check passed.
      examples: Number of examples tried.
    """

    name: str
    clause: int
    statement: str
    passed: bool
    detail: str
    examples: int


@dataclasses.dataclass(frozen=True)
class Check:
    """A clause of the contract.

    Attributes:
      name: Its name.
      clause: Its number.
      statement: The clause in a sentence.
      run: Tries one example `(subject, shape, seed)`; raises if the clause does not hold for it.
      max_examples: A limit of its own, for a check that is slow.
    """

    name: str
    clause: int
    statement: str
    run: Callable[[_Subject, Shape, int], None]
    max_examples: int | None = None


def check_initializer(
    factory: Callable[..., Initializer],
    arguments: Arguments | None = None,
    *,
    shapes: SearchStrategy[Shape] | None = None,
    refuses: Mapping[Shape, Sequence[int]] | None = None,
    uses_rng: bool | Callable[[Shape], bool] | None = None,
    table_rows: int = 32,
    traced_rows: int | None = None,
    max_examples: int = 20,
) -> list[CheckResult]:
    """Checks an initializer factory against the contract.

    Args:
      factory: The factory.
      arguments: Its keyword arguments. For a factory that takes an embedding table: a function that
        makes them from a table, such as `lambda table: {"embeddings": table}`. Each example gets
        its own copy of lists, tuples, dicts and arrays.
      shapes: A hypothesis strategy for the shapes `(P, H)` that the initializer must serve.
        Default: P from 1 to 12, H from 1 to 16.
      refuses: Shapes that it must refuse, each with the numbers that the error must name. A factory
        that takes a table gets one of that width. Sizes below 1, and widths that are not the
        table's, are always tried.
      uses_rng: True if the values depend on the key; a function if that depends on the shape.
        Default: the factory's attribute `uses_rng`, or True without that attribute.
      table_rows: The height of the table that `arguments` gets, except in the check of memory.
      traced_rows: The most rows that may be read inside a trace; None for the whole table.
      max_examples: The most examples that each check tries; the same ones every time.

    Returns:
      One record for each of `INITIALIZER_CHECKS`, in that order.

    Raises:
      ImportError: If hypothesis isn't installed.
    """
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError(
            "the contract checks need the package hypothesis, which isn't installed; install it "
            "with: pip install hypothesis"
        ) from error
    declared = getattr(factory, "uses_rng", True) if uses_rng is None else uses_rng
    subject = _Subject(
        factory=factory,
        arguments={} if arguments is None else arguments,
        refuses=refuses or {},
        uses_rng=declared if callable(declared) else lambda _: declared,
        table_rows=table_rows,
        traced_rows=traced_rows,
    )
    if shapes is None:
        shapes = strategies.tuples(strategies.integers(1, 12), strategies.integers(1, 16))
    return [_run(check, subject, shapes, max_examples) for check in INITIALIZER_CHECKS]


def _run(
    check: Check, subject: _Subject, shapes: SearchStrategy[Shape], max_examples: int
) -> CheckResult:
    import hypothesis

    tried: list[tuple[Shape, int]] = []

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=min(max_examples, check.max_examples or max_examples),
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    @hypothesis.given(shape=shapes, seed=hypothesis.strategies.integers(0, 2**31 - 1))
    def examples(shape: Shape, seed: int) -> None:
        tried.append((shape, seed))
        with warnings.catch_warnings():
            # An initializer may warn, for example that it draws some rows twice.
            warnings.simplefilter("ignore")
            check.run(subject, shape, seed)

    detail = ""
    try:
        examples()
    except Exception as error:  # An initializer may raise anything; the record reports it.
        # The last example tried is the smallest that hypothesis found.
        found = str(error) if isinstance(error, _BrokenClauseError) else repr(error)
        detail = f"shape {tried[-1][0]}, key {tried[-1][1]}: {found}" if tried else found
    return CheckResult(check.name, check.clause, check.statement, not detail, detail, len(tried))


class _BrokenClauseError(AssertionError):
    """A clause does not hold for an example."""


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise _BrokenClauseError(found)


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A factory, and how to make initializers with it."""

    factory: Callable[..., Initializer]
    arguments: Arguments
    refuses: Mapping[Shape, Sequence[int]]
    uses_rng: Callable[[Shape], bool]
    table_rows: int
    traced_rows: int | None

    @property
    def reads_table(self) -> bool:
        return callable(self.arguments)

    def make_arguments(self, table: SampleTable) -> Mapping[str, Any]:
        given = self.arguments(table) if callable(self.arguments) else self.arguments
        return _copied(given)

    def make(self, width: int) -> Initializer:
        return self.factory(**self.make_arguments(SampleTable(self.table_rows, width)))


def _copied(value: Any) -> Any:
    """Copies plain containers and arrays; shares all other values, such as a vocabulary."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.copy()
    return value


def _same(a: Any, b: Any) -> bool:
    """Checks that two copies of one value (see `_copied`) are still equal."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a is b or bool(a == b)


def _bits(x: Any) -> bytes:
    return np.asarray(x).tobytes()


def _check_shape_and_dtype(subject: _Subject, shape: Shape, seed: int) -> None:
    result = subject.make(shape[1])(jax.random.PRNGKey(seed), shape)
    _require(tuple(result.shape) == shape, f"returned shape {tuple(result.shape)}")
    _require(jnp.issubdtype(result.dtype, jnp.floating), f"returned dtype {result.dtype}")
    _require(bool(jnp.isfinite(result).all()), "returned values that aren't finite")


def _check_deterministic_and_rng(subject: _Subject, shape: Shape, seed: int) -> None:
    initializer = subject.make(shape[1])
    key = jax.random.PRNGKey(seed)
    first = _bits(initializer(key, shape))
    # Two draws may be equal by chance, such as of one row from three; sixteen hardly ever.
    others = [_bits(initializer(k, shape)) for k in jax.random.split(key, _KEYS)]
    _require(_bits(initializer(key, shape)) == first, "the same key gave other values later")
    again = subject.make(shape[1])(key, shape)
    _require(_bits(again) == first, "the same key gave other values in another initializer")
    differ = any(other != first for other in others)
    if subject.uses_rng(shape):
        _require(differ, f"{_KEYS + 1} keys gave the same values, though uses_rng is true")
    else:
        _require(not differ, "different keys gave different values, though uses_rng is false")


def _check_transformations(subject: _Subject, shape: Shape, seed: int) -> None:
    initializer = subject.make(shape[1])
    key = jax.random.PRNGKey(seed)
    eager = initializer(key, shape)
    abstract = jax.eval_shape(lambda k: initializer(k, shape), key)
    _require(
        (abstract.shape, abstract.dtype) == (eager.shape, eager.dtype),
        f"jax.eval_shape says {abstract}, a call returned {eager.dtype}{list(eager.shape)}",
    )
    compiled = jax.jit(lambda k: initializer(k, shape))(key)
    difference = np.abs(np.asarray(compiled, np.float64) - np.asarray(eager, np.float64))
    _require(
        # Not `difference <= …`: another clause reports values that are not finite.
        not (difference > _TOLERANCE).any(),
        f"jax.jit and a call differ by {difference.max()}, more than {_TOLERANCE}",
    )
    # If the initializer keeps a tracer, the next call fails.
    _require(_bits(initializer(key, shape)) == _bits(eager), "a call after jax.jit differs")


def _check_keys_and_shape_types(subject: _Subject, shape: Shape, seed: int) -> None:
    initializer = subject.make(shape[1])
    raw, typed = jax.random.PRNGKey(seed), jax.random.key(seed)
    expected = _bits(initializer(raw, shape))
    _require(_bits(initializer(typed, shape)) == expected, "typed and raw keys give other values")
    if _traces(initializer, raw, shape):  # If it never traces, another clause reports that.
        _require(_traces(initializer, typed, shape), "jax.eval_shape fails with typed keys only")
    listed = list(shape)
    _require(
        _bits(initializer(raw, listed)) == expected, "shape as a list and a tuple give other values"
    )
    _require(listed == list(shape), f"shape, a list, was changed to {listed}")


def _traces(initializer: Initializer, key: jax.Array, shape: Shape) -> bool:
    try:
        jax.eval_shape(lambda k: initializer(k, shape), key)
    except Exception:  # The type does not matter: it does not trace.
        return False
    return True


def _check_refuses_bad_shapes(subject: _Subject, shape: Shape, seed: int) -> None:
    length, width = shape
    refused: dict[Shape, Sequence[int]] = {
        (0, width): (0,),
        (-length, width): (-length,),
        (length, 0): (0,),
    }
    if subject.reads_table:
        for wrong in {1, width - 1, width + 1, 2 * width} - {0, width}:
            refused[length, wrong] = (wrong, width)
    # For our bad shapes, the table has the good width; for the author's, that of the bad shape.
    cases = [(width, refused), *((bad[1], {bad: named}) for bad, named in subject.refuses.items())]
    for table_width, bad, named in ((w, b, n) for w, bads in cases for b, n in bads.items()):
        initializer = subject.make(table_width)
        try:
            result = initializer(jax.random.PRNGKey(seed), bad)
        except ValueError as error:
            numbers = {int(number) for number in re.findall(r"-?\d+", str(error))}
            missing = sorted(set(named) - numbers)
            _require(not missing, f"refuses {bad}, but the error doesn't name {missing}: {error}")
        except Exception as error:  # Any other type of error breaks the clause.
            raise _BrokenClauseError(
                f"refuses {bad} by {error!r}, expected a ValueError"
            ) from error
        else:
            raise _BrokenClauseError(f"serves {bad}, with shape {tuple(result.shape)}")


def _check_no_side_effects(subject: _Subject, shape: Shape, seed: int) -> None:
    table = SampleTable(subject.table_rows, shape[1])
    arguments = subject.make_arguments(table)
    before = _copied(arguments)
    state = _global_state()
    with _files_opened() as opened:
        initializer = subject.factory(**arguments)
    _require(not opened, f"making the initializer opened {', '.join(opened)}")
    _require(not table.rows_read, f"making the initializer read {table.rows_read} rows")
    key = jax.random.PRNGKey(seed)
    initializer(key, shape)
    _traces(initializer, key, shape)
    _require(_same(before, arguments), "an argument of the factory was changed")
    for name, value in _global_state().items():
        _require(_same(state[name], value), f"{name} was changed")


def _global_state() -> dict[str, Any]:
    return {
        "the state of numpy.random": copy.deepcopy(np.random.get_state()),
        "the state of random": random.getstate(),
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "numpy's error handling": np.geterr(),
        "jax.config": dict(jax.config.values),
    }


class _Audit:
    """Records the files that a thread opens. Python cannot remove an audit hook: add only one."""

    installed = False
    watched: ClassVar[dict[int, list[str]]] = {}

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not cls.watched:
            return
        opened = cls.watched.get(threading.get_ident())
        path = arguments[0]
        if opened is None or not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.fsdecode(path)
        if not path.endswith(_CODE_SUFFIXES):  # Files of code are opened by imports.
            opened.append(path)


@contextmanager
def _files_opened() -> Iterator[list[str]]:
    if not _Audit.installed:
        sys.addaudithook(_Audit.hook)
        _Audit.installed = True
    thread = threading.get_ident()
    opened = _Audit.watched[thread] = []
    try:
        yield opened
    finally:
        del _Audit.watched[thread]


def _check_bounded_memory(subject: _Subject, shape: Shape, seed: int) -> None:
    key = jax.random.PRNGKey(seed)
    if not subject.reads_table:
        peak = _peak(lambda: subject.make(shape[1]), key, shape)
        _require(peak <= _MEMORY_LIMIT, f"took {peak} bytes, expected at most {_MEMORY_LIMIT}")
        return
    # Any width will do for a table; a wide one shows the difference best.
    shape = (shape[0], _TABLE_WIDTH)

    def make(rows: int) -> Initializer:
        return subject.factory(**subject.make_arguments(SampleTable(rows, _TABLE_WIDTH)))

    low, high = (
        _peak(functools.partial(make, rows), key, shape)
        for rows in (_LOW_TABLE_ROWS, _HIGH_TABLE_ROWS)
    )
    growth, table = high - low, 4 * _TABLE_WIDTH * (_HIGH_TABLE_ROWS - _LOW_TABLE_ROWS)
    _require(
        growth <= table // 8,
        f"took {growth} bytes more for a table of {_HIGH_TABLE_ROWS} rows than for one of "
        f"{_LOW_TABLE_ROWS}: it reads the table, expected rows",
    )
    if subject.traced_rows is not None:
        traced = SampleTable(_HIGH_TABLE_ROWS, _TABLE_WIDTH)
        initializer = subject.factory(**subject.make_arguments(traced))
        jax.eval_shape(lambda k: initializer(k, shape), key)
        _require(
            traced.rows_read <= subject.traced_rows,
            f"read {traced.rows_read} rows within a trace, expected at most {subject.traced_rows}",
        )


def _peak(make: Callable[[], Initializer], key: jax.Array, shape: Shape) -> int:
    """Returns the peak of extra memory, in bytes, while an initializer is made and called.

    This counts numpy arrays, which hold what is read from files and tables, but not JAX's buffers.
    """
    make()(key, shape)  # So that compiling isn't counted.
    gc.collect()
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        make()(key, shape)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before


INITIALIZER_CHECKS: tuple[Check, ...] = (
    Check(
        "shape_and_dtype",
        1,
        "the result has exactly the given shape and a floating dtype, and is finite",
        _check_shape_and_dtype,
    ),
    Check(
        "deterministic_and_rng",
        2,
        "the same key gives the same bits, and other keys other values if uses_rng is true",
        _check_deterministic_and_rng,
    ),
    Check(
        "transformations",
        3,
        "works in jax.eval_shape and jax.jit with a traced key, and agrees with a plain call",
        _check_transformations,
    ),
    Check(
        "keys_and_shape_types",
        4,
        "typed and raw keys agree, and so do shapes as lists and as tuples",
        _check_keys_and_shape_types,
    ),
    Check(
        "refuses_bad_shapes",
        5,
        "a shape that can't be served is a ValueError that names the sizes",
        _check_refuses_bad_shapes,
    ),
    Check(
        "no_side_effects",
        6,
        "changes neither arguments nor global state, and making it reads nothing",
        _check_no_side_effects,
    ),
    Check(
        "bounded_memory",
        7,
        "reads rows and not tables",
        _check_bounded_memory,
        max_examples=3,
    ),
)
