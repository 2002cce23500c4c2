"""Initializers that are wrong, each in one way, by the check that must find it; and sound ones."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

SMALL = [(2, 3), (4, 5)]


class Planted(NamedTuple):
    """A factory with a fault.

    Attributes:
      check: The name of the check that must fail.
      name: What is wrong.
      factory: The factory.
      says: A part of what the check says.
      arguments: Of the factory.
      options: Of `check_initializer`.
    """

    check: str
    name: str
    factory: Callable[..., Any]
    says: str = ""
    arguments: Any = None
    options: Mapping[str, Any] = {}


def uniform(rng, shape, dtype=jnp.float32):
    return jax.random.uniform(rng, tuple(shape), dtype, -0.5, 0.5)


def of(initialize):
    """Makes a factory without parameters."""
    return lambda: initialize


def changed(change):
    """Makes a factory whose initializer changes the sound values."""
    return of(lambda rng, shape: change(uniform(rng, shape), rng, shape))


def after(act):
    """Makes a factory whose initializer does something, and returns sound values."""

    def initialize(rng, shape):
        act()
        return uniform(rng, shape)

    return of(initialize)


def making(act):
    """Makes a factory that does something itself."""

    def factory():
        act()
        return uniform

    return factory


def rows_of(embeddings, rng, shape):
    """Returns rows of a table that a key draws, refused as the contract wants it."""
    length, width = shape
    if width != embeddings.shape[1]:
        raise ValueError(f"the prompt has width {width}, and the table {embeddings.shape[1]}")
    ids = jax.random.choice(rng, embeddings.shape[0], (length,))
    return jnp.asarray(embeddings.rows(np.asarray(ids)))


def with_table(samples):
    return {"embeddings": samples.table}


class First:
    """Counts calls."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.count


def is_big(shape):
    return shape[0] > 50


def _first_of_eight(rng):
    return jnp.asarray(rng).astype(jnp.uint32)[-1] % 8 == 0


# Clause 1: shape, dtype, finite.
SHAPES = [
    ("one row too many", changed(lambda x, rng, s: jnp.pad(x, ((0, 1), (0, 0)))), "the shape"),
    ("transposed", changed(lambda x, rng, s: x.T), "the shape"),
    ("flat", changed(lambda x, rng, s: x.ravel()), "the shape"),
    ("a batch", changed(lambda x, rng, s: x[None]), "the shape"),
    ("cropped above 20 rows", changed(lambda x, rng, s: x[:20]), "shape (100, 768)"),
    ("cropped above 512 columns", changed(lambda x, rng, s: x[:, :512]), "shape (1, 768)"),
    ("float16", of(lambda rng, s: uniform(rng, s, jnp.float16)), "returned float16"),
    ("bfloat16", of(lambda rng, s: uniform(rng, s, jnp.bfloat16)), "returned bfloat16"),
    ("float8", changed(lambda x, rng, s: x.astype(jnp.float8_e4m3fn)), "returned float8"),
    ("integers", changed(lambda x, rng, s: jnp.round(x).astype(jnp.int32)), "returned int32"),
    ("complex", changed(lambda x, rng, s: x.astype(jnp.complex64)), "returned complex64"),
    ("float64 of NumPy", changed(lambda x, rng, s: np.asarray(x, np.float64)), "returned float64"),
    (
        "a dtype by shape",
        changed(lambda x, rng, s: x.astype(jnp.bfloat16) if is_big(s) else x),
        "shape (100, 768)",
    ),
    ("a list", changed(lambda x, rng, s: x.tolist()), "returned a list"),
    ("nothing", of(lambda rng, s: None), "returned None"),
    ("NaN", changed(lambda x, rng, s: x.at[0, 0].set(jnp.nan)), "aren't finite"),
    ("infinity", changed(lambda x, rng, s: x.at[-1, -1].set(jnp.inf)), "aren't finite"),
    (
        "NaN above 50 rows",
        changed(lambda x, rng, s: x.at[-1, -1].set(jnp.nan) if is_big(s) else x),
        "shape (100, 768)",
    ),
    (
        "NaN from 512 columns",
        changed(lambda x, rng, s: x / 0 if s[1] >= 512 else x),
        "shape (1, 768)",
    ),
    (
        "NaN for one key in eight",
        changed(lambda x, rng, s: jnp.where(_first_of_eight(rng), jnp.nan, x)),
        "aren't finite",
    ),
    (
        "fails above 50 rows",
        of(lambda rng, s: [][s[0]] if is_big(s) else uniform(rng, s)),
        "IndexError",
    ),
    (
        "fails for one row",
        changed(lambda x, rng, s: x / (x.shape[0] - 1 or [][1])),
        "IndexError",
    ),
]


