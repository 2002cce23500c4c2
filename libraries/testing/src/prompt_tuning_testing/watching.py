"""Finds the effects of a call on its process, apart from the value that it returns.

Use it in a separate process (`other_process`): some of these effects cannot be undone.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

import jax
import numpy as np

_CODE_SUFFIXES = (".py", ".pyc", ".so", ".pyd", ".dylib")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of `sys.audit`, and words for them in messages.
_EVENTS = {
    "socket.connect": "connected a socket",
    "socket.bind": "bound a socket",
    "socket.getaddrinfo": "asked for an address",
    "subprocess.Popen": "started a process",
    "os.system": "started a process",
    "os.posix_spawn": "started a process",
    "os.fork": "started a process",
    "os.mkdir": "made a folder",
    "os.rename": "renamed a file",
    "os.remove": "removed a file",
    "os.rmdir": "removed a folder",
    "os.symlink": "made a link",
    "os.link": "made a link",
    "os.chmod": "changed the mode of a file",
    "os.truncate": "wrote a file",
}


def state() -> dict[str, Any]:
    """Returns what a plugin could change in this process, by name."""
    loggers = {name: logging.getLogger(name) for name in [None, *logging.root.manager.loggerDict]}
    return {
        "the state of numpy.random": copy.deepcopy(np.random.get_state()),
        "the state of random": random.getstate(),
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "numpy's error handling": np.geterr(),
        "numpy's print options": np.get_printoptions(),
        "jax.config": dict(jax.config.values),
        "the warnings filters": list(warnings.filters),
        "the signal handlers": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "sys.path": list(sys.path),
        "the recursion limit": sys.getrecursionlimit(),
        "sys.stdout or sys.stderr": (sys.stdout, sys.stderr),
        "the running threads": set(threading.enumerate()),
        "logging": (
            logging.root.manager.disable,
            {n: (g.level, list(g.handlers), g.disabled) for n, g in loggers.items()},
        ),
    }


@contextmanager
def restored() -> Iterator[None]:
    """Restores, after the block, all that a plugin may have changed and that can be restored."""
    environment, folder, generator = dict(os.environ), os.getcwd(), random.getstate()
    numpys, handling, config = np.random.get_state(), np.geterr(), dict(jax.config.values)
    streams, path = (sys.stdout, sys.stderr), list(sys.path)
    try:
        yield
    finally:
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        random.setstate(generator)
        np.random.set_state(numpys)
        np.seterr(**handling)
        for name, value in config.items():
            if jax.config.values[name] is not value:
                jax.config.update(name, value)
        sys.stdout, sys.stderr = streams
        sys.path[:] = path


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Returns the names of the entries that differ between two states."""
    # A new logger is no change of logging, unless it is set up.
    disable, known = before["logging"]
    new = {n: g for n, g in after["logging"][1].items() if n in known or g != (0, [], False)}
    after = {**after, "logging": (after["logging"][0], new)}
    before = {**before, "logging": (disable, known)}
    return [name for name, value in before.items() if not same(value, after[name])]


def same(a: Any, b: Any) -> bool:
    """Checks that two values, or two copies of one, are equal."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if type(a) in (list, tuple):
        return (
            type(a) is type(b)
            and len(a) == len(b)
            and all(same(x, y) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a is b or bool(a == b)


class Audit:
    """Records the effects of code outside of the process.

    A process cannot remove an audit hook, so this adds only one.

    Attributes:
      does: What was done, each once, such as "wrote the file x.npy".
      reads: The files that were opened for reading, apart from code.
    """

    _installed: ClassVar[bool] = False
    _watching: ClassVar[Audit | None] = None

    def __init__(self) -> None:
        self.does: list[str] = []
        self.reads: list[str] = []

    @classmethod
    def _hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        watching = cls._watching
        if watching is None or (event != "open" and event not in _EVENTS):
            return
        if event != "open":
            watching._add(watching.does, _EVENTS[event])
            return
        path, mode, flags = arguments
        if not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.fsdecode(path)
        if path.endswith(_CODE_SUFFIXES) or _is_importing():
            return
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & _WRITES:
            watching._add(watching.does, f"wrote the file {path}")
        else:
            watching._add(watching.reads, path)

    @staticmethod
    def _add(found: list[str], what: str) -> None:
        if what not in found:
            found.append(what)

    @classmethod
    @contextmanager
    def watch(cls) -> Iterator[Audit]:
        """Watches what all threads do within the block."""
        if not cls._installed:
            sys.addaudithook(cls._hook)
            cls._installed = True
        cls._watching = audit = cls()
        try:
            yield audit
        finally:
            cls._watching = None


def _is_importing() -> bool:
    """True within an import, which may read files of a package: data and metadata."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def printed() -> Iterator[list[str]]:
    """Yields a list that gets, after the block, the text written to the two standard streams."""
    found: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(1), os.dup(2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield found
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number, one in zip((1, 2), kept, strict=True):
                os.dup2(one, number)
                os.close(one)
            file.seek(0)
            text = file.read().decode(errors="replace").strip()
            if text:
                found.append(text)


def peak_memory() -> int:
    """Returns the peak of this process's memory since the last call, in bytes.

    Only Linux can reset the peak. On other systems, it is the peak since the process began.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        peak = int(fields["VmHWM"].split()[0]) * 1024
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except (OSError, KeyError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak
