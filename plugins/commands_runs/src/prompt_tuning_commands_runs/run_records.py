"""Reads the directories of training runs: facts, settings and metrics."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import provenance, run_files

TRAINING, EVALUATION = "train/", "eval/"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run, as its files describe it.

    Attributes:
      directory: The run's directory.
      facts: The content of `run.json`.
      config: The text of `config.gin`.
      bindings: The bindings in `config`, by name with scope and module. Each value is one line.
      history: The values of each metric by step; a name begins with "train/" or "eval/".
      last_step: The step of the last line of metrics; None if there is no line.
      seconds: Seconds that the run took, summed over all its parts; None if no line has a time.
      has_ended: True if the run has reached its end.
    """

    directory: Path
    facts: Mapping[str, Any]
    config: str
    bindings: Mapping[str, str]
    history: Mapping[str, Mapping[int, float]]
    last_step: int | None
    seconds: float | None
    has_ended: bool

    @property
    def task(self) -> str:
        """The name of its task or mixture."""
        return str(self.facts["task"]["name"])

    @property
    def seed(self) -> int:
        """Its seed, even if the run drew it."""
        return int(self.facts["seed"])

    @property
    def variant(self) -> str:
        """The plugin of its prompt module."""
        return str(self.facts["prompt_module"].get("plugin") or "a module of no plugin")

    @property
    def initializer(self) -> str:
        """The initializer of its prompt; the default one if gin names none."""
        for parameter in ("prompt_init", "default_init"):
            named = [
                text
                for name, value in self.bindings.items()
                if name.endswith(f".{parameter}")
                and (text := readable(value, self.bindings)) != "None"
            ]
            if named:
                return ", ".join(dict.fromkeys(named))
        return "unknown"

    def setting(self, parameter: str) -> Any:
        """Returns the value of the training option `parameter`; None if it is not set."""
        for name, value in self.bindings.items():
            if name.endswith(f"TrainingOptions.{parameter}"):
                try:
                    return ast.literal_eval(resolved(value, self.bindings))
                except (ValueError, SyntaxError):  # A reference, which is no literal.
                    return None
        return None

    def metrics(self, group: str) -> list[str]:
        """Returns the names of its metrics of a group such as "eval/", without the group."""
        return [name.removeprefix(group) for name in self.history if name.startswith(group)]


def find_runs(directories: Iterable[str]) -> list[Path]:
    """Finds the directories of runs in and below the given ones, each once, sorted by name.

    Raises:
      InputError: If a directory does not exist, is no directory, or has no run.
    """
    found: dict[Path, Path] = {}
    for name in directories:
        top = Path(name).expanduser()
        if not top.is_dir():
            raise InputError(f"{name}: is no directory; give one that holds runs")
        runs = sorted(
            Path(folder) for folder, _, files in os.walk(top) if run_files.RUN_FILE in files
        )
        if not runs:
            raise InputError(
                f"{name}: has no run: neither it nor a directory below it has a "
                f"{run_files.RUN_FILE}; give a MODEL_DIR of `prompt-tuning train`, or a directory "
                "above several"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_run(directory: Path) -> RunRecord:
    """Reads the files of a run.

    Raises:
      InputError: If there is no run, or a file of it is missing or damaged.
    """
    facts = run_files.read_run(directory)
    if facts is None:
        raise InputError(
            f"{directory}: has no {run_files.RUN_FILE}; give a MODEL_DIR of `prompt-tuning train`"
        )
    _check_form(facts, directory / run_files.RUN_FILE)
    config = _text(directory / run_files.CONFIG_FILE)
    lines = _logged(directory / run_files.METRICS_FILE)
    history: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.values.items():
            history.setdefault(name, {})[line.step] = value
    return RunRecord(
        directory,
        facts,
        config,
        provenance.bindings(config),
        history,
        last_step=lines[-1].step if lines else None,
        seconds=lines[-1].seconds if lines else None,
        has_ended=bool(lines) and lines[-1].has_ended,
    )


def _check_form(facts: Mapping[str, Any], path: Path) -> None:
    expected = {"task": Mapping, "model": Mapping, "vocabulary": Mapping, "prompt_module": Mapping,
                "seed": int, "plugins": list, "versions": Mapping}  # fmt: skip
    for name, kind in expected.items():
        if not isinstance(facts.get(name), kind):
            raise InputError(
                f"run {path}: has no valid {name!r}; another version wrote it: train again"
            )
    if not isinstance(facts["task"].get("name"), str):
        raise InputError(f"run {path}: names no task; another version wrote it: train again")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"{path}: can't be read ({reason}); put a copy back") from None


def _logged(path: Path) -> Sequence[run_files.Logged]:
    """Reads the lines of metrics; skips a line without its end, which is being written."""
    lines = _text(path).split("\n")[:-1]
    logged = []
    for number, line in enumerate(lines, 1):
        try:
            logged.append(run_files.parse_line(line))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: {error}; remove this line, or put a copy of the file back"
            ) from None
    return logged


def resolved(value: str, bindings: Mapping[str, str]) -> str:
    """Returns the value of a binding, or of the macro that it names: 300 for `%TRAIN_STEPS`."""
    for _ in range(10):  # A macro may name another one.
        if not (value.startswith("%") and value[1:] in bindings):
            break
        value = bindings[value[1:]]
    return value


def readable(value: str, bindings: Mapping[str, str]) -> str:
    """Returns the value of a binding for people: `init_vocab` for `@scope/plugins.init_vocab()`."""
    value = resolved(value, bindings)
    reference = re.fullmatch(r"@(?:.*/)?(?:[\w.]+\.)?(\w+)(?:\(\))?", value)
    if reference:
        return reference[1]
    try:
        text = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return text if isinstance(text, str) else value
