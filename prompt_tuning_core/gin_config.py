"""Reads gin files and bindings for our commands, and finds the files.

gin itself parses. This module does three more things. It finds files in the folders that
distributions carry. It registers the plugins that files and bindings name, so that `@init_mine()`
and `--gin.plugins.init_mine.scale=5` work without an import. And it turns gin's messages into one
line with file and line number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import io
import itertools
import os
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gin
from gin import config_parser

from prompt_tuning_core import registry, replaced_modules
from prompt_tuning_core.errors import (
    InputError,
    PluginBlockedError,
    PluginError,
    PluginLoadError,
    close,
    nearest,
    one_line,
)
from prompt_tuning_core.kinds import KINDS, SHARED
from prompt_tuning_core.protocols import RunFlags

_NAMESPACE = "prompt_tuning_core.plugins"


@dataclasses.dataclass(frozen=True)
class ParsedConfig:
    """The result of `parse`.

    Attributes:
      plugins: The plugins that files and bindings name, hooks included.
      hooks: The hooks plugins to run: gin's `HOOKS`, then `--hooks`, each once.
      notes: Messages of `fill` for the user, one line each.
    """

    plugins: tuple[registry.Plugin, ...]
    hooks: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Macros(NamedTuple):
    """The macros of a run, before gin parses them.

    Attributes:
      known: The last value of each macro that has one. A reference or another macro stays
        unevaluated.
      given: Those of `known` that the user bound, on the command line or in their own files.
      used: The macros that some value refers to.
    """

    known: Mapping[str, Any]
    given: Mapping[str, Any]
    used: frozenset[str]


class FilledMacros(NamedTuple):
    """The result of a `FillMacros`.

    Attributes:
      values: Values of macros by name.
      origin: The source of the values, for messages.
      notes: Messages for the user, one line each.
    """

    values: Mapping[str, Any] = {}
    origin: str = ""
    notes: Sequence[str] = ()


FillMacros = Callable[[Macros], FilledMacros]
"""Gives values to macros that the user left out."""

CheckMacro = Callable[[str, Any], None]
"""Takes a macro and its value; raises `InputError` if the macro may not have this value."""


class Folder(NamedTuple):
    """A folder of gin files.

    Attributes:
      path: The folder.
      engine: The engine that may read its files, or `SHARED`; None for a user's folder.
      distribution: The distribution that carries it; "" for a user's folder.
    """

    path: Path
    engine: str | None = None
    distribution: str = ""


def find_module(name: str) -> Path:
    """Finds the folder of a Python module or package, without importing it.

    Args:
      name: A dotted name.

    Returns:
      A package's own folder, or the folder that holds the module.

    Raises:
      InputError: If there is none.
    """
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for part in rest:
            # `importlib.util.find_spec` would import the parents of a dotted name.
            folders = list(spec.submodule_search_locations or ()) if spec else []
            spec = PathFinder.find_spec(part, folders) if folders else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise InputError(f"no module named {name!r} is installed; tried sys.path")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).absolute()
    if spec.origin is None or not spec.has_location:
        raise InputError(f"module {name!r} has no folder: it is built into Python")
    return Path(spec.origin).absolute().parent


def packaged_folders() -> tuple[Folder, ...]:
    """Lists the folders of gin files that installed distributions carry (kind `configs`).

    It imports nothing of a distribution.

    Raises:
      PluginLoadError: If one names a package that is not there.
    """
    found = []
    for plugin in registry.process_registry().discover():
        if plugin.kind == "configs" and plugin.status == "ok":
            try:
                path = find_module(plugin.value)
            except InputError as error:
                raise PluginLoadError(f"{plugin} names {plugin.value!r}: {error}") from error
            found.append(Folder(path, plugin.name, plugin.distribution))
    return tuple(found)


def search_paths(
    engine: str, users: Sequence[str] = (), packaged: Sequence[Folder] | None = None
) -> tuple[Folder, ...]:
    """Returns the folders to search for gin files, in order.

    Args:
      engine: The engine of the run.
      users: The user's folders (`--gin_search_paths`).
      packaged: The result of `packaged_folders`, for callers that have it.

    Returns:
      The user's folders, the current directory, the packaged files of the engine, and those that
      any engine may read.
    """
    packaged = packaged_folders() if packaged is None else packaged
    own = [Folder(Path(folder)) for folder in dict.fromkeys([*users, "."])]
    return (*own, *(f for name in (engine, SHARED) for f in packaged if f.engine == name))


def find(name: str, folders: Sequence[Folder]) -> Path:
    """Finds a gin file.

    Args:
      name: A path. A relative path is searched in each folder in turn, and then, as
        `package/folder/x.gin`, in an installed package.
      folders: See `search_paths`. A user's file hides the engine's file, which hides a shared one.

    Raises:
      InputError: If there is no such file, if it belongs to another engine, or if several
        distributions carry one for the same engine.
    """
    if Path(name).is_absolute():
        candidates = [Folder(Path(name))]
    else:
        candidates = [folder._replace(path=folder.path / name) for folder in folders]
        folder, _, file = name.rpartition("/")
        with contextlib.suppress(InputError):  # If it is no package, the error below says enough.
            candidates.append(Folder(find_module(folder.replace("/", ".")) / file))
    found = [candidate for candidate in candidates if os.path.isfile(candidate.path)]
    if not found:
        raise InputError(f"gin file {name!r} not found; {_elsewhere(name, candidates)}")
    first = found[0]
    rivals = [other for other in found[1:] if first.engine and other.engine == first.engine]
    if rivals:
        raise InputError(
            f"gin file {name!r} is in the distributions {first.distribution} and "
            f"{rivals[0].distribution}; block one, for example with "
            f"--block-plugin={rivals[0].distribution}:{first.engine}"
        )
    return first.path


def _elsewhere(name: str, candidates: Sequence[Folder]) -> str:
    """Returns where a missing file is, or a path like it, or else the searched folders."""
    packaged = packaged_folders()
    others = [f for f in packaged if os.path.isfile(f.path / name)]
    if others:
        return f"it belongs to the engine {others[0].engine} ({others[0].distribution})"
    parts = Path(name).parts
    for shorter in ("/".join(parts[i:]) for i in range(1, len(parts) - 1)):
        if any(os.path.isfile(folder.path / shorter) for folder in packaged):
            return f"did you mean {shorter!r}?"
    folders = {candidate.path.parent for candidate in candidates}
    files = (file for folder in folders if os.path.isdir(folder) for file in folder.glob("*.gin"))
    hint = close(Path(name).stem, {file.stem for file in files})
    tried = ", ".join(str(candidate.path.absolute()) for candidate in candidates)
    return hint.removeprefix("; ") or f"tried {tried}"


def parse(
    flags: RunFlags,
    engine: str,
    fill: FillMacros | None = None,
    check: CheckMacro | None = None,
) -> ParsedConfig:
    """Parses files and bindings, replaces gin's configuration by the result, and locks it.

    Args:
      flags: The files, the bindings, the search paths and the hooks. Bindings override files.
      engine: The engine's name; packaged files of another engine are an error.
      fill: Called with the macros before gin parses; returns values for missing macros.
      check: Called with each macro and its last value, unless this has a reference or a macro in
        it.

    Raises:
      InputError: If a file is not found, or if gin or a check of this module refuses a file or
        binding.
      PluginError: If a file or binding names a plugin that cannot be used.
    """
    packaged = packaged_folders()
    folders = search_paths(engine, flags.gin_search_paths, packaged)
    reader = _Reader(engine, packaged, folders)
    sources = [reader.read(find(name, folders)) for name in flags.gin_files]
    _refuse_forgotten_prompt(_statements(sources))
    bindings = [_Source.of_binding(binding) for binding in flags.gin_bindings]
    sources += bindings
    _refuse_blocked_imports(_statements(sources))

    notes: Sequence[str] = ()
    if fill is not None:
        filled = fill(_macros(_statements(sources)))
        values = filled.values.items()
        sources += [_Source(filled.origin, f"{name} = {value!r}") for name, value in values]
        notes = filled.notes
    statements = _statements(sources)
    hooks, plugins = _load_plugins(statements, flags.hooks)
    _refuse_unused_macros(_statements(bindings), {"HOOKS"} | _used(statements))
    _refuse_circles(statements)
    if check is not None:
        _check_macros(statements, check)
    _register(plugin.name for plugin in plugins if KINDS[plugin.kind].in_gin)
    gin.clear_config()
    for source in sources:
        _parse_source(source)
    try:
        gin.finalize()
    except ValueError as error:
        _refuse_unfinished(error, statements)
    _refuse_unused_initializers(statements)
    return ParsedConfig(tuple(plugins), hooks, tuple(notes))


# The errors of gin for a parameter without a value: one that is REQUIRED, or has no default.
_UNBOUND = (
    (RuntimeError, r"^Required bindings for `(?P<configurable>.*?)` not .*?: (?P<names>\[.*?\])"),
    (
        TypeError,
        r"No values supplied by Gin or caller for arguments: (?P<names>\[.*?\])"
        r".*?In call to configurable '(?P<configurable>.*?)'",
    ),
)

_POSITIONAL = (
    r"positional-only arguments passed as keyword arguments: '(.*?)'"
    r".*?In call to configurable '(.*?)'"
)


def explain(error: BaseException) -> str | None:
    """Describes an error of gin in one line; returns None if it is not about the configuration."""
    text = str(error)
    match = re.search(_POSITIONAL, text, re.DOTALL)
    if match:
        return (
            f"{match[2]} takes {match[1]} by position only, so gin cannot set {match[2]}.{match[1]}"
        )
    for kind, pattern in _UNBOUND:
        match = re.search(pattern, text, re.DOTALL) if isinstance(error, kind) else None
        if match:
            configurable, names = match["configurable"], re.findall(r"'(.*?)'", match["names"])
            first = f"{configurable}.{names[0]}"
            hint = f", or name it without (): @{configurable}" if "shape" in names else ""
            return (
                f"gin gives {configurable} no value for {', '.join(names)}; write {first} = … in a "
                f"gin file or --gin.{first}=…{hint}"
            )
    return None


@dataclasses.dataclass(frozen=True)
class _Reference:
    """`@scope/selector` in a value."""

    selector: str


@dataclasses.dataclass(frozen=True)
class _Macro:
    """`%name` in a value."""

    name: str


class _Recorder(config_parser.ParserDelegate):
    """Makes gin's parser keep references and macros unevaluated."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> _Reference:
        return _Reference(scoped_configurable_name.rpartition("/")[2])

    def macro(self, macro_name: str) -> _Macro:
        return _Macro(macro_name)


class _NamedText(io.StringIO):
    """Text whose `name` gin puts into its messages."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


@dataclasses.dataclass
class _Source:
    """A gin file or one binding, with its statements and the files that it includes.

    Attributes:
      label: Its name in messages.
      text: Its text.
      is_file: False for a binding, whose line numbers mean nothing to the user.
      is_given: True if the user wrote it; False for a packaged file and for the files it includes.
      contents: The statements, as gin's parser returns them.
      included: The included files, by the line of the include statement.
    """

    label: str
    text: str
    is_file: bool = False
    is_given: bool = True
    contents: list[Any] = dataclasses.field(init=False)
    included: dict[int, _Source] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parser = config_parser.ConfigParser(_NamedText(self.text, self.label), _Recorder())
            self.contents = list(parser)
            repr(self.contents)  # Recurses as deep as later readers do.
        except tokenize.TokenError as error:
            message, (line, _) = error.args
            raise InputError(f"{self.where(line)}: {message}") from error
        except RecursionError as error:
            raise InputError(f"{self.label}: a value is nested too deep for gin") from error
        except (SyntaxError, ValueError, TypeError) as error:
            raise _as_input_error(error, self) from error

    @classmethod
    def of_binding(cls, binding: str) -> _Source:
        name, _, value = binding.partition("=")
        return cls(f"--gin.{name.strip()}={value.strip()[:200]}", binding)

    def where(self, line: int | None) -> str:
        """Returns the place of a line, for the beginning of a message."""
        return f"{self.label}:{line}" if self.is_file and line else self.label

    def walk(self) -> Iterator[_Statement]:
        """Yields the statements in the order in which they take effect."""
        for content in self.contents:
            yield _Statement(self, content)
            if isinstance(content, config_parser.IncludeStatement):
                yield from self.included[content.location.line_num].walk()

    @functools.cached_property
    def plugin_in(self) -> Callable[[str], str | None]:
        """A function that returns the plugin that a selector in this source names, or None."""
        dynamic = False
        namespaces = {"plugins", _NAMESPACE}
        for statement in self.contents:
            if not isinstance(statement, config_parser.ImportStatement):
                continue
            if statement.module == "__gin__.dynamic_registration":
                # From here on, only imported names count.
                dynamic, namespaces = True, set()
            elif dynamic and statement.module == _NAMESPACE:
                direct = statement.is_from or statement.alias
                namespaces.add(statement.bound_name() if direct else _NAMESPACE)
        # A bare name that gin already knows for another object, such as an engine's, names no
        # plugin.
        bare = {
            name
            for name in ([] if dynamic else registry.process_registry().names_in_gin())
            if not _is_registered(name) or _is_registered(f"{_NAMESPACE}.{name}")
        }

        def plugin(selector: str) -> str | None:
            for namespace in namespaces:
                if selector.startswith(namespace + "."):
                    return selector[len(namespace) + 1 :].split(".")[0]
            return selector if selector in bare else None

        return plugin

    def segments(self) -> Iterator[tuple[str, _Source | None]]:
        """Splits the text at its includes, and yields each part with the file included after it.

        gin itself gets no include statement: it would search its own folders, and log its own
        messages. Each part repeats all imports before it. Every other line before it is blank, so
        that gin's messages have the line numbers of the file.
        """
        starts = sorted({statement.location.line_num for statement in self.contents})
        lines = self.text.splitlines(keepends=True)
        ends = dict(itertools.pairwise([*starts, len(lines) + 1]))
        imports = {
            line
            for statement in self.contents
            if isinstance(statement, config_parser.ImportStatement)
            for line in range(statement.location.line_num, ends[statement.location.line_num])
        }
        begin = 1
        for include in [*sorted(self.included), len(lines) + 1]:
            yield (
                "".join(
                    text if line >= begin or line in imports else "\n"
                    for line, text in enumerate(lines[: include - 1], start=1)
                ),
                self.included.get(include),
            )
            begin = ends.get(include, include)


class _Statement(NamedTuple):
    """One statement from gin's parser, and the source that holds it."""

    source: _Source
    content: Any

    @property
    def where(self) -> str:
        """Its place, for the beginning of a message."""
        return self.source.where(self.content.location.line_num)

    @property
    def macro(self) -> str | None:
        """The macro that it gives a value; None if it is another statement."""
        content = self.content
        if not isinstance(content, config_parser.BindingStatement) or content.arg_name:
            return None
        return f"{content.scope}/{content.selector}" if content.scope else content.selector

    @property
    def value(self) -> Any:
        """The value that it binds; None if it binds none."""
        return getattr(self.content, "value", None)

    def selectors(self) -> Iterator[str]:
        """Yields the configurables that it names."""
        if isinstance(self.content, config_parser.BlockDeclaration):
            yield self.content.selector
        elif isinstance(self.content, config_parser.BindingStatement):
            if self.content.arg_name:
                yield self.content.selector
            for part in _parts(self.value):
                if isinstance(part, _Reference):
                    yield part.selector


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads the gin files of one run, and those that they include.

    Attributes:
      engine: The engine of the run.
      packaged: The folders of all distributions.
      folders: The folders of this run, see `search_paths`.
    """

    engine: str
    packaged: tuple[Folder, ...]
    folders: tuple[Folder, ...]

    def read(self, path: Path, chain: tuple[Path, ...] = (), is_given: bool = True) -> _Source:
        """Reads a file.

        Args:
          path: The file.
          chain: The files that include it.
          is_given: False if a packaged file includes it.
        """
        if path in chain:
            raise InputError(f"gin file {chain[-1]} includes {path}, which includes it in turn")
        real = path.resolve()  # One file may have several paths.
        owner = next((f for f in self.packaged if real.is_relative_to(f.path.resolve())), None)
        if owner is not None and owner.engine not in (SHARED, self.engine):
            raise InputError(
                f"gin file {path} belongs to the engine {owner.engine} ({owner.distribution}), and "
                f"this is --engine {self.engine}; use --engine {owner.engine}, or write the file's "
                f"path within its folder of gin files to get the file of --engine {self.engine}"
            )
        try:
            # utf-8-sig: some editors begin a file with a byte order mark, which is no part of a
            # name.
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"gin file {path} cannot be read: {one_line(error)}") from error
        if text.startswith("version https://git-lfs.github.com/spec/"):
            raise InputError(
                f"gin file {path}: a Git LFS pointer, not the file that it stands for; run "
                "git lfs pull in the repository that it is from"
            )
        source = _Source(str(path), text, is_file=True, is_given=is_given and owner is None)
        for content in source.contents:
            if isinstance(content, config_parser.IncludeStatement):
                line = content.location.line_num
                with _at(source.where(line)):
                    included = find(content.filename, self.folders)
                source.included[line] = self.read(included, (*chain, path), source.is_given)
        return source


def _statements(sources: Iterable[_Source]) -> list[_Statement]:
    return [statement for source in sources for statement in source.walk()]


def _is_registered(selector: str) -> bool:
    try:
        gin.get_configurable(selector)
    except (ValueError, KeyError):
        return False
    return True


def _load_plugins(
    statements: Sequence[_Statement], hooks_flag: Sequence[str]
) -> tuple[tuple[str, ...], list[registry.Plugin]]:
    """Loads the plugins that statements name; an error names the file and line."""
    plugins: dict[str, registry.Plugin] = {}
    installed = registry.process_registry()
    hooks: list[tuple[str, str]] = []
    for statement in statements:
        for name in map(statement.source.plugin_in, statement.selectors()):
            if name is not None and name not in plugins:
                with _at(statement.where):
                    installed.load_in_gin(name)
                    plugins[name] = installed.find_in_gin(name)
        if statement.macro == "HOOKS":
            hooks = [(name, statement.where) for name in _hook_names(statement)]
    hooks += [(name, "--hooks") for name in hooks_flag]
    for name, where in hooks:
        # Load hooks before gin parses and locks, so that files can set their parameters.
        with _at(where):
            installed.load("hooks", name)
            plugins[name] = installed.find("hooks", name)
    return tuple(dict.fromkeys(name for name, _ in hooks)), list(plugins.values())


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Puts a place in front of the message of an `InputError` or `PluginError`."""
    try:
        yield
    except (InputError, PluginError) as error:
        raise type(error)(f"{where}: {error}") from error


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    else:
        yield value


