"""The contract of engines, as checks.

They run `prompt-tuning train|eval|infer --engine=NAME` in this process, on small samples, in a
temporary folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
import numpy as np

from prompt_tuning_core import registry
from prompt_tuning_core.commands.main import main
from prompt_tuning_core.errors import PluginError, one_line
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_testing import recorded_events
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract, name_of
from prompt_tuning_testing.recorded_events import Event

COMMANDS = ("train", "eval", "infer")

SampleFlags = Callable[[Path], Mapping[str, Sequence[str]]]
"""Writes files to a folder; returns the flags of each command that the engine has.

The flags have paths relative to the folder. `train` also gets `MODEL_DIR`, which is `run` for the
first run. `eval` and `infer` use the prompt of that run. The run must be short and have a fixed
seed.
"""

_UNKNOWN_FLAG = "--no_flag_of_any_engine"
_RUN, _AGAIN, _ENDED, _REFUSED = "run", "again", "ended", "refused"


class _Finished(NamedTuple):
    """A command that has ended.

    Attributes:
      code: Its exit code.
      error: Standard error.
      events: The events that hooks got.
    """

    code: int
    error: str
    events: list[Event]


class Session:
    """A folder with the samples, in which an engine runs; keeps finished runs for other checks."""

    def __init__(self, name: str, sample_flags: SampleFlags) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="prompt-tuning-check-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.flags = dict(sample_flags(self.folder))
        unknown = self.flags.keys() - set(COMMANDS)
        require("train" in self.flags and not unknown, f"the samples are for {list(self.flags)}")

    def run(self, command: str, *flags: str, **events: Any) -> _Finished:
        """Runs a command with the sample flags and more; `recorded_events.clear` gets `events`."""
        arguments = [command, f"--engine={self.name}", *self.flags.get(command, ()), *flags]
        shown, error = io.StringIO(), io.StringIO()
        recorded_events.clear(**events)
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(error),
        ):
            try:
                code = main(arguments)
            except (Exception, SystemExit) as raised:  # An engine may raise anything.
                raise BrokenClauseError(
                    f"{command} raises {one_line(raised)}, and no line explains it; expected an "
                    "InputError"
                ) from raised
            finally:
                gin.clear_config()  # gin's configuration names modules of this run.
        return _Finished(code, error.getvalue(), list(recorded_events.events))

    def refused(self, named: str, command: str, *flags: str, **events: Any) -> None:
        """Runs a command that must fail with one line that has the text `named`."""
        before, what = self.contents(), f"{command} {' '.join(flags)}"
        if command == "train":  # A later value replaces this one.
            flags = (f"--gin.MODEL_DIR={_REFUSED!r}", *flags)
        found = self.run(command, *flags, **events)
        require(found.code == 2, f"{what} ends with exit code {found.code}, expected 2")
        # Libraries may log lines of their own before.
        line = (found.error.strip().splitlines() or [""])[-1]
        require(line.startswith("prompt-tuning: error: "), f"{what} ends with the line {line!r}")
        require(named in line, f"{what} prints {line!r}, which does not name {named!r}")
        new = sorted(str(path) for path in self.contents().keys() - before.keys())
        prompts = [path for path in new if Path(path).name.startswith("prompt_")]
        written = [path for path in prompts if not Path(path).stem.endswith("_0")]
        require(not written, f"{what} fails, and leaves {', '.join(written)}")

    def contents(self) -> dict[str, bytes]:
        """Returns the content of each file below the folder."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    @functools.cached_property
    def trained(self) -> _Finished:
        """The first run. A gin file in a folder of the search paths sets its MODEL_DIR."""
        (self.folder / "elsewhere").mkdir()
        (self.folder / "elsewhere" / "own.gin").write_text(f"MODEL_DIR = {_RUN!r}\n")
        before = self.contents()
        flags = [flag for flag in self.flags["train"] if not flag.startswith("--gin.MODEL_DIR=")]
        self.flags["train"] = flags
        found = self.run(
            "train",
            "--gin_search_paths=elsewhere",
            "--gin_file=own.gin",
            f"--hooks={recorded_events.NAME}",
        )
        require(found.code == 0, f"train ends with exit code {found.code}: {found.error.strip()}")
        after = self.contents()
        changed = sorted(name for name, content in before.items() if after.get(name) != content)
        require(not changed, f"train changes the files that it reads: {', '.join(changed)}")
        return found

    def prompt(self, run: str) -> tuple[Path, Mapping[str, np.ndarray]]:
        """Returns the last prompt of a run: its file, and its arrays by name."""
        from prompt_tuning_files import formats, prompt_files

        path = prompt_files.newest(self.folder / run)
        require(path is not None, f"train writes no prompt_STEP.npy to MODEL_DIR, {run!r}")
        assert path is not None
        found = formats.read_prompt(path)
        if found.module is not None:
            return path, found.module.parameters
        return path, {"the prompt": found.matrix(path)}


