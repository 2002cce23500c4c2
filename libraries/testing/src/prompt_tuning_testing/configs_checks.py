"""The contract of packages of gin files, as checks.

gin keeps one configuration in a process, and gin files import modules. So another process parses
the files, and reports the effects.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from prompt_tuning_core import gin_config, registry
from prompt_tuning_core.errors import InputError, PluginError, nearest, one_line
from prompt_tuning_core.kinds import KINDS, SHARED
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_testing import child_processes, watching
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract

_USUAL = "local"
_PART = re.compile(r"[\w.+-]+")
# Such as "/home/me/data" and "C:\\Users", but neither "gs://bucket/home/" nor "Q:\n".
_OF_A_MACHINE = re.compile(
    r"(?<![\w./-])(?:/(?:home|Users|root)/[^\s'\",)]*|[A-Z]:\\{1,2}[A-Z]\w[^\s'\",)]*)"
)


class Found(NamedTuple):
    """The result of parsing one file.

    Attributes:
      error: The error, in one line; "" if it parses.
      does: The other effects of parsing, such as "wrote the file x.npy".
    """

    error: str
    does: list[str]


@dataclasses.dataclass(frozen=True)
class ConfigsSubject:
    """A package of gin files, and the engine to read them with.

    Attributes:
      package: The package.
      given: The engine's name or `shared`; None for the name of its entry point.
    """

    package: Any
    given: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the package."""
        return Path(next(iter(self.package.__path__))).absolute()

    @functools.cached_property
    def files(self) -> dict[str, Path]:
        """The gin files by the names that a run has for them."""
        files = sorted(path for path in self.folder.rglob("*.gin") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in files}

    @property
    def owner(self) -> str:
        """The engine that may read the files, or `shared`."""
        if self.given is not None:
            return self.given
        real = self.folder.resolve()
        of_it = (f for f in gin_config.packaged_folders() if f.path.resolve() == real)
        return next((folder.engine or SHARED for folder in of_it), SHARED)

    @functools.cached_property
    def engine(self) -> str:
        """The engine to parse with: its own, or any if the files are shared.

        Raises:
          NotTriedError: If it is not installed.
        """
        plugins = registry.process_registry().discover()
        names = [p.name for p in plugins if p.kind == "engine" and p.status == "ok"]
        if self.owner == SHARED:
            if not names:
                raise NotTriedError("no engine is installed that could read shared files")
            return _USUAL if _USUAL in names else names[0]
        if self.owner not in names:
            raise NotTriedError(f"the engine {self.owner!r} is not installed")
        return self.owner

    @functools.cached_property
    def lacks(self) -> str:
        """The requirement that the engine lacks here; "" if none."""
        try:
            engine = registry.process_registry().load("engine", self.engine)()
        except PluginError as error:
            return str(error)
        return (engine.missing() if hasattr(engine, "missing") else None) or ""

    @functools.cached_property
    def parsed(self) -> dict[str, Found]:
        """The findings of another process for each file.

        Raises:
          NotTriedError: If the engine cannot run here.
        """
        if self.lacks:
            raise NotTriedError(f"the engine {self.engine!r} cannot run here: {self.lacks}")
        return _in_another_process(self.engine, self.folder, list(self.files))


def configs_subject(
    plugin: Any, arguments: str | None = None, *, seed: int = 0, max_examples: int = 1
) -> ConfigsSubject:
    """Returns the subject of the checks.

    Args:
      plugin: The package.
      arguments: The name of the engine that may read the files, or `shared`; None for the name of
        the installed package's entry point.
      seed: Not used: nothing is drawn.
      max_examples: Not used.

    Raises:
      InputError: If the arguments are no name.
    """
    del seed, max_examples
    if arguments is not None and not isinstance(arguments, str):
        raise InputError(
            f"the arguments of configs are {arguments!r}, expected the name of an engine, or "
            f"{SHARED!r}"
        )
    return ConfigsSubject(plugin, arguments)


def _check_files(subject: ConfigsSubject, nothing: None) -> None:
    complaint = KINDS["configs"].complaint(subject.package)
    require(complaint is None, f"the plugin {complaint}")
    require(
        subject.files,
        f"the package {subject.package.__name__} holds no .gin file in {subject.folder}; a build "
        "backend may leave out what is no Python: with setuptools, add [tool.setuptools."
        f'package-data] "{subject.package.__name__}" = ["**/*.gin"] to pyproject.toml',
    )
    for name in subject.files:
        for part in name.split("/"):
            require(
                _PART.fullmatch(part),
                f"{name!r}: expected letters, digits, '.', '_', '+' and '-' in the names of "
                "files and folders, since gin files and flags quote them",
            )
    for other in sorted(subject.folder.rglob("*")):
        require(
            other.suffix == ".gin" or other.suffix.lower() != ".gin",
            f"{other.name!r}: expected .gin in lower case",
        )