def _refuse_forgotten_prompt(statements: Iterable[_Statement]) -> None:
    """Refuses a PROMPT before a models file: that file sets PROMPT to None."""
    named = None
    for statement in statements:
        if statement.macro == "PROMPT":
            if named is not None and statement.value is None:
                raise InputError(
                    f"{named} sets PROMPT, and {statement.where}, which comes after it, sets it to "
                    "None; name the model's file before it"
                )
            named = None if statement.value is None else statement.where


def _macros(statements: Sequence[_Statement]) -> Macros:
    """Returns the macros of a run, each with its last value."""
    last = {s.macro: s for s in statements if s.macro is not None}
    given = {s.macro: s for s in statements if s.macro is not None and s.source.is_given}
    known, own = (
        {name: s.value for name, s in found.items() if s.value != _Macro("gin.REQUIRED")}
        for found in (last, given)
    )
    return Macros(known, own, frozenset(_used(statements)))


def _used(statements: Iterable[_Statement]) -> set[str]:
    """Returns the macros that a value refers to."""
    parts = (part for statement in statements for part in _parts(statement.value))
    return {part.name for part in parts if isinstance(part, _Macro)}


def _check_macros(statements: Iterable[_Statement], check: CheckMacro) -> None:
    """Checks the last value of each macro; puts the macro's place in front of an error."""
    last = {s.macro: s for s in statements if s.macro is not None}
    for name, statement in last.items():
        # gin evaluates a reference or another macro only when it is used.
        if not any(isinstance(part, (_Macro, _Reference)) for part in _parts(statement.value)):
            with _at(statement.where):
                check(name, statement.value)


