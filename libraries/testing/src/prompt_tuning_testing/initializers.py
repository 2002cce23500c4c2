"""The contract of initializers, as checks: one or two for each of its clauses.

`INITIALIZER_CHECKS` is the list; `check_initializer` runs it on a factory. No check knows the
expected values: a check tests a property that every initializer must have, or compares two calls of
one initializer.

The clauses are as independent as possible: keys are raw `PRNGKey` arrays and shapes are tuples,
except in the clause about keys and shapes. So if an initializer breaks one clause, only that clause
fails.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import re
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_testing import checks, other_process
from prompt_tuning_testing.checks import Check, CheckResults, NotTriedError, require
from prompt_tuning_testing.contracts import Contract, check_plugin
from prompt_tuning_testing.sample_values import Arguments, Samples, SampleTable, arguments_of
from prompt_tuning_testing.watching import same

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from prompt_tuning_core.protocols import Initializer

Shape = tuple[int, int]

REAL_SHAPES: tuple[Shape, ...] = ((1, 768), (20, 512), (100, 768), (150, 1024))
"""The sizes of prompts in use; the checks try them in addition to the small shapes they draw."""

_QUICK_SHAPES = REAL_SHAPES[1::2]
_QUICK = 5  # Checks with fewer examples also compile for fewer shapes.
_MANY_ROWS, _WIDE, _NARROW = 150, 1024, 16
_TOLERANCE = 1e-6
_KEYS = 16
_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
_LOW_TABLE_ROWS, _HIGH_TABLE_ROWS, _TABLE_WIDTH = 1 << 10, 1 << 16, 64
_MEMORY_LIMIT = 16 << 20
# This includes the memory for compiling.
_PROCESS_MEMORY_LIMIT = 256 << 20


class Example(NamedTuple):
    """A shape and the seed of a key."""

    shape: Shape
    seed: int

    def __str__(self) -> str:
        return f"shape {self.shape}, key {self.seed}"


@dataclasses.dataclass(frozen=True)
class _Make:
    """Makes an initializer with a table; it is sent to another process."""

    factory: Callable[..., Initializer]
    arguments: Arguments

    @property
    def module(self) -> str:
        """The name of the factory's module."""
        return str(getattr(self.factory, "__module__", ""))

    def __call__(self, table: SampleTable) -> Initializer:
        return self.factory(**self.with_table(table))

    def with_table(self, table: SampleTable) -> Mapping[str, Any]:
        """Returns the arguments with copies of all lists, tuples, mappings and arrays."""
        given = self.arguments(Samples(table)) if callable(self.arguments) else self.arguments
        copied: Mapping[str, Any] = _copied(given)
        return copied