def more_rows_than_the_table(embeddings):
    def initialize(rng, shape):
        length, width = shape
        if width != embeddings.shape[1]:
            raise ValueError(f"width {width} of a table of width {embeddings.shape[1]}")
        ids = np.arange(length) + int(jax.random.randint(rng, (), 0, 2))
        return jnp.asarray(embeddings.rows(ids))

    return initialize


def refuses_all():
    def initialize(rng, shape):
        raise ValueError(f"{shape[0]} rows, expected -1")

    return initialize


# Clause 2: determinism and the key.
def remembers():
    first = First()
    return lambda rng, shape: uniform(rng, shape) + first()


def two_values_only(rng, shape):
    return jnp.full(tuple(shape), jax.random.randint(rng, (), 0, 2), jnp.float32)


KEYS = [
    ("ignores its key", of(lambda rng, s: uniform(jax.random.PRNGKey(0), s)), "the same values"),
    ("constant", of(lambda rng, s: jnp.ones(tuple(s))), "the same values"),
    ("numpy.random", of(lambda rng, s: np.random.rand(*s).astype(np.float32)), "later"),
    ("random", changed(lambda x, rng, s: x + random.random()), "later"),
    ("the clock", changed(lambda x, rng, s: x + time.perf_counter() % 1), "later"),
    ("counts its calls", remembers, "later"),
    (
        "numbers the initializers",
        (lambda made: lambda: (lambda n: lambda rng, s: uniform(rng, s) + n)(made()))(First()),
        "in another initializer",
    ),
    ("two values only", of(two_values_only), "2 different values"),
    (
        "ignores its key above 50 rows",
        of(lambda rng, s: uniform(jax.random.PRNGKey(0) if is_big(s) else rng, s)),
        "the same values",
    ),
]

# Two processes may agree by chance: each number has a million values, so that they hardly do.
MILLION = 1_000_003
ELSEWHERE = [
    ("hash of a text", changed(lambda x, rng, s: x + hash("seed") % MILLION), "gives other values"),
    (
        "order of a set",
        changed(lambda x, rng, s: x + int("".join(set("0123456789"))) % MILLION),
        "gives other values",
    ),
    ("process id", changed(lambda x, rng, s: x + os.getpid()), "gives other values"),
    (
        "an address",
        changed(lambda x, rng, s: x + id(object()) // 16 % MILLION),
        "gives other values",
    ),
    (
        "the environment",
        changed(lambda x, rng, s: x + len(os.environ.get("USER", ""))),
        "gives other values",
    ),
    (
        "the working directory",
        changed(lambda x, rng, s: x + sum(map(ord, os.getcwd()))),
        "gives other values",
    ),
    (
        "a file of the working directory",
        changed(lambda x, rng, s: x + len(os.listdir())),
        "gives other values",
    ),
]


# Clause 3: transformations.
def keeps_a_tracer():
    kept = []

    def initialize(rng, shape):
        kept.append(uniform(rng, shape))
        return uniform(rng, shape) + 0 * kept[-2 if len(kept) > 1 else -1].sum()

    return initialize


def other_values_in_a_trace(rng, shape):
    value = uniform(rng, shape)
    return value * 1.001 if isinstance(value, jax.core.Tracer) else value


TRANSFORMATIONS = [
    ("NumPy of a traced key", changed(lambda x, rng, s: jnp.asarray(np.asarray(x))), "Tracer"),
    ("a Python branch", changed(lambda x, rng, s: x if x.sum() > 0 else -x), "Tracer"),
    ("int of the key", of(lambda rng, s: uniform(jax.random.key(int(rng[-1])), s)), "traced"),
    ("other values in a trace", of(other_values_in_a_trace), "differ by"),
    ("keeps a tracer", keeps_a_tracer, ""),
    (
        "another dtype in a trace",
        changed(lambda x, rng, s: x.astype(jnp.bfloat16) if isinstance(x, jax.core.Tracer) else x),
        "eval_shape says",
    ),
]


# Clause 4: types of keys and shapes.
def is_typed(rng):
    return jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)