def _check_texts(subject: ConfigsSubject, nothing: None) -> None:
    for name, path in subject.files.items():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise BrokenClauseError(f"{name}: is not in UTF-8: {error}") from error
        for number, line in enumerate(text.splitlines(), 1):
            found = _OF_A_MACHINE.search(line)
            require(
                found is None,
                f"{name}:{number}: has the path {found and found[0]!r} of one machine; use a macro",
            )


class _Names(config_parser.ParserDelegate):
    """Makes gin's parser collect the configurables that values refer to."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        self.found.append(scoped_configurable_name.rpartition("/")[2])
        return scoped_configurable_name

    def macro(self, macro_name: str) -> str:
        return f"%{macro_name}"


class _Named(NamedTuple):
    """A name of something outside of a gin file.

    Attributes:
      line: The number of the line.
      kind: "import", "plugin", "hooks" or "tasks".
      name: The name.
    """

    line: int
    kind: str
    name: str


def _named(text: str) -> Iterator[_Named]:
    """Yields the modules and the plugins that a gin file names; stops at a syntax error."""
    references = _Names()
    try:
        statements = list(_statements(text, references))
    except (SyntaxError, ValueError, TypeError, RecursionError):
        return  # Another check reports it.
    for line, statement, values in statements:
        if isinstance(statement, config_parser.ImportStatement):
            if not statement.module.startswith("__"):
                yield _Named(line, "import", statement.module)
            continue
        selectors = [*values, getattr(statement, "selector", "")]
        for selector in selectors:
            _, is_of_ours, name = f".{selector}".rpartition(".plugins.")
            if is_of_ours and name:
                yield _Named(line, "plugin", name.split(".")[0])
        yield from _named_by_macro(line, statement)


def _statements(text: str, references: _Names) -> Iterator[tuple[int, Any, list[str]]]:
    for statement in config_parser.ConfigParser(text, references):
        yield statement.location.line_num, statement, references.found
        references.found = []


def _named_by_macro(line: int, statement: Any) -> Iterator[_Named]:
    if not isinstance(statement, config_parser.BindingStatement) or statement.arg_name:
        return
    value = statement.value
    if statement.selector == "HOOKS" and isinstance(value, list | tuple):
        yield from (_Named(line, "hooks", name) for name in value if isinstance(name, str))
    is_name = isinstance(value, str) and not value.startswith("%")
    if statement.selector == "MIXTURE_OR_TASK_MODULE" and is_name:
        yield _Named(line, "tasks", value)


def _check_names(subject: ConfigsSubject, nothing: None) -> None:
    plugins = registry.process_registry().discover()
    known = {"plugin": set(registry.process_registry().names_in_gin())}
    for kind in ("hooks", "tasks"):
        known[kind] = {plugin.name for plugin in plugins if plugin.kind == kind}
    missing = []
    for file in subject.files:
        for line, kind, name in _named(_text(str(subject.folder), file)):
            where = f"{file}:{line}"
            if kind == "import":
                missing += [] if _is_module(name) else [f"{where}: imports {name}"]
            elif name not in known[kind] and not (kind == "tasks" and _is_module(name)):
                what = "plugin" if kind == "plugin" else f"plugin of the kind {kind}"
                hint = nearest(name, known[kind])
                raise BrokenClauseError(f"{where}: no {what} named {name!r} is installed{hint}")
    if missing and subject.lacks:
        raise NotTriedError(f"the engine {subject.engine!r} cannot run here: {subject.lacks}")
    require(
        not missing,
        f"{'; '.join(missing[:3])}: no such module is installed; depend on its distribution",
    )


def _is_module(name: str) -> bool:
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    try:
        gin_config.find_module(name)
    except InputError:
        return False
    return True


def _check_parses(subject: ConfigsSubject, nothing: None) -> None:
    errors = [found.error for found in subject.parsed.values() if found.error]
    require(not errors, "; and ".join(errors))


def _check_does_nothing(subject: ConfigsSubject, nothing: None) -> None:
    does = [
        f"to parse {name} {', '.join(found.does)}"
        for name, found in subject.parsed.items()
        if found.does
    ]
    require(not does, "; and ".join(does))


def _check_own_names(subject: ConfigsSubject, nothing: None) -> None:
    real = subject.folder.resolve()
    for folder in gin_config.packaged_folders():
        if folder.engine != subject.owner or folder.path.resolve() == real:
            continue
        for name in subject.files:
            require(
                not (folder.path / name).is_file(),
                f"{name} is also in {folder.distribution}, for the same engine "
                f"({subject.owner}), so that a run could use neither; rename it",
            )


def _in_another_process(engine: str, folder: Path, names: Sequence[str]) -> dict[str, Found]:
    """Parses the files of a folder in another process, one after another."""
    try:
        found = child_processes.ask(__name__, [engine, str(folder), *names])
    except child_processes.EndedEarlyError as error:
        raise BrokenClauseError(f"the process that parses the files ends early: {error}") from error
    return {name: Found(*of) for name, of in found.items()}


def answer() -> None:
    """Parses the files in the question; replies with the findings."""
    engine, folder, *names = child_processes.question()[0]
    # Warnings and log records are allowed: they do not count as output.
    warnings.showwarning = lambda *_, **__: None
    logging.root.addHandler(logging.NullHandler())
    registry.process_registry().load("engine", engine)  # As a run does first.
    errors = {}
    os.mkdir("first")
    for name in names:
        with watching.restored(), watching.printed(), contextlib.chdir("first"):
            errors[name] = _error(engine, folder, name)
    # The effects of importing dependencies do not count. The effects of importing modules that the
    # files name do count, so these modules are imported again.
    for module in {one.name for name in names for one in _named(_text(folder, name))}:
        sys.modules.pop(module, None)
    found = {}
    seen = {"first"}
    for name in names:
        with watching.restored():
            before = dict(os.environ), os.getcwd()
            with watching.printed() as printed, watching.Audit.watch() as audit:
                _error(engine, folder, name)
            does = [*audit.does, *(f"printed {text[:100]!r}" for text in printed)]
            if os.getcwd() != before[1]:
                does.append("changed the working directory")
            # What a module writes while it is imported is not in the audit.
            left = sorted(set(os.listdir(before[1])) - seen)
            seen.update(left)
            does += [f"wrote {file} to the working directory" for file in left]
            does += [
                f"changed the variable {key} of the environment"
                for key in sorted(before[0].keys() | os.environ.keys())
                if before[0].get(key) != os.environ.get(key)
            ]
            found[name] = Found(errors[name], does)
    child_processes.reply(found)


def _text(folder: str, name: str) -> str:
    return Path(folder, name).read_text(encoding="utf-8-sig", errors="replace")


def _error(engine: str, folder: str, name: str) -> str:
    """Parses one file; returns the error, or "" if there is none."""
    import gin

    flags = RunFlags((name,), gin_search_paths=(folder,))
    try:
        with gin.unlock_config():
            gin_config.parse(flags, engine, fill=_fill)
    except (InputError, PluginError) as error:
        if "<module '__main__'" in str(error):
            return ""  # It is for a script, and names objects that only that script has.
        return " ".join(str(error).replace(f"{folder}{os.sep}", "").split())
    except Exception as error:  # A module that a file imports may raise anything.
        return f"{name}: {one_line(error)}"
    return ""


def _fill(macros: gin_config.Macros) -> gin_config.FilledMacros:
    """Gives a value to each macro that a run would have to set."""
    values = {name: None for name in macros.used - macros.known.keys() if "." not in name}
    return gin_config.FilledMacros(values, "a value for the check")


CONFIGS_CHECKS: tuple[Check[ConfigsSubject], ...] = (
    Check(
        "files",
        1,
        "the package carries gin files, with names that gin files and flags can have",
        _check_files,
        is_needed=True,
    ),
    Check(
        "texts",
        1,
        "the files are in UTF-8, and hold no path of one machine",
        _check_texts,
    ),
    Check("names", 2, "the files name only plugins and modules that are installed", _check_names),
    Check(
        "parses",
        3,
        "each file can be parsed alone, with a value for each macro that a run has to give",
        _check_parses,
    ),
    Check(
        "own_names",
        4,
        "no other distribution has a file of the same name for the same engine",
        _check_own_names,
    ),
    Check(
        "does_nothing",
        5,
        "to parse a file changes nothing, and starts no work",
        _check_does_nothing,
    ),
)

CONTRACT = Contract(CONFIGS_CHECKS, configs_subject, examples=1)