def _refuse_unused_macros(bindings: Iterable[_Statement], used: set[str]) -> None:
    """Refuses a macro of the command line that no file uses: it would have no effect."""
    for binding in bindings:
        if binding.macro is not None and binding.macro not in used:
            raise InputError(
                f"{binding.where}: none of the gin files uses %{binding.macro}"
                f"{nearest(binding.macro, used)}"
            )


def _refuse_unused_initializers(statements: Sequence[_Statement]) -> None:
    """Refuses a user's value for a parameter of an initializer that no binding uses."""
    references = (
        statement.source.plugin_in(part.selector)
        for statement in statements
        for part in _parts(statement.value)
        if isinstance(part, _Reference)
    )
    plugins = registry.process_registry().discover()
    unused = {p.name for p in plugins if p.kind == "initializer"} - set(references)
    for statement in statements:
        if statement.source.is_given and getattr(statement.content, "arg_name", None):
            plugin = statement.source.plugin_in(statement.content.selector)
            if plugin in unused:
                raise InputError(f"{statement.where}: no binding of this run uses @{plugin}()")


def _refuse_circles(statements: Iterable[_Statement]) -> None:
    """Refuses a macro whose value leads back to it."""
    last = {s.macro: s for s in statements if s.macro is not None}
    for name, statement in last.items():
        reached: set[str] = set()
        new = _used([statement])
        while new - reached:
            reached |= new
            new = _used(last[macro] for macro in new if macro in last)
        if name in reached:
            raise InputError(f"{statement.where}: the value of %{name} leads back to %{name}")