def typed_keys_only(rng, shape):
    if not is_typed(rng):
        raise TypeError("a raw key")
    return uniform(rng, shape)


def threefry_only(rng, shape):
    data = jax.random.key_data(rng) if is_typed(rng) else rng
    return uniform(jax.random.wrap_key_data(data, impl="threefry2x32"), shape)


def reversing(rng, shape):
    if isinstance(shape, list):
        shape.append(0)
        return uniform(rng, shape[:2])
    return uniform(rng, shape)


TYPES = [
    ("raw keys only", of(lambda rng, s: uniform(jax.random.wrap_key_data(rng), s)), "TypeError"),
    ("typed keys only", of(typed_keys_only), "a raw key"),
    ("threefry only", of(threefry_only), "Error"),
    ("other values of typed keys", changed(lambda x, rng, s: x + is_typed(rng)), "typed and raw"),
    ("tuples only", of(lambda rng, s: uniform(rng, s + (0,)[1:])), "list"),
    ("ints only", changed(lambda x, rng, s: x + (type(s[0]) is not int)), "NumPy's"),
    ("changes the shape", of(reversing), "was changed to"),
]


# Clause 5: shapes that it cannot serve.
def of_another_width(change):
    """Makes a factory that takes rows of its table's width, and changes them to the shape."""

    def factory(embeddings):
        def initialize(rng, shape):
            rows = rows_of(embeddings, rng, (shape[0], embeddings.shape[1]))
            return change(rows, shape)

        return initialize

    return factory


padding = of_another_width(lambda x, s: jnp.pad(x, ((0, 0), (0, s[1])))[:, : s[1]])
broadcasting = of_another_width(lambda x, s: jnp.broadcast_to(x[:, :1], tuple(s)))
tiling = of_another_width(lambda x, s: jnp.tile(x, (1, s[1]))[:, : s[1]])


def other_error(kind):
    def factory(embeddings):
        def initialize(rng, shape):
            if shape[1] != embeddings.shape[1]:
                raise kind(f"{shape[1]} and {embeddings.shape[1]}")
            return rows_of(embeddings, rng, shape)

        return initialize

    return factory


def naming_one_size(embeddings):
    def initialize(rng, shape):
        if shape[1] != embeddings.shape[1]:
            raise ValueError(f"can't serve width {shape[1]}")
        return rows_of(embeddings, rng, shape)

    return initialize


def fixed(array):
    """Serves shapes that its array does not have, where broadcasting can."""
    return lambda rng, shape: jnp.broadcast_to(jnp.asarray(array), tuple(shape))


def negative_sizes(rng, shape):
    return uniform(rng, [abs(size) for size in shape])


FIXED = {"arguments": {"array": np.ones((1, 4), np.float32)}}
REFUSED = {"shapes": [(1, 4)], "refuses": {(3, 4): (3, 1)}, "uses_rng": False}


# Clause 6: arguments and the process.
def appending(names):
    return lambda rng, shape: uniform(rng, shape) + 0 * len(names.append("x") or names)


def writing_into_an_array(array):
    def initialize(rng, shape):
        array[0] += 1
        return uniform(rng, shape)

    return initialize


def reading_rows_early(embeddings):
    rows = embeddings.rows(np.arange(20))
    return lambda rng, shape: rows_of(embeddings, rng, shape) + 0 * rows.sum()


def _write():
    with open(os.devnull, "wb") as file:
        file.write(b"x")


def _folder():
    os.rmdir(tempfile.mkdtemp())


def _socket():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


def _thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


