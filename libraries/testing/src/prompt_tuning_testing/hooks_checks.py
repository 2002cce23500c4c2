"""The contract of hooks plugins, as checks.

They call the hooks through pluggy, in the order of a run and with the kinds of values that engines
give. A plugin may keep the values of a call. So the checks of `eval` and of a resumed run come
before the checks of whole runs. The prompt has the same names and sizes in all checks but
`two_runs`, so only `two_runs` fails for a plugin that confuses two runs.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import inspect
import io
import math
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pluggy

from prompt_tuning_core import hookspecs
from prompt_tuning_core.errors import InputError, one_line
from prompt_tuning_core.kinds import KINDS
from prompt_tuning_files import module_files
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract, name_of
from prompt_tuning_testing.watching import same

HOOKS: tuple[str, ...] = tuple(
    name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")
)
"""The names of the hooks."""

SampleRun = Callable[[Path], object]
"""Makes the value for `run_finished(run)`, with its files in the given folder."""

_WIDTH = 8
_PLAIN = "encoder/prompt/prompt/prompt"


@dataclasses.dataclass(frozen=True)
class HooksSubject:
    """A hooks plugin, and how to try it; see `hooks_subject`."""

    plugin: object
    sample_run: SampleRun | None
    seed: int = 0

    def manager(self) -> pluggy.PluginManager:
        """Makes a manager with only this plugin, as an engine does; pluggy validates the plugin."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        manager.register(self.plugin, "the_plugin")
        manager.check_pending()
        return manager

    def marked(self) -> dict[str, str]:
        """Returns the hook of each function marked by `hookimpl`, by the function's name."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        found = {}
        for name in dir(self.plugin):
            options = manager.parse_hookimpl_opts(self.plugin, name)
            if options is None:
                continue
            hook = options["specname"] or name
            # A hook that is marked as optional may exist only in a later core.
            if hook in HOOKS or not options["optionalhook"]:
                found[name] = hook
        return found


def hooks_subject(
    plugin: object,
    arguments: SampleRun | None = None,
    *,
    seed: int = 0,
    max_examples: int = 1,
) -> HooksSubject:
    """Returns the subject of the checks.

    Args:
      plugin: A module or an instance with functions marked by `hookimpl`.
      arguments: Makes the value for `run_finished`: a function from a folder; None for the
        plugin's own attribute `sample_run`, if it has one.
      seed: Determines the values.
      max_examples: Not used: each check has its own runs.

    Raises:
      InputError: If the plugin is a class.
    """
    del max_examples
    complaint = KINDS["hooks"].complaint(plugin)
    if complaint:
        raise InputError(f"{name_of(plugin)}: the plugin {complaint}")
    return HooksSubject(plugin, arguments or getattr(plugin, "sample_run", None), seed)


@dataclasses.dataclass
class _Run:
    """A run of an engine, as hooks see it.

    Attributes:
      subject: The plugin.
      folder: The directory of the run.
      form: The prompt: plain, a module with no plain matrix, or one with a matrix and more arrays.
      length: P.
      as_text: True to give paths as texts, as the engine for T5X does.
      writable: False for arrays that cannot be changed.
      calling: The hook that was called last.
      given: The values that the plugin got in each call, each with a copy from before the call.
    """

    subject: HooksSubject
    folder: Path
    form: Literal["plain", "module", "both"] = "plain"
    length: int = 3
    as_text: bool = False
    writable: bool = True
    calling: str = ""
    given: list[tuple[str, Any, Any]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.subject.seed)
        # All forms have the plain prompt's array; see the module's docstring.
        shapes: dict[str, tuple[int, ...]] = {_PLAIN: (self.length, _WIDTH)}
        if self.form != "plain":
            shapes |= {"encoder/prompt/up/kernel": (_WIDTH, 4), "encoder/prompt/up/bias": (4,)}
        self.parameters = {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        self.hook = self.subject.manager().hook

    def __str__(self) -> str:
        forms = {
            "plain": "a plain prompt",
            "module": "a module with no plain prompt",
            "both": "a module with a plain prompt and other arrays",
        }
        return f"a run of {forms[self.form]}, paths are {'texts' if self.as_text else 'Paths'}"

    @property
    def matrix(self) -> np.ndarray | None:
        """The plain prompt `[P, H]`."""
        return None if self.form == "module" else self.parameters[_PLAIN]

    def whole(self, resumed: bool = False) -> None:
        """Calls the hooks of a whole run of four steps, or of the rest after it is resumed."""
        first = 2 if resumed else 0
        if not resumed:
            self.initialized()
            self.evaluated(0)
            self.saved(0)
        for step in range(first + 1, 5):
            ends = True in self.logged(step)
            if ends or step % 2 == 0:
                self.evaluated(step)
            if ends or step == 4:
                self.saved(step)
            if ends:
                break
        self.finished(is_declared_only=True)

    def initialized(self) -> None:
        """Calls `prompt_initialized`."""
        self._call(
            "prompt_initialized",
            prompt=self._array(self.matrix),
            parameters={name: self._array(value) for name, value in self.parameters.items()},
            provenance=_provenance(),
        )

    def logged(self, step: int, **metrics: float) -> list[object]:
        """Calls `step_logged`; returns the answers that are not None."""
        values = {"loss": 8.0 / step, "loss_per_nonpadding_target_token": 2.0 / step, **metrics}
        return self._call("step_logged", step=step, metrics=values)

    def evaluated(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Calls `evaluated`."""
        given = {"accuracy": 0.5, "loss": 2.0} if metrics is None else metrics
        self._call("evaluated", step=step, metrics=dict(given))

    def saved(self, step: int) -> None:
        """Moves the prompt a little, writes its files, and calls `prompt_saved`."""
        self.parameters = {n: v + np.float32(0.125) for n, v in self.parameters.items()}
        facts = {**_provenance(), "step": step, "metrics": {"validation": {"accuracy": 0.5}}}
        paths = module_files.save(
            self.folder / f"prompt_{step}", self.parameters, self.matrix, _MODULE, facts
        )
        before = {path: path.read_bytes() for path in sorted(self.folder.glob("prompt_*"))}
        given = list(map(str, paths)) if self.as_text else paths
        self._call("prompt_saved", paths=given, provenance=facts)
        for path, content in before.items():
            require(path.exists(), f"prompt_saved removed {path.name}")
            require(path.read_bytes() == content, f"prompt_saved changed the file {path.name}")

    def finished(self, is_declared_only: bool = False) -> None:
        """Calls `run_finished` with the plugin's own sample, or with a small substitute.

        Args:
          is_declared_only: True to skip the call if the plugin declares no sample.

        Raises:
          NotTriedError: If the substitute lacks an attribute, or the plugin refuses it.
        """
        if self.subject.sample_run is not None:
            self._call("run_finished", run=self.subject.sample_run(self.folder))
            return
        if is_declared_only:
            return
        run = types.SimpleNamespace(directory=self.folder)
        try:
            self._call("run_finished", run=run)
        except (AttributeError, InputError) as error:
            if isinstance(error, AttributeError) and error.obj is not run:
                raise
            raise NotTriedError(
                f"run_finished wants more than run.directory ({one_line(error)}); declare a "
                "function sample_run(folder) in the plugin, or give one as the arguments, that "
                "returns a run"
            ) from error

    def _array(self, value: np.ndarray | None) -> np.ndarray | None:
        if value is None:
            return None
        given = value.copy()
        given.flags.writeable = self.writable
        return given

    def _call(self, hook: str, **arguments: Any) -> list[object]:
        """Calls a hook as engines do, within the folder; its output is not shown."""
        self.calling = hook
        self.given += [
            (f"{name} of {hook}", copy.deepcopy(value), value)
            for name, value in arguments.items()
            if name != "run"
        ]
        shown = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(shown),
        ):
            answers: list[object] = getattr(self.hook, hook)(**arguments)
        return answers