@dataclasses.dataclass(frozen=True)
class InitializerSubject:
    """A factory of initializers, and how to try it; see `check_initializer`."""

    factory: Callable[..., Initializer]
    arguments: Arguments
    shapes: SearchStrategy[Shape] | Sequence[Shape] | None = None
    refuses: Mapping[Shape, Sequence[int]] = dataclasses.field(default_factory=dict)
    uses_rng: bool = True
    table_rows: int = 4096
    seed: int = 0
    first_shapes: Sequence[Shape] = REAL_SHAPES
    is_quick: bool = False

    @functools.cached_property
    def reads_table(self) -> bool:
        """True if the factory takes a table."""
        table = SampleTable(1, 1)
        return any(value is table for value in self.maker.with_table(table).values())

    @property
    def maker(self) -> _Make:
        """Makes initializers with a table."""
        return _Make(self.factory, self.arguments)

    def make(self, width: int, rows: int | None = None) -> Initializer:
        """Makes an initializer with a table of this width."""
        return self.maker(SampleTable(self.table_rows if rows is None else rows, width))

    def examples(self) -> SearchStrategy[Example]:
        """Makes the strategy of the examples."""
        from hypothesis import strategies

        shapes = self.shapes
        if shapes is None:
            shapes = strategies.tuples(checks.integers(1, 12), checks.integers(1, 16))
        elif isinstance(shapes, Sequence):
            listed = tuple(shapes)
            shapes = checks.integers(0, len(listed) - 1).map(lambda n: listed[n])
        return strategies.builds(Example, shapes, checks.integers(0, 2**31 - 1))

    def first_examples(self, keys: int = 1) -> list[Example]:
        """Returns the examples that are always tried: with real sizes, or with the given shapes."""
        return [
            Example(shape, self.seed + key) for shape in self.first_shapes for key in range(keys)
        ]

    def serve(self, initializer: Initializer, example: Example, key: Any = None) -> Any:
        """Calls an initializer; returns None if it refuses the shape as clause 5 allows.

        Raises:
          BrokenClauseError: If it refuses the shape by an error that does not name both sizes.
        """
        key = jax.random.PRNGKey(example.seed) if key is None else key
        try:
            result = initializer(key, example.shape)
            require(result is not None, "returned None")
            return result
        except ValueError as error:
            named = {int(number) for number in re.findall(r"-?\d+", str(error))}
            if example.shape not in self.refuses and not (
                named & set(example.shape) and named - set(example.shape)
            ):
                raise
            return None

    @functools.cached_property
    def fixed_rows(self) -> int:
        """Number of first rows that no key changes, such as rows of labels; 0 if all are fixed."""
        values = self._values_at((_MANY_ROWS, _WIDE if self.shapes is None else _NARROW))
        if values is None:
            return 0
        differs = np.any([(value != values[0]).any(axis=1) for value in values], axis=0)
        return int(np.argmax(differs)) if differs.any() else 0

    def _values_at(self, shape: Shape) -> list[np.ndarray] | None:
        initializer = self.make(shape[1])
        served = [
            self.serve(initializer, Example(shape, self.seed), key=key)
            for key in jax.random.split(jax.random.PRNGKey(self.seed), _KEYS)
        ]
        if any(one is None or np.shape(one) != shape for one in served):
            return None
        return [np.asarray(one) for one in served]

    @functools.cached_property
    def elsewhere(self) -> tuple[Sequence[Example], other_process.Report]:
        """The examples that another process tried, and its report.

        Raises:
          NotTriedError: If it cannot try any.
        """
        environment = dict(os.environ)  # Before the first call, which may change it.
        # The other process watches the first example.
        drawn = checks.collected(self.examples(), self.seed, 1 if self.is_quick else 3)
        real = (one for one in self.first_examples() if one.shape in _QUICK_SHAPES)
        wanted = [
            one for one in (*drawn, *real) if self.serve(self.make(one.shape[1]), one) is not None
        ]
        if not wanted:
            raise NotTriedError("it serves none of the shapes that are tried")
        task = other_process.Task(self.maker, self.table_rows, wanted)
        return wanted, other_process.tried(task, environment)