# What is done on every call; most of these are tried in one process together.
PROCESS = [
    ("an environment variable", lambda: os.environ.__setitem__("X_PLANTED", "1"), "environment"),
    ("removes a variable", lambda: os.environ.pop("USER", None), "environment"),
    ("chdir", lambda: os.chdir("/"), "working directory"),
    ("jax.config", lambda: jax.config.update("jax_debug_nans", True), "jax.config"),
    ("matmul precision", lambda: jax.config.update("jax_default_matmul_precision", "float32"),
     "jax.config"),
    ("logging.basicConfig", lambda: logging.basicConfig(force=True), "logging"),
    ("logging's level", lambda: logging.getLogger().setLevel(logging.DEBUG), "logging"),
    ("logging.disable", lambda: logging.disable(logging.ERROR), "logging"),
    ("a handler", lambda: logging.getLogger("jax").addHandler(logging.NullHandler()), "logging"),
    ("warnings filters", lambda: warnings.simplefilter("ignore"), "warnings filters"),
    ("a signal handler", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "signal handlers"),
    ("numpy.random.seed", lambda: np.random.seed(0), "numpy.random"),
    ("random.seed", lambda: random.seed(0), "random"),
    ("numpy.seterr", lambda: np.seterr(all="raise"), "error handling"),
    ("print options", lambda: np.set_printoptions(precision=2), "print options"),
    ("sys.path", lambda: sys.path.insert(0, "/x"), "sys.path"),
    ("recursion limit", lambda: sys.setrecursionlimit(5000), "recursion limit"),
    ("a thread", _thread, "threads"),
    ("writes a file", _write, "wrote the file /dev/null"),
    ("makes a folder", _folder, "made a folder"),
    ("a socket", _socket, "bound a socket"),
    ("a process", lambda: subprocess.run(["true"], check=True), "started a process"),
    ("prints", lambda: sys.stdout.write("hello"), "printed 'hello"),
    ("writes to stderr", lambda: os.write(2, b"oh"), "printed 'oh"),
    ("replaces sys.stdout", lambda: setattr(sys, "stdout", sys.stderr), "sys.stdout"),
]  # fmt: skip


def reading_a_file():
    with open("/etc/hostname", "rb") as file:
        size = len(file.read())
    return lambda rng, shape: uniform(rng, shape) + 0 * size


# Clause 7: memory.
def whole_table(embeddings):
    def initialize(rng, shape):
        table = np.asarray(embeddings)
        return rows_of(embeddings, rng, shape) + 0 * jnp.asarray(table[:1])

    return initialize


def large_array(rng, shape):
    return uniform(rng, shape) + 0 * float(np.ones(1 << 24)[0])


def large_array_of_jax(rng, shape):
    return uniform(rng, shape) + 0 * jax.block_until_ready(jnp.zeros((1 << 27,)) + rng[0] * 0)[:1]


PLANTED = [
    Planted("serves_a_shape", "refuses all", refuses_all, "refuses all of"),
    Planted("serves_a_shape", "needs an argument", lambda path: uniform, "TypeError",
            lambda samples: {}),
    *(Planted("shape_and_dtype", name, factory, says) for name, factory, says in SHAPES),
    Planted("shape_and_dtype", "past the table", more_rows_than_the_table, "rows", with_table),
    *(Planted("deterministic_and_rng", name, factory, says) for name, factory, says in KEYS),
    Planted("deterministic_and_rng", "uses_rng is false", of(uniform), "uses_rng is false", {},
            {"uses_rng": False}),
    *(Planted("other_process", name, factory, says, {}, {"shapes": SMALL})
      for name, factory, says in ELSEWHERE),
    *(Planted("transformations", name, factory, says, {}, {"shapes": SMALL})
      for name, factory, says in TRANSFORMATIONS),
    *(Planted("keys_and_shape_types", name, factory, says, {}, {"shapes": SMALL})
      for name, factory, says in TYPES),
    Planted("refuses_bad_shapes", "pads", padding, "serves (", with_table),
    Planted("refuses_bad_shapes", "broadcasts", broadcasting, "serves (", with_table),
    Planted("refuses_bad_shapes", "tiles", tiling, "serves (", with_table),
    *(Planted("refuses_bad_shapes", kind.__name__, other_error(kind), kind.__name__, with_table)
      for kind in (AssertionError, TypeError, RuntimeError)),
    Planted("refuses_bad_shapes", "names one size", naming_one_size, "doesn't name", with_table),
    Planted("refuses_bad_shapes", "a fixed array", fixed, "serves (3, 4)", FIXED["arguments"],
            REFUSED),
    Planted("refuses_bad_shapes", "negative sizes", of(negative_sizes), "serves (-"),
    Planted("keeps_arguments", "appends to a list", appending, "was changed", {"names": ["a"]}),
    Planted("keeps_arguments", "writes into an array", writing_into_an_array, "was changed",
            {"array": np.zeros(3)}),
    Planted("keeps_arguments", "reads rows early", reading_rows_early, "read 20 rows", with_table),
    Planted("leaves_the_process_alone", PROCESS[0][0], after(PROCESS[0][1]), PROCESS[0][2], {},
            {"shapes": SMALL}),
    Planted("leaves_the_process_alone", f"{PROCESS[1][0]} in the factory", making(PROCESS[1][1]),
            PROCESS[1][2], {}, {"shapes": SMALL}),
    Planted("leaves_the_process_alone", "reads a file early", reading_a_file, "read the file", {},
            {"shapes": SMALL}),
    Planted("bounded_memory", "reads the whole table", whole_table, "reads the table", with_table),
    Planted("bounded_memory", "a large array", of(large_array), "took"),
    Planted("bounded_memory_of_jax", "a large array of JAX", of(large_array_of_jax), "took", {},
            {"shapes": SMALL}),
]  # fmt: skip