def _refuse_blocked_imports(statements: Iterable[_Statement]) -> None:
    """Refuses an import of gin that would run the code of a blocked distribution."""
    by_package: dict[str, registry.Plugin] = {}
    for plugin in registry.process_registry().discover():
        package = re.split("[.:]", plugin.value)[0]
        if by_package.get(package, plugin).status == "blocked":  # A usable plugin decides.
            by_package[package] = plugin
    for statement in statements:
        if isinstance(statement.content, config_parser.ImportStatement):
            found = by_package.get(statement.content.module.partition(".")[0])
            if found is not None and found.status == "blocked":
                raise PluginBlockedError(
                    f"{statement.where}: this import would run {found}: {found.detail}"
                )


def _hook_names(statement: _Statement) -> Sequence[str]:
    value = statement.value
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, (_Macro, _Reference)):
        return ()  # Known only when gin has evaluated it; the engine loads it then.
    raise InputError(
        f"{statement.where}: HOOKS is {value!r}, and should be a list: HOOKS = ['name', …]"
    )


def _register(names: Iterator[str]) -> None:
    """Registers plugins with gin, as a file with dynamic registration does.

    A plugin then has one selector, which both `init_mine` and `plugins.init_mine` match, and an
    operative config can import the plugin. `gin.external_configurable` would not give it these.
    """
    gin.clear_config()  # It may be locked.
    for name in names:
        if not _is_registered(f"{_NAMESPACE}.{name}"):
            snippet = (
                "from __gin__ import dynamic_registration\n"
                "from prompt_tuning_core import plugins\n"
                f"_ = @plugins.{name}\n"
            )
            try:
                gin.parse_config(snippet)
            except Exception as error:  # gin wraps the error of a signature that it cannot read.
                plugin = registry.process_registry().find_in_gin(name)
                raise InputError(
                    f"{plugin} cannot be registered with gin: {_first_part(error)}"
                ) from error