_MODULE: Mapping[str, Any] = {
    "plugin": "prompt_sample",
    "distribution": "prompt-tuning-prompt-sample",
    "version": "1.0.0",
    "fields": {"length": 3, "sides": ["encoder"]},
}


def _provenance() -> dict[str, Any]:
    """Returns facts of a run, nested like the facts of engines, for RECORD_SETTINGS = False.

    So the keys `config`, `initializer` and `changes` are missing, as hooks must expect.
    """
    return {
        "model": {"sha256": "0" * 64, "step": 1_100_000},
        "vocabulary": {"sha256": "1" * 64, "size": 32_100},
        "task": {"name": "a_task", "module": None, "feature_lengths": {"inputs": 16}},
        "prompt_module": copy.deepcopy(dict(_MODULE)),
        "seed": 0,
        "plugins": [{"kind": "hooks", "name": "mine", "distribution": "a", "version": "1"}],
        "versions": {"prompt-tuning-core": "1.0.0"},
        "started": "2026-01-01T00:00:00+00:00",
    }


@contextlib.contextmanager
def _run(subject: HooksSubject, **settings: Any) -> Iterator[_Run]:
    """Makes a run in a temporary folder; an exception of a hook names the run."""
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(subject, Path(folder), **settings)
        try:
            yield run
        except (BrokenClauseError, NotTriedError):
            raise
        except (Exception, SystemExit) as error:  # A hook may raise anything.
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise BrokenClauseError(
                f"{run}: {run.calling} raises {one_line(error)} "
                f"({Path(where.filename).name}:{where.lineno})"
            ) from error