# Sound ones: none may fail.
def fourier(scale=0.1):
    """Fixed waves of sines and cosines, as in a transformer's positions."""

    def initialize(rng, shape):
        if min(shape) < 1:
            raise ValueError(f"{shape} has sizes below 1")
        angles = np.arange(shape[0])[:, None] / 10_000 ** (np.arange(shape[1]) / shape[1])
        phases = np.pi / 2 * (np.arange(shape[1]) % 2)
        return jnp.asarray(scale * np.sin(angles + phases), jnp.float32)

    return initialize


fourier.uses_rng = False


def fixed_array(array):
    array = np.asarray(array, np.float32)

    def initialize(rng, shape):
        if tuple(shape) != array.shape:
            raise ValueError(f"the prompt has the shape {list(shape)}, the array {array.shape}")
        return jnp.asarray(array)

    return initialize


def principal_directions(embeddings):
    """Random combinations of the principal directions of a table's most frequent pieces."""

    def initialize(rng, shape):
        rows, width = embeddings.shape
        if shape[1] != width:
            raise ValueError(f"the prompt has width {shape[1]}, and the table {width}")
        frequent = embeddings.rows(np.arange(min(rows, 500))).astype(np.float64)
        values, vectors = np.linalg.eigh(frequent.T @ frequent / len(frequent))
        basis = jnp.asarray(vectors * np.sqrt(np.maximum(values, 0)), jnp.float32)
        return jax.random.normal(rng, (shape[0], width)) @ basis.T

    return initialize


def own_rows(embeddings):
    def initialize(rng, shape):
        length, width = shape
        if width != embeddings.shape[1]:
            raise ValueError(f"the prompt has width {width}, and the table {embeddings.shape[1]}")
        ids = jax.random.choice(rng, min(100, embeddings.shape[0]), (length,))
        if isinstance(ids, jax.core.Tracer):
            rows = embeddings.rows(np.arange(min(100, embeddings.shape[0])))
            return jnp.asarray(rows)[ids]
        return jnp.asarray(embeddings.rows(np.asarray(ids)))

    return initialize


ARRAY = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
FEW = {"shapes": [(2, 3), (20, 512)]}  # JAX compiles for each.
SOUND: dict[str, tuple[Callable[..., Any], Any, Mapping[str, Any]]] = {
    "jax normal": (jax.nn.initializers.normal, {}, {}),
    **{
        f"jax {name}": (getattr(jax.nn.initializers, name), {}, FEW)
        for name in (
            "uniform", "truncated_normal", "glorot_uniform", "lecun_normal", "he_normal",
            "orthogonal",
        )
    },
    "jax zeros": (lambda: jax.nn.initializers.zeros, {}, {"uses_rng": False, **FEW}),
    "jax constant": (jax.nn.initializers.constant, {"value": 0.1}, {"uses_rng": False, **FEW}),
    "flax variance_scaling": (
        nn.initializers.variance_scaling,
        {"scale": 1.0, "mode": "fan_in", "distribution": "normal"},
        FEW,
    ),
    "a large scale": (jax.nn.initializers.normal, {"stddev": 100.0}, FEW),
    "Fourier": (fourier, {}, FEW),
    "a fixed array": (
        fixed_array,
        {"array": ARRAY},
        {"shapes": [(4, 8)], "refuses": {(3, 8): (3, 4), (4, 9): (9, 8)}, "uses_rng": False},
    ),
    "principal directions": (principal_directions, with_table, {"shapes": [(3, 8)]}),
    "rows of a table": (own_rows, with_table, {}),
}  # fmt: skip