@dataclasses.dataclass(frozen=True)
class EngineSubject:
    """An engine, and how to try it; see `engine_subject`."""

    engine: type
    sample_flags: SampleFlags | None

    @property
    def name(self) -> str:
        """The name that `--engine` takes.

        Raises:
          NotTriedError: If the class is no installed plugin.
        """
        installed = registry.process_registry()
        for plugin in installed.discover():
            if plugin.kind == "engine" and plugin.status == "ok":
                with contextlib.suppress(PluginError):
                    if installed.load("engine", plugin.name) is self.engine:
                        return plugin.name
        raise NotTriedError(f"{name_of(self.engine)} is no installed plugin; run: pip install .")

    @functools.cached_property
    def session(self) -> Session:
        """The session of all checks.

        Raises:
          NotTriedError: If the engine lacks what it needs, or there are no samples.
        """
        name = self.name
        missing = getattr(self.engine(), "missing", lambda: None)()
        if missing:
            raise NotTriedError(f"the engine needs {missing}, which is not installed")
        return Session(name, self.sample_flags or _flags_of_tiny_t5)


def engine_subject(
    engine: type,
    arguments: SampleFlags | Sequence[str] | None = None,
    *,
    seed: int = 0,
    max_examples: int = 1,
) -> EngineSubject:
    """Returns the subject of the checks.

    Args:
      engine: The class.
      arguments: A function that writes samples to a folder and returns the flags of each command;
        or the flags of `train`. None for the engine's own attribute `sample_flags`. If there is
        none, the samples are a tiny T5, with the gin files that all engines have.
      seed: Not used: the samples fix the seed of the run.
      max_examples: Not used: nothing is drawn.
    """
    del seed, max_examples
    declared: SampleFlags | None = getattr(engine, "sample_flags", None)
    if arguments is None:
        return EngineSubject(engine, declared)
    if callable(arguments):
        return EngineSubject(engine, arguments)
    given = list(arguments)
    return EngineSubject(engine, lambda folder: {"train": given})


def _flags_of_tiny_t5(folder: Path) -> Mapping[str, Sequence[str]]:
    from prompt_tuning_testing import tiny_t5

    try:
        tiny = tiny_t5.write(folder)
    except ImportError as error:
        raise NotTriedError(f"{error}; run: pip install 'prompt-tuning-testing[model]'") from error
    return {
        "train": tiny.flags(),
        "eval": tiny.eval_flags(),
        "infer": tiny.infer_flags(),
    }


def _check_made(subject: EngineSubject, nothing: None) -> None:
    made = subject.engine()
    for command in COMMANDS:
        try:
            inspect.signature(getattr(made, command)).bind(RunFlags())
        except TypeError as error:
            raise BrokenClauseError(f"{command} does not take one RunFlags: {error}") from error
    missing = made.missing() if hasattr(made, "missing") else None
    require(missing is None or isinstance(missing, str), f"missing() returns {missing!r}")


def _check_trains(subject: EngineSubject, nothing: None) -> None:
    session = subject.session
    assert session.trained.code == 0
    path, arrays = session.prompt(_RUN)
    whole = {"": arrays} if isinstance(arrays, np.ndarray) else arrays
    for name, array in whole.items():
        require(np.isfinite(array).all(), f"{path.name}: {name or 'the prompt'} is not finite")
    facts = path.with_suffix(".json")
    require(
        facts.is_file(), f"train writes no provenance beside {path.name}, expected {facts.name}"
    )
    require(isinstance(json.loads(facts.read_text()), dict), f"{facts.name} is no JSON object")


def _check_repeats(subject: EngineSubject, nothing: None) -> None:
    session = subject.session
    first = session.trained
    again = session.run("train", f"--gin.MODEL_DIR={_AGAIN!r}")
    require(again.code == first.code, f"train ends with exit code {again.code}: {again.error}")
    (one_path, one), (other_path, other) = session.prompt(_RUN), session.prompt(_AGAIN)
    require(
        one_path.name == other_path.name,
        f"the last prompt is {one_path.name}, and {other_path.name} the second time",
    )
    same = all(np.array_equal(array, other[name]) for name, array in one.items())
    require(same, f"{one_path.name} has other values in a second run with the same seed")


def _check_calls_hooks(subject: EngineSubject, nothing: None) -> None:
    session = subject.session
    events = session.trained.events
    hooks = [event.hook for event in events]
    for hook in ("prompt_initialized", "run_finished"):
        require(hooks.count(hook) == 1, f"calls {hook} {hooks.count(hook)} times, expected once")
    require(hooks[0] == "prompt_initialized", f"calls {hooks[0]} before prompt_initialized")
    require(hooks[-1] == "run_finished", f"calls {hooks[-1]} after run_finished")
    for hook in ("step_logged", "prompt_saved"):
        require(hook in hooks, f"a run of --hooks never calls {hook}")


def _check_gives_hooks(subject: EngineSubject, nothing: None) -> None:
    session = subject.session
    for hook, arguments in session.trained.events:
        if hook == "prompt_initialized":
            require(arguments["parameters"], f"{hook} gets no parameters")
            for name, array in arguments["parameters"].items():
                found = getattr(array, "dtype", type(array).__name__)
                require(found == np.float32, f"{hook} gets {name!r} as {found}, expected float32")
        if hook in ("step_logged", "evaluated"):
            for name, value in arguments["metrics"].items():
                is_number = isinstance(value, float) and math.isfinite(value)
                require(is_number, f"{hook} gets the metric {name!r} as {value!r}")
        if hook == "prompt_saved":
            _check_saved(session, arguments)