def _check_marked(subject: HooksSubject, nothing: None) -> None:
    marked = subject.marked()
    require(
        marked,
        "no function is marked by prompt_tuning_core.hookspecs.hookimpl, so none is called",
    )
    for name, hook in marked.items():
        near = " or ".join(difflib.get_close_matches(hook, HOOKS, n=1)) or ", ".join(HOOKS)
        require(hook in HOOKS, f"marks {name!r}, and there is no hook {hook!r}; write {near}")


def _check_names(subject: HooksSubject, nothing: None) -> None:
    marked, module = subject.marked(), subject.plugin if inspect.ismodule(subject.plugin) else None
    for name in dir(subject.plugin):
        value = inspect.getattr_static(subject.plugin, name)
        is_own = module is None or getattr(value, "__module__", None) == module.__name__
        if name in marked or name.startswith("_") or not inspect.isroutine(value) or not is_own:
            continue
        near = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.8)
        require(
            not near,
            f"has a function {name!r} without @hookimpl, which is never called; mark it as the "
            f"hook {' '.join(near)!r}, or name it otherwise",
        )


def _check_arguments(subject: HooksSubject, nothing: None) -> None:
    try:
        subject.manager()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise BrokenClauseError(one_line(error)) from error
    for name, hook in subject.marked().items():
        known = inspect.signature(getattr(hookspecs, hook)).parameters
        for parameter in inspect.signature(getattr(subject.plugin, name)).parameters.values():
            is_given = (
                parameter.kind is parameter.POSITIONAL_OR_KEYWORD
                and parameter.default is parameter.empty
            )
            require(
                is_given or parameter.name not in known,
                f"{name}: pluggy never gives an argument that has a default or is for keywords "
                f"only; write {parameter.name!r} without",
            )


def _check_eval_alone(subject: HooksSubject, nothing: None) -> None:
    with _run(subject) as run:
        run.evaluated(1_100_000)


def _check_resumed_run(subject: HooksSubject, nothing: None) -> None:
    for form in ("plain", "module"):
        with _run(subject, form=form) as run:
            run.whole(resumed=True)


