"""Runs a function of a module of this package in another process, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SECONDS = 300


class EndedEarlyError(Exception):
    """The process ended without an answer; the message is the last line that it printed."""


def ask(
    module: str,
    arguments: Sequence[str] = (),
    *,
    content: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Calls `answer()` of a module in a new process; returns the value that it gave to `reply`.

    The new process finds the same modules as this one, and writes no compiled modules. Its current
    directory is an empty folder.

    Args:
      module: The module, such as `__name__` of the caller.
      arguments: Texts for `answer`, which gets them from `question`.
      content: Bytes for `answer`.
      environment: The environment variables of the new process; None for the variables of this one.

    Raises:
      EndedEarlyError: If the process ends without a reply.
    """
    given = os.environ if environment is None else environment
    with tempfile.TemporaryDirectory(prefix="prompt-tuning-check-") as name:
        folder = Path(name)
        (folder / "content").write_bytes(content)
        (folder / "elsewhere").mkdir()
        process = subprocess.run(
            [sys.executable, "-c", f"from {module} import answer; answer()", name, *arguments],
            cwd=folder / "elsewhere",
            env={
                "JAX_PLATFORMS": "cpu",
                **given,
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if not (folder / "reply.json").exists():
            raise EndedEarlyError(
                (process.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            )
        return json.loads((folder / "reply.json").read_text())


def question() -> tuple[list[str], bytes]:
    """Returns the arguments and the content of `ask`, in the other process."""
    _, folder, *arguments = sys.argv
    return arguments, Path(folder, "content").read_bytes()


def reply(value: Any) -> None:
    """Gives a JSON value to the process that asked."""
    Path(sys.argv[1], "reply.json").write_text(json.dumps(value))
