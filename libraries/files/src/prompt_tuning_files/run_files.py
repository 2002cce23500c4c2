"""The files that describe a training run, in its directory: its facts and its metrics.

`run.json` holds the facts and their checksum. `metrics.jsonl` has one line for each logged step and
each evaluation, such as `{"step": 20, "seconds": 3.2, "eval/accuracy": 0.5}`. If the run has ended,
the last line has `"ended": true`. A run that is resumed removes that line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import prompt_files, strict_json

__all__ = [
    "CONFIG_FILE",
    "METRICS_FILE",
    "RUN_FILE",
    "Logged",
    "digest",
    "parse_line",
    "read_run",
    "write_run",
]

RUN_FILE = "run.json"
"""The facts of a run, with their checksum."""
METRICS_FILE = "metrics.jsonl"
"""One JSON object on each line, for each logged step and each evaluation."""
CONFIG_FILE = "config.gin"
"""The operative config of the last start of the run."""


def write_run(directory: Path, facts: Mapping[str, Any]) -> None:
    """Writes the facts of a run, with their checksum, to `run.json`."""
    facts = json.loads(strict_json.dumps(dict(facts)))  # As `read_run` reads them.
    prompt_files.write_json(directory / RUN_FILE, {**facts, "sha256": digest(facts)})


def read_run(directory: Path) -> dict[str, Any] | None:
    """Returns the facts of the run in `directory`; None if there is no run.

    Raises:
      InputError: If they cannot be read, or differ from their checksum.
    """
    path = directory / RUN_FILE
    if not path.exists():
        return None
    facts = strict_json.read_object(path, f"run {path}")
    if facts.pop("sha256", None) != digest(facts):
        raise InputError(
            f"run {path}: differs from its checksum, so that it is damaged or was edited; put a "
            "copy back, or give another MODEL_DIR and start from the run's prompt with "
            "prompts/from_file.gin"
        )
    return facts


def digest(value: Any) -> str:
    """Returns the checksum of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Logged:
    """A line of `metrics.jsonl`.

    Attributes:
      step: The step.
      values: The metrics by name; a name begins with "train/" or "eval/". A value that is not
        finite is NaN.
      seconds: Seconds from the beginning of the run to this line; for a resumed run, the sum over
        all its parts. None if the line has none.
      has_ended: True for the line that ends a run.
    """

    step: int
    values: Mapping[str, float]
    seconds: float | None = None
    has_ended: bool = False

    def line(self) -> str:
        """Returns the line, with its end."""
        facts: dict[str, Any] = {"step": self.step}
        if self.seconds is not None:
            facts["seconds"] = round(self.seconds, 3)
        if self.has_ended:
            facts["ended"] = True
        return f"{strict_json.dumps({**facts, **self.values})}\n"


def parse_line(line: str) -> Logged:
    """Reads a line of `metrics.jsonl`.

    Raises:
      ValueError: If it is damaged, or was cut when the run was killed.
    """
    try:
        row = dict(json.loads(line))
        step, seconds, has_ended = int(row.pop("step")), row.pop("seconds", None), "ended" in row
        row.pop("ended", None)
        values = {name: math.nan if v is None else float(v) for name, v in row.items()}
        return Logged(step, values, None if seconds is None else float(seconds), has_ended)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"no line of metrics: {line[:80]!r}") from error