def _check_plain_run(subject: HooksSubject, nothing: None) -> None:
    for as_text in (False, True):
        with _run(subject, as_text=as_text) as run:
            run.whole()


def _check_answers(subject: HooksSubject, nothing: None) -> None:
    with _run(subject) as run:
        run.initialized()
        answers: list[object] = []
        for step in range(1, 5):
            if True in answers:
                break
            answers = run.logged(step)
            wrong = [answer for answer in answers if not isinstance(answer, bool)]
            require(not wrong, f"step_logged returned {wrong}, expected None, True or False")


def _check_module_run(subject: HooksSubject, nothing: None) -> None:
    for form in ("module", "both"):
        with _run(subject, form=form) as run:
            run.whole()


def _check_two_runs(subject: HooksSubject, nothing: None) -> None:
    # The last run has the size of all other checks.
    for length in (5, 3):
        with _run(subject, length=length) as run:
            run.whole()


def _check_changes_nothing(subject: HooksSubject, nothing: None) -> None:
    for writable in (True, False):
        with _run(subject, form="both", writable=writable) as run:
            run.whole()
        for name, before, after in run.given:
            require(same(before, after), f"changes {name}, which the engine goes on using")


def _check_other_metrics(subject: HooksSubject, nothing: None) -> None:
    named: Sequence[Mapping[str, float]] = (
        {"a_score_of_this_task": 12.5},
        {"a_task/exact_match": 1.0, "another_task/exact_match": 0.0},
        {},
    )
    for metrics in named:
        with _run(subject) as run:
            run.initialized()
            run.evaluated(0, metrics)


def _check_not_finite(subject: HooksSubject, nothing: None) -> None:
    for value in (math.nan, math.inf, -math.inf):
        for metrics in ({"penalty": value}, {"loss": value}):
            with _run(subject) as run:
                run.initialized()
                run.evaluated(0, {"accuracy": value, "loss": value})
                run.logged(1, **metrics)


def _check_run_finished(subject: HooksSubject, nothing: None) -> None:
    with _run(subject) as run:
        run.initialized()
        run.finished()


HOOKS_CHECKS: tuple[Check[HooksSubject], ...] = (
    Check(
        "marked",
        1,
        "at least one function is marked by hookimpl, and each marked one is a hook",
        _check_marked,
        is_needed=True,
    ),
    Check("names", 1, "no unmarked function has the name of a hook, or almost", _check_names),
    Check(
        "arguments",
        2,
        "each hook takes only arguments that its specification has, and pluggy gives all of them",
        _check_arguments,
        is_needed=True,
    ),
    Check("eval_alone", 3, "evaluated works alone, as in eval", _check_eval_alone),
    Check(
        "resumed_run",
        3,
        "no hook raises in a resumed run, which has no prompt_initialized",
        _check_resumed_run,
    ),
    Check(
        "plain_run",
        4,
        "no hook raises in a run of a plain prompt, with paths as Paths and as texts",
        _check_plain_run,
    ),
    Check("answers", 4, "step_logged returns None, True or False", _check_answers),
    Check(
        "module_run",
        5,
        "no hook raises in a run of a prompt module, with a plain prompt and without",
        _check_module_run,
    ),
    Check(
        "two_runs",
        5,
        "no hook raises in a second run of one process, with a prompt of another length",
        _check_two_runs,
    ),
    Check(
        "changes_nothing",
        6,
        "the arrays, metrics, provenance and files that hooks get stay the same",
        _check_changes_nothing,
    ),
    Check(
        "other_metrics",
        7,
        "evaluated takes metrics with any names, and no metrics",
        _check_other_metrics,
    ),
    Check(
        "not_finite",
        7,
        "a metric that is NaN or infinite breaks no hook",
        _check_not_finite,
    ),
    Check("run_finished", 8, "run_finished takes the run of an engine", _check_run_finished),
)

CONTRACT = Contract(HOOKS_CHECKS, hooks_subject, examples=1)