def _check_saved(session: Session, arguments: Mapping[str, Any]) -> None:
    paths = [session.folder / os.fspath(path) for path in arguments["paths"]]
    require(paths, "prompt_saved gets no paths")
    # A run may remove its old prompts later.
    for path in filter(Path.exists, paths):
        facts = json.loads(path.with_suffix(".json").read_text())
        given = json.loads(json.dumps(arguments["provenance"]))
        other = sorted(n for n in {*facts, *given} if facts.get(n) != given.get(n))
        require(
            not other,
            f"prompt_saved gets another provenance than {path.with_suffix('.json').name} has: "
            f"{', '.join(other)} differ",
        )


def _check_ends_early(subject: EngineSubject, nothing: None) -> None:
    session = subject.session
    logged = [event for event in session.trained.events if event.hook == "step_logged"]
    first = int(logged[0].arguments["step"])
    found = session.run(
        "train",
        f"--gin.MODEL_DIR={_ENDED!r}",
        f"--hooks={recorded_events.NAME}",
        ends_at_step=first,
    )
    require(found.code == 0, f"a run that step_logged ends has exit code {found.code}")
    require(found.events[-1].hook == "run_finished", "it does not call run_finished at the end")
    from prompt_tuning_files import prompt_files

    path, _ = session.prompt(_ENDED)
    step = prompt_files.step_of(path)
    require(
        step == first, f"step_logged returned True at step {first}, and {path.name} is the last"
    )


def _check_refuses_flags(subject: EngineSubject, nothing: None) -> None:
    for command in COMMANDS:
        subject.session.refused(_UNKNOWN_FLAG.strip("-"), command, f"{_UNKNOWN_FLAG}=1")


def _check_refuses_gin(subject: EngineSubject, nothing: None) -> None:
    refused = subject.session.refused
    refused("no_such_file.gin", "train", "--gin_file=no_such_file.gin")
    refused("no_such_function", "train", "--gin.no_such_function.x=1")
    refused("no_such_hooks", "train", "--hooks=no_such_hooks")


def _check_hook_fails(subject: EngineSubject, nothing: None) -> None:
    subject.session.refused(
        recorded_events.NAME,
        "train",
        f"--hooks={recorded_events.NAME}",
        fails_at="prompt_initialized",
    )


def _check_follows(command: str, subject: EngineSubject) -> None:
    """Runs `eval` or `infer` on the first run; an engine without the command must refuse it."""
    session = subject.session
    assert session.trained.code == 0
    if command not in session.flags:
        session.refused("", command)
        return
    before = session.contents()
    found = session.run(command, f"--hooks={recorded_events.NAME}")
    require(found.code == 0, f"{command} ends with exit code {found.code}: {found.error.strip()}")
    changed = sorted(n for n, v in before.items() if session.contents().get(n) != v)
    require(not changed, f"{command} changes files of the run: {', '.join(changed)}")
    if command == "eval":
        called = [event for event in found.events if event.hook == "evaluated"]
        metrics = [event.arguments["metrics"] for event in called]
        require(metrics, "eval never calls the hook evaluated")
        values = [value for found in metrics for value in found.values()]
        require(values and all(map(math.isfinite, values)), f"eval gives the metrics {metrics}")
    new = [n for n, v in session.contents().items() if n not in before and v]
    require(new, f"{command} writes nothing")


ENGINE_CHECKS: tuple[Check[EngineSubject], ...] = (
    Check(
        "made",
        1,
        "it is made without arguments; train, eval and infer take a RunFlags",
        _check_made,
        is_needed=True,
    ),
    Check(
        "trains",
        2,
        "train reads the gin files, in the search paths too, and writes a prompt with provenance",
        _check_trains,
        is_needed=True,
    ),
    Check("repeats", 3, "a second run with the same seed has the same bits", _check_repeats),
    Check(
        "calls_hooks",
        4,
        "the hooks of --hooks are called in the order of a run",
        _check_calls_hooks,
        is_needed=True,
    ),
    Check("gives_hooks", 4, "hooks get what their specifications say", _check_gives_hooks),
    Check(
        "ends_early", 4, "True of step_logged makes this step the run's last one", _check_ends_early
    ),
    Check("refuses_flags", 5, "a flag that it does not know is an error", _check_refuses_flags),
    Check("refuses_gin", 5, "a mistake in gin is an error of one line", _check_refuses_gin),
    Check("hook_fails", 5, "an error of a hook ends the run with one line", _check_hook_fails),
    Check(
        "evaluates",
        6,
        "eval gives finite metrics to the hooks, and writes a file",
        lambda subject, nothing: _check_follows("eval", subject),
    ),
    Check(
        "infers",
        6,
        "infer writes a file",
        lambda subject, nothing: _check_follows("infer", subject),
    ),
)

CONTRACT = Contract(ENGINE_CHECKS, engine_subject, examples=1)
