"""Tries an initializer in another process: its values there, and its effects.

The process has another id, another `PYTHONHASHSEED`, another working directory and a different
environment. The factory and its arguments reach it by cloudpickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import jax
import numpy as np

from prompt_tuning_testing import child_processes, watching
from prompt_tuning_testing.checks import NotTriedError
from prompt_tuning_testing.sample_values import SampleTable

Shape = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task for the other process.

    Attributes:
      make: Makes an initializer with a table.
      table_rows: The height of the tables.
      examples: The shapes and seeds to report the values of; the first example is watched.
    """

    make: Callable[[SampleTable], Any]
    table_rows: int
    examples: Sequence[tuple[Shape, int]]


@dataclasses.dataclass(frozen=True)
class Report:
    """The findings of the other process.

    Attributes:
      values: For each example, the checksum of the value, or the error.
      in_factory: The reads and writes of the factory.
      changes: What making and calling the initializer changed or did.
      memory: The peak of memory that the process took, in bytes, without the memory held before.
    """

    values: list[str]
    in_factory: list[str]
    changes: list[str]
    memory: int


def checksum(value: Any) -> str:
    """Returns a checksum of an array's dtype, shape and bits."""
    array = np.asarray(value)
    content = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    return hashlib.sha256(content).hexdigest()


def tried(task: Task, environment: Mapping[str, str]) -> Report:
    """Runs a task in another process, in an environment that differs from this one.

    Raises:
      NotTriedError: If the factory or its arguments cannot be sent there, or the process ends
        early.
    """
    try:
        found = child_processes.ask(
            __name__, content=_pickled(task), environment=_differing(environment)
        )
    except child_processes.EndedEarlyError as error:
        raise NotTriedError(f"another process cannot run it: {error}") from error
    return Report(**found)


def _pickled(task: Task) -> bytes:
    import cloudpickle

    module = sys.modules.get(getattr(task.make, "module", ""))
    try:
        with _by_value(module):
            return bytes(cloudpickle.dumps(task))
    except Exception as error:  # Each library has its own exceptions for this.
        raise NotTriedError(f"it cannot be sent to another process: {error!r}") from error


@contextmanager
def _by_value(module: ModuleType | None) -> Iterator[None]:
    """Pickles a module's own objects by value, if the other process could not import the module."""
    import cloudpickle

    name = "" if module is None else module.__name__
    if module is None or name == "__main__" or _is_found(module):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _is_found(module: ModuleType) -> bool:
    spec, name = None, module.__name__
    if name.partition(".")[0] != name or name in sys.builtin_module_names:
        return True  # In a package: taken as installed.
    kept = sys.modules.pop(name)  # `find_spec` would only return its own spec.
    try:
        spec = importlib.util.find_spec(name)
    finally:
        sys.modules[name] = kept
    return spec is not None and spec.origin == getattr(module, "__file__", None)


def _differing(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment that differs in variables on which a value may depend."""
    return {
        **{n: v for n, v in environment.items() if not n.startswith("JAX_COMPILATION_CACHE")},
        "PYTHONHASHSEED": "12345" if environment.get("PYTHONHASHSEED") != "12345" else "54321",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "USER": "somebody-else",
        "LOGNAME": "somebody-else",
        "TZ": "Pacific/Apia",
        "COLUMNS": "61",
        "PROMPT_TUNING_CHECK": "1",
    }


def answer() -> None:
    """Runs the task in the question; replies with the report."""
    # Warnings and log records are allowed: they do not count as output.
    warnings.showwarning = lambda *_, **__: None
    logging.root.addHandler(logging.NullHandler())
    task: Task = pickle.loads(child_processes.question()[1])  # From our own parent process.
    jax.block_until_ready(jax.random.uniform(jax.random.PRNGKey(0), (2,)))
    watching.peak_memory()  # Resets the peak: the next call returns the memory held now.
    before = watching.peak_memory()
    report = watched(task)
    report["values"] = [_value(task, shape, seed) for shape, seed in task.examples]
    report["memory"] = watching.peak_memory() - before
    child_processes.reply(report)


def watched(task: Task) -> dict[str, Any]:
    """Makes and calls an initializer twice, and returns the changes."""
    shape, seed = task.examples[0]
    table, key = SampleTable(task.table_rows, shape[1]), jax.random.PRNGKey(seed)
    before = watching.state()
    with watching.printed() as printed:
        with watching.Audit.watch() as making:
            initializer = task.make(table)
        with watching.Audit.watch() as calling:
            for _ in range(2):
                _quietly(lambda: initializer(key, shape))
            _quietly(lambda: jax.eval_shape(lambda k: initializer(k, shape), key))
    changes = [f"changed {name}" for name in watching.changed(before, watching.state())]
    changes += [f"printed {text[:100]!r}" for text in printed]
    return {
        "in_factory": [*(f"read the file {path}" for path in making.reads), *making.does],
        "changes": [*changes, *calling.does],
    }


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # Another clause reports it.
        return


def _value(task: Task, shape: Shape, seed: int) -> str:
    try:
        initializer = task.make(SampleTable(task.table_rows, shape[1]))
        return checksum(initializer(jax.random.PRNGKey(seed), shape))
    except Exception as error:  # An initializer may raise anything.
        return repr(error)