def check_initializer(
    factory: Callable[..., Initializer],
    arguments: Arguments | None = None,
    *,
    shapes: SearchStrategy[Shape] | Sequence[Shape] | None = None,
    refuses: Mapping[Shape, Sequence[int]] | None = None,
    uses_rng: bool | None = None,
    max_examples: int = 20,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> CheckResults:
    """Checks an initializer factory against the contract (docs/plugins.md).

    Args:
      factory: The factory.
      arguments: Its keyword arguments; or a function that makes them from `Samples`, such as
        `lambda samples: {"embeddings": samples.table}`. Each example gets its own copy of lists,
        tuples, mappings and arrays. The factory's attribute `sample_arguments` makes the other
        arguments; without it, they are samples by the types of the parameters.
      shapes: The shapes `(P, H)` to try: a sequence, or a strategy of hypothesis. Each shape of a
        sequence is tried. Default: P from 1 to 12, H from 1 to 16, and `REAL_SHAPES`. The factory
        may refuse some shapes, by a `ValueError` that names both sizes, but not all.
      refuses: Shapes that it must refuse, each with the numbers that the error must name. A factory
        that takes a table gets a table of that width. Widths that differ from the table's width are
        always tried.
      uses_rng: True if the values depend on the key. Default: the factory's attribute `uses_rng`,
        or True without that attribute.
      max_examples: The most examples that each check draws; below 5, fewer real sizes are tried.
      seed: Determines the examples.
      expected_failures: The checks that the factory is known to fail: reasons by the names of
        checks. If the factory passes one of them, that is a failure.

    Returns:
      One result for each of `INITIALIZER_CHECKS`; a test calls its `raise_if_failed()`.

    Raises:
      InputError: If an argument is not given and the type of its parameter determines no sample.
      ImportError: If hypothesis isn't installed.
    """
    return check_plugin(
        factory,
        "initializer",
        arguments,
        shapes=shapes,
        refuses=refuses,
        uses_rng=uses_rng,
        max_examples=max_examples,
        seed=seed,
        expected_failures=expected_failures,
    )


def initializer_subject(
    factory: Callable[..., Initializer],
    arguments: Arguments | None = None,
    *,
    shapes: SearchStrategy[Shape] | Sequence[Shape] | None = None,
    refuses: Mapping[Shape, Sequence[int]] | None = None,
    uses_rng: bool | None = None,
    max_examples: int = 20,
    seed: int = 0,
) -> InitializerSubject:
    """Returns the subject of the checks; takes and raises the same as `check_initializer`."""
    try:
        import hypothesis  # noqa: F401  # Only to see that it is there.
    except ImportError as error:
        raise ImportError(
            "the contract checks need the package hypothesis, which isn't installed; install it "
            "with: pip install hypothesis"
        ) from error
    is_quick = max_examples < _QUICK
    first = _QUICK_SHAPES if is_quick else REAL_SHAPES
    if shapes is not None:
        first = tuple(shapes) if isinstance(shapes, Sequence) else ()
    return InitializerSubject(
        factory=factory,
        arguments=arguments if callable(arguments) else arguments_of(factory, arguments or {}),
        shapes=shapes,
        refuses=refuses or {},
        uses_rng=bool(getattr(factory, "uses_rng", True)) if uses_rng is None else uses_rng,
        seed=seed,
        first_shapes=first,
        is_quick=is_quick,
    )


def _copied(value: Any) -> Any:
    """Copies plain containers and arrays; shares all other values, such as a vocabulary."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.copy()
    return value


def _bits(x: Any) -> bytes:
    return np.asarray(x).tobytes()


def _check_shape_and_dtype(subject: InitializerSubject, example: Example) -> None:
    heights = [subject.table_rows]
    if subject.reads_table:  # A table may have fewer rows than the prompt.
        heights.append(max(1, example.shape[0] // 2))
    for rows in heights:
        result = subject.serve(subject.make(example.shape[1], rows), example)
        if result is None:
            continue
        of = f" with a table of {rows} rows" if len(heights) > 1 else ""
        require(isinstance(result, jax.Array | np.ndarray), f"returned a {type(result).__name__}")
        shape = tuple(result.shape)
        require(shape == example.shape, f"returned the shape {shape}{of}")
        require(result.dtype == jnp.float32, f"returned {result.dtype}, expected float32")
        # NumPy's function, which compiles nothing.
        require(np.isfinite(np.asarray(result)).all(), f"returned values that aren't finite{of}")


def _check_serves_a_shape(subject: InitializerSubject, nothing: None) -> None:
    """Refuses a factory that serves no shape: then nothing was checked."""
    drawn = [*checks.collected(subject.examples(), subject.seed, 20), *subject.first_examples()]
    served = (subject.serve(subject.make(one.shape[1]), one) is not None for one in drawn)
    require(any(served), f"refuses all of {len(drawn)} shapes; give the shapes that it serves")


def _check_deterministic_and_rng(subject: InitializerSubject, example: Example) -> None:
    shape = example.shape
    initializer = subject.make(shape[1])
    key = jax.random.PRNGKey(example.seed)
    first = subject.serve(initializer, example)
    if first is None:
        return
    # Two draws may be equal by chance, such as draws of one row from three; sixteen hardly ever.
    others = [_bits(initializer(k, shape)) for k in jax.random.split(key, _KEYS)]
    require(_bits(initializer(key, shape)) == _bits(first), "the same key gave other values later")
    again = subject.make(shape[1])(key, shape)
    require(_bits(again) == _bits(first), "the same key gave other values in another initializer")
    different = len({_bits(first), *others})
    if not subject.uses_rng:
        require(different == 1, "different keys gave different values, though uses_rng is false")
    elif shape[0] > subject.fixed_rows:
        require(different > 1, f"{_KEYS + 1} keys gave the same values, though uses_rng is true")
        if shape[0] >= 20 and shape[1] >= 512:
            require(
                different == _KEYS + 1,
                f"{_KEYS + 1} keys gave {different} different values, though uses_rng is true",
            )


def _check_other_process(subject: InitializerSubject, nothing: None) -> None:
    examples, report = subject.elsewhere
    for example, there in zip(examples, report.values, strict=True):
        initializer = subject.make(example.shape[1])
        here = other_process.checksum(initializer(jax.random.PRNGKey(example.seed), example.shape))
        if here != there:
            found = "gives other values" if len(there) == len(here) else f"raises {there}"
            raise checks.BrokenClauseError(f"{example}: another process {found}")


def _check_transformations(subject: InitializerSubject, example: Example) -> None:
    shape = example.shape
    initializer = subject.make(shape[1])
    key = jax.random.PRNGKey(example.seed)
    eager = subject.serve(initializer, example)
    if eager is None:
        return
    abstract = jax.eval_shape(lambda k: initializer(k, shape), key)
    require(
        (abstract.shape, abstract.dtype) == (eager.shape, eager.dtype),
        f"jax.eval_shape says {abstract}, a call returned {eager.dtype}{list(eager.shape)}",
    )
    compiled = jax.jit(lambda k: initializer(k, shape))(key)
    values = np.asarray(eager, np.float64)
    difference = np.abs(np.asarray(compiled, np.float64) - values)
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    require(
        # Not `difference <= …`: another clause reports values that are not finite.
        not (difference > _TOLERANCE * largest).any(),
        f"jax.jit and a call differ by {difference.max()}, more than {_TOLERANCE} of the largest "
        f"value, {largest}",
    )
    # If the initializer keeps a tracer, the next call fails.
    require(_bits(initializer(key, shape)) == _bits(eager), "a call after jax.jit differs")


def _check_keys_and_shape_types(subject: InitializerSubject, example: Example) -> None:
    shape = example.shape
    initializer = subject.make(shape[1])
    if subject.serve(initializer, example) is None:
        return
    expected = b""
    for implementation in _IMPLEMENTATIONS:
        with jax.default_prng_impl(implementation):
            raw = jax.random.PRNGKey(example.seed)
            typed = jax.random.key(example.seed, impl=implementation)
            value = _bits(initializer(raw, shape))
            require(
                _bits(initializer(typed, shape)) == value,
                f"typed and raw keys of {implementation} give other values",
            )
            if _traces(initializer, raw, shape):  # If it never traces, another clause reports that.
                require(
                    _traces(initializer, typed, shape), "jax.eval_shape fails with typed keys only"
                )
        expected = expected or value
    listed = list(shape)
    others = {"a list": listed, "NumPy's integers": tuple(np.asarray(shape, np.int64))}
    with jax.default_prng_impl(_IMPLEMENTATIONS[0]):
        raw = jax.random.PRNGKey(example.seed)
        for name, other in others.items():
            require(
                _bits(initializer(raw, other)) == expected,
                f"a shape of {name} and a tuple of ints give other values",
            )
    require(listed == list(shape), f"shape, a list, was changed to {listed}")


def _traces(initializer: Initializer, key: jax.Array, shape: Shape) -> bool:
    try:
        jax.eval_shape(lambda k: initializer(k, shape), key)
    except Exception:  # The type does not matter: it does not trace.
        return False
    return True


def _check_refuses_bad_shapes(subject: InitializerSubject, example: Example) -> None:
    length, width = example.shape
    refused: dict[Shape, Sequence[int]] = {}
    if subject.reads_table:
        for wrong in {1, width - 1, width + 1, 2 * width} - {0, width}:
            refused[length, wrong] = (wrong, width)
    # For our bad shapes, the table has the good width; for the author's, the bad shape's width.
    cases = [(width, refused), *((bad[1], {bad: named}) for bad, named in subject.refuses.items())]
    for table_width, bad, named in ((w, b, n) for w, bads in cases for b, n in bads.items()):
        initializer = subject.make(table_width)
        try:
            result = initializer(jax.random.PRNGKey(example.seed), bad)
        except ValueError as error:
            numbers = {int(number) for number in re.findall(r"-?\d+", str(error))}
            missing = sorted(set(named) - numbers)
            require(not missing, f"refuses {bad}, but the error doesn't name {missing}: {error}")
        except Exception as error:  # Any other type of error breaks the clause.
            raise checks.BrokenClauseError(
                f"refuses {bad} by {error!r}, expected a ValueError"
            ) from error
        else:
            raise checks.BrokenClauseError(f"serves {bad}, with shape {tuple(result.shape)}")
    _check_sizes_of_nothing(subject, example)


def _check_sizes_of_nothing(subject: InitializerSubject, example: Example) -> None:
    """A size of 0 may be refused by any exception, or served with an empty array."""
    length, width = example.shape
    for bad in ((0, width), (length, 0), (-length, width), (length, -width)):
        try:
            result = subject.make(width)(jax.random.PRNGKey(example.seed), bad)
        except Exception:  # The contract allows any.
            continue
        require(tuple(result.shape) == bad, f"serves {bad}, with shape {tuple(result.shape)}")


def _check_keeps_arguments(subject: InitializerSubject, example: Example) -> None:
    """Requires that the caller's arguments stay the same; another check is about the process."""
    table = SampleTable(subject.table_rows, example.shape[1])
    arguments = subject.maker.with_table(table)
    before = _copied(arguments)
    initializer = subject.factory(**arguments)
    require(not table.rows_read, f"making the initializer read {table.rows_read} rows")
    key = jax.random.PRNGKey(example.seed)
    subject.serve(initializer, example, key=key)
    _traces(initializer, key, example.shape)
    require(same(before, arguments), "an argument of the factory was changed")


def _check_leaves_the_process_alone(subject: InitializerSubject, nothing: None) -> None:
    _, report = subject.elsewhere
    made = "; ".join(report.in_factory)
    require(not made, f"making the initializer {made}")
    require(not report.changes, f"making or calling it {'; '.join(report.changes)}")


def _check_bounded_memory(subject: InitializerSubject, example: Example) -> None:
    if not subject.reads_table:
        peak = _peak(lambda: subject.make(example.shape[1]), subject, example)
        require(peak <= _MEMORY_LIMIT, f"took {peak} bytes, expected at most {_MEMORY_LIMIT}")
        return
    # Any width is possible for a table; a large one shows the difference best.
    example = example._replace(shape=(example.shape[0], _TABLE_WIDTH))
    low, high = (
        _peak(functools.partial(subject.make, _TABLE_WIDTH, rows), subject, example)
        for rows in (_LOW_TABLE_ROWS, _HIGH_TABLE_ROWS)
    )
    growth, table = high - low, 4 * _TABLE_WIDTH * (_HIGH_TABLE_ROWS - _LOW_TABLE_ROWS)
    require(
        growth <= table // 8,
        f"took {growth} bytes more for a table of {_HIGH_TABLE_ROWS} rows than for one of "
        f"{_LOW_TABLE_ROWS}: it reads the table, expected rows",
    )


def _check_bounded_memory_of_jax(subject: InitializerSubject, nothing: None) -> None:
    _, report = subject.elsewhere
    require(
        report.memory <= _PROCESS_MEMORY_LIMIT,
        f"it took {report.memory} bytes of another process, expected at most "
        f"{_PROCESS_MEMORY_LIMIT}",
    )


def _peak(make: Callable[[], Initializer], subject: InitializerSubject, example: Example) -> int:
    """Returns the peak of extra memory, in bytes, while an initializer is made and called.

    This counts numpy arrays, such as rows from files and tables, but not JAX's buffers.
    """
    subject.serve(make(), example)  # So that compiling isn't counted.
    gc.collect()
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        subject.serve(make(), example)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before


INITIALIZER_CHECKS: tuple[Check[InitializerSubject], ...] = (
    Check(
        "serves_a_shape",
        1,
        "at least one of the shapes that are tried is served",
        _check_serves_a_shape,
        is_needed=True,
    ),
    Check(
        "shape_and_dtype",
        1,
        "the result has exactly the given shape, is float32 and finite",
        _check_shape_and_dtype,
        InitializerSubject.examples,
        lambda subject: subject.first_examples(8),
    ),
    Check(
        "deterministic_and_rng",
        2,
        "the same key gives the same bits, and other keys other values if uses_rng is true",
        _check_deterministic_and_rng,
        InitializerSubject.examples,
        InitializerSubject.first_examples,
        most=10,
    ),
    Check(
        "other_process",
        2,
        "the same key gives the same bits in another process",
        _check_other_process,
    ),
    Check(
        "transformations",
        3,
        "works in jax.eval_shape and jax.jit with a traced key, and agrees with a plain call",
        _check_transformations,
        InitializerSubject.examples,
        lambda subject: [one for one in subject.first_examples() if one.shape == (20, 512)],
        most=8,
    ),
    Check(
        "keys_and_shape_types",
        4,
        "typed and raw keys agree in each implementation, and so do shapes of all types",
        _check_keys_and_shape_types,
        InitializerSubject.examples,
        most=3,
    ),
    Check(
        "refuses_bad_shapes",
        5,
        "a shape that can't be served is a ValueError that names both sizes",
        _check_refuses_bad_shapes,
        InitializerSubject.examples,
        most=10,
    ),
    Check(
        "keeps_arguments",
        6,
        "changes no argument, and making it reads no row of a table",
        _check_keeps_arguments,
        InitializerSubject.examples,
        most=6,
    ),
    Check(
        "leaves_the_process_alone",
        6,
        "changes nothing in its process, and making it reads no file",
        _check_leaves_the_process_alone,
    ),
    Check(
        "bounded_memory",
        7,
        "reads rows and not tables",
        _check_bounded_memory,
        InitializerSubject.examples,
        most=2,
    ),
    Check(
        "bounded_memory_of_jax",
        7,
        "holds no large arrays of JAX",
        _check_bounded_memory_of_jax,
    ),
)

CONTRACT = Contract(INITIALIZER_CHECKS, initializer_subject, examples=20)