def _parse_source(source: _Source) -> None:
    for text, included in source.segments():
        try:
            gin.parse_config(_NamedText(text, source.label))
        except Exception as error:  # An imported module may raise anything.
            raise _as_input_error(error, source) from error
        if included is not None:
            _parse_source(included)


def _first_part(error: BaseException) -> str:
    """Returns a message of gin on one line, without the place that gin appends."""
    return " ".join(str(error).split("\n  In ")[0].split())


def _as_input_error(error: Exception, source: _Source) -> InputError:
    """Converts an error of gin about `source` to an error of one line."""
    if isinstance(error, SyntaxError):
        line: int | None = error.lineno
        message = str(error.msg)
        token = re.search(r"Failed to parse token '(.*)'", message)
        if token:
            message = (
                f"{token[1]} is no value; write text in quotes (in a shell in two pairs, "
                "\"'text'\"), a macro as %NAME, a plugin as @plugins.NAME"
            )
        elif error.text and error.text.strip():
            message = f"{message.rstrip('.')} in {error.text.strip()!r}"
    else:
        place = re.search(r'\n  In (?:file "[^"]*",|bindings string) line (\d+)\n', str(error))
        line = int(place[1]) if place else None
        message = _explain_parsing(error)
        if isinstance(error, ModuleNotFoundError):
            message += _replacement(source, line)
    return InputError(f"{source.where(line)}: {' '.join(message.split())}")


