"""Processes that measure: facts about a process, and ways to run several processes in turn.

This module needs only the standard library, since peers run in their own environments. A process
prints its figures as one line of JSON, the last line of its output. A process that stays alive
prints a line for each question.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import shapes


def since_start() -> float:
    """Returns the seconds since this process was started, its imports included (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def peak_rss_mb() -> float:
    """Returns the peak of this process's resident memory so far, in MB (2**20 bytes)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def huge_pages() -> dict[str, str]:
    """Returns the environment variables with which `prompt-tuning` restarts itself, maybe none."""
    from prompt_tuning_engine_local import huge_pages

    library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    return huge_pages.environment_with({}, library, huge_pages.KERNEL.read_text()) or {}


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison: a command that measures, and its environment.

    Attributes:
      command: Prints the figures.
      environment: Variables to set; None removes one.
    """

    command: Sequence[str]
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Runs the command and returns its figures, with the load of the machine before it."""
        load = os.getloadavg()[0]
        printed = subprocess.run(
            self.command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=self.whole_environment(),
        ).stdout
        return {**json.loads(printed.splitlines()[-1]), "load_before": round(load, 2)}

    def whole_environment(self) -> dict[str, str]:
        """Returns all variables of its processes."""
        environment = {**os.environ, **self.environment}
        return {name: value for name, value in environment.items() if value is not None}


class Worker:
    """A process of a side that stays alive and measures when it is asked; it calls `answer`.

    Workers that are asked in turn measure within seconds of each other, so they see about the same
    load of the machine. Whole processes in turn would measure minutes apart.

    Args:
      side: The side whose command to start.
    """

    def __init__(self, side: Side) -> None:
        self._process = subprocess.Popen(
            side.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=side.whole_environment(),
        )

    def ask(self, question: str) -> Any:
        """Asks the process to measure now, and returns the answer."""
        to, of = self._process.stdin, self._process.stdout
        assert to is not None
        assert of is not None
        print(question, file=to, flush=True)
        answered = of.readline()
        if not answered:
            raise RuntimeError(f"a measuring process ended with exit code {self._process.wait()}")
        return json.loads(answered)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def answer(answers: Mapping[str, Callable[[], Any]]) -> None:
    """Answers the questions of a `Worker` until there are no more.

    Args:
      answers: The function that measures, for each question.
    """
    for question in sys.stdin:
        print(json.dumps(answers[question.strip()]()), flush=True)


def commands(
    script: str,
    arguments: argparse.Namespace,
    folder: str | os.PathLike[str],
    leave_out: Sequence[str] = (),
    peer_leaves_out: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Writes random weights for ours and for the peer; returns the command that runs each.

    Args:
      script: The benchmark, which measures ours when it gets `--one`.
      arguments: The arguments of this process. Arguments about all processes are not passed on.
      folder: The folder for the weights.
      leave_out: Names of further arguments that are not passed on.
      peer_leaves_out: As `leave_out`, but only for the peer.

    Returns:
      "ours" and, if `arguments.peer` names a command, "peer".
    """
    import random_t5  # Not at the top: peers run without JAX.

    about_all = ("rounds", "peer", "output", "weights", *leave_out)
    given = shapes.flags(arguments, *about_all)
    weights = random_t5.write(arguments, Path(folder, "ours"))
    found = {"ours": [sys.executable, script, "--one", *given, f"--weights={weights}"]}
    if arguments.peer:
        peer = [
            *shlex.split(arguments.peer),
            *shapes.flags(arguments, *about_all, *peer_leaves_out),
        ]
        subprocess.run([*peer, f"--make-weights={folder}/peer"], check=True)
        found["peer"] = [*peer, f"--weights={folder}/peer"]
    return found


def interleave(sides: Mapping[str, Side], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs every side once in each round, so that all see the same load; returns all figures."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side.run())
    return found


def compilation_cache(folder: str | os.PathLike[str]) -> dict[str, str | None]:
    """Returns the environment in which the local engine keeps compiled programs below `folder`."""
    return {
        "XDG_CACHE_HOME": str(folder),
        "JAX_COMPILATION_CACHE_DIR": None,
        "JAX_ENABLE_COMPILATION_CACHE": None,
    }