def _replacement(source: _Source, line: int | None) -> str:
    """Returns advice about the module that a line imports, if this project has replaced it."""
    folders = [folder.path for folder in packaged_folders()]
    for content in source.contents:
        if isinstance(content, config_parser.ImportStatement) and content.location.line_num == line:
            found = replaced_modules.advice(content.module, folders)
            return f"; {content.module} has been replaced: {found}" if found else ""
    return ""


def _explain_parsing(error: Exception) -> str:
    text = _first_part(error)
    installed = registry.process_registry()
    match = re.fullmatch(r"No configurable matching (?:reference )?'@?(.*?)(?:\(\))?'\.", text)
    if match:
        module, _, name = match[1].rpartition(".")
        hint = nearest(name, installed.names_in_gin())
        if module not in ("", "plugins"):
            hint = f"; import {module} in a gin file: a binding cannot import it"
        return f"{match[1]!r} is neither a plugin nor registered with gin{hint}"
    match = re.fullmatch(r"Configurable '(.*)' doesn't have a parameter named '(.*)'\.", text)
    if match:
        return f"{match[1]!r} has no parameter {match[2]!r}{_nearest_parameter(*match.groups())}"
    match = re.fullmatch(r"'(.*)' was not provided by an import statement\.", text)
    if match and match[1] in installed.names_in_gin():
        return (
            f"{match[1]!r} was not imported; in a file with dynamic_registration write "
            f"plugins.{match[1]}, after 'from prompt_tuning_core import plugins'"
        )
    if isinstance(error, (ValueError, NameError, AttributeError)):
        return text
    return f"{type(error).__name__}: {text}"


def _nearest_parameter(selector: str, parameter: str) -> str:
    installed = registry.process_registry()
    try:
        # Only the file that imports it knows a name such as `p.init_mine`.
        known = _is_registered(selector)
        found = gin.get_configurable if known else installed.load_in_gin
        configurable = found(selector if known else selector.rpartition(".")[2])
        # gin wraps a class in a metaclass with a useless signature.
        is_class = isinstance(configurable, type)
        function = configurable.__init__ if is_class else configurable
        names = set(inspect.signature(function).parameters) - {"self"}
    except (ValueError, TypeError, PluginError):
        return ""
    return nearest(parameter, names)


def _refuse_unfinished(error: ValueError, statements: Sequence[_Statement]) -> NoReturn:
    """Describes gin's error about the whole configuration, such as a macro without a value."""
    match = re.match(r"No bindings specified for '(.*)/gin\.macro'", str(error))
    if match:
        names = {statement.macro for statement in statements if statement.macro is not None}
        unused = names - _used(statements)
        for statement in statements:
            if _Macro(match[1]) in _parts(statement.value):
                # A packaged file names the macro rightly: a name that nothing uses may be meant.
                hint = close(match[1], names if statement.source.is_given else unused)
                raise InputError(f"{statement.where}: macro {_no_value(match[1])}{hint}") from error
    match = re.match(r"(.*)/macro\.value set to `%gin\.REQUIRED`", str(error))
    if match:
        raise InputError(f"macro {_no_value(match[1])}") from error
    raise InputError(f"gin: {_first_part(error)}") from error


def _no_value(macro: str) -> str:
    return f"%{macro} has no value; write {macro} = … in a gin file or --gin.{macro}=…"
