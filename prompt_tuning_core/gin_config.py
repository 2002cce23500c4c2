"""Reads gin files and bindings for our commands, and finds the files.

gin itself parses. This module does three more things. It finds files in the folders that
distributions carry. It registers the plugins that files and bindings name, so that `@init_mine()`
and `--gin.plugins.init_mine.scale=5` work without an import. And it turns gin's messages into one
line with file and line number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import io
import itertools
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gin
from gin import config_parser

from prompt_tuning_core import registry
from prompt_tuning_core.errors import (
    InputError,
    PluginError,
    PluginLoadError,
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
      files: The files of `--gin_file`, as found.
      plugins: The plugins that files and bindings name, hooks included.
      hooks: The hooks plugins to run: gin's `HOOKS`, then `--hooks`, each once.
      notes: Messages of `fill` for the user, one line each.
    """

    files: tuple[Path, ...]
    plugins: tuple[registry.Plugin, ...]
    hooks: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Macros(NamedTuple):
    """The macros of a run, before gin parses them.

    Attributes:
      known: The value of each macro that has one; references and other macros are no plain values.
      given: Those of `known` that the user bound, on the command line or in their own files.
      used: The macros that a value refers to.
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
"""Takes a macro and its value; raises `InputError` if the macro may not have it."""


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


def search_paths(engine: str, users: Sequence[str] = ()) -> tuple[Folder, ...]:
    """Returns the folders to search for gin files, in order.

    Args:
      engine: The engine of the run.
      users: The user's folders (`--gin_search_paths`).

    Returns:
      The user's folders, the current directory, the packaged files of the engine, and those that
      any engine may read.
    """
    packaged = packaged_folders()
    tiers = [[f for f in packaged if f.engine == name] for name in (engine, SHARED)]
    own = [Folder(Path(folder)) for folder in dict.fromkeys([*users, "."])]
    return (*own, *tiers[0], *tiers[1])


def find(name: str, folders: Sequence[Folder]) -> Path:
    """Finds a gin file.

    Args:
      name: A path. A relative path is searched in each folder in turn, and then, as
        `package/folder/x.gin`, in an installed package.
      folders: See `search_paths`. A user's file hides an engine's, and that a shared one.

    Raises:
      InputError: If there is no such file, if it belongs to another engine, or if several
        distributions carry one for the same engine.
    """
    if Path(name).is_absolute():
        candidates = [Folder(Path(name))]
    else:
        candidates = [folder._replace(path=folder.path / name) for folder in folders]
        folder, _, file = name.rpartition("/")
        with contextlib.suppress(InputError):  # It may be no package: the error below is enough.
            candidates.append(Folder(find_module(folder.replace("/", ".")) / file))
    found = [candidate for candidate in candidates if candidate.path.is_file()]
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
    """Names the engine that has a missing file, or else the folders that were searched."""
    others = [f for f in packaged_folders() if (f.path / name).is_file()]
    if others:
        return f"it is the engine {others[0].engine}'s ({others[0].distribution})"
    tried = ", ".join(str(candidate.path.absolute()) for candidate in candidates)
    return f"tried {tried}"


def parse(
    flags: RunFlags,
    engine: str,
    fill: FillMacros | None = None,
    check: CheckMacro | None = None,
) -> ParsedConfig:
    """Replaces gin's configuration by that of files and bindings, and locks it.

    Args:
      flags: The files, the bindings, which override the files, and the search paths.
      engine: The engine's name; packaged files of another engine are an error.
      fill: Called with the macros before gin parses; gives values to missing ones.
      check: Called with each macro and its last value, if that is a plain one.

    Raises:
      InputError: For a file that is not found, and for a file that gin refuses.
      PluginError: For a plugin, named by a file or binding, that cannot be used.
    """
    folders = search_paths(engine, flags.gin_search_paths)
    files = tuple(find(name, folders) for name in flags.gin_files)
    sources = [_Source.read(path, folders, ()) for path in files]
    _refuse_files_of_others(sources, engine)
    _refuse_forgotten_prompt(sources)
    bindings = [_Source.of_binding(binding) for binding in flags.gin_bindings]
    sources += bindings

    notes: list[str] = []
    if fill is not None:
        filled, notes = _filled(sources, fill)
        sources += filled
    hooks, plugins = _load_plugins(sources, flags.hooks)
    _refuse_unused_macros(bindings, sources)
    if check is not None:
        _check_macros(sources, check)
    _register(plugin.name for plugin in plugins if KINDS[plugin.kind].in_gin)
    gin.clear_config()
    for source in sources:
        _parse_source(source)
    try:
        gin.finalize()
    except ValueError as error:
        _refuse_unfinished(error, sources)
    return ParsedConfig(files, tuple(plugins), hooks, tuple(notes))


def operative_config() -> str:
    """Returns the parameters in use so far, as a gin file that `parse` reads back.

    The text of a run repeated from that file, in a new process, is the same.
    """
    return gin.operative_config_str()


def explain(error: BaseException) -> str | None:
    """Describes in one line an error of gin, or of a plugin that gin called.

    Returns:
      The line; `None` if the exception is no error about the configuration.
    """
    text = str(error)
    if isinstance(error, RuntimeError):
        match = re.match(r"Required bindings for `(.*?)` not provided in config: (\[.*?\])", text)
        if match:
            return _missing(match[1], match[2])
    if isinstance(error, TypeError):
        match = re.search(
            r"No values supplied by Gin or caller for arguments: (\[.*?\])"
            r".*?In call to configurable '(.*?)'",
            text,
            re.DOTALL,
        )
        if match:
            return _missing(match[2], match[1])
    if isinstance(error, ValueError):
        # What a plugin that does not import the core raises: gin tells which it called.
        match = re.search(r"\n  In call to configurable '([\w.]*?)'", text)
        name = match[1].rpartition(".")[2] if match else ""
        for plugin in registry.process_registry().loaded():
            if plugin.name == name and KINDS[plugin.kind].in_gin:
                return f"{plugin}: {_first_part(error)}"
    return None


def _missing(configurable: str, names: str) -> str:
    parameters = re.findall(r"'(.*?)'", names)
    return (
        f"gin gives {configurable} no value for {', '.join(parameters)}; write "
        f"{configurable}.{parameters[0]} = … in a gin file or --gin.{configurable}."
        f"{parameters[0]}=…"
    )


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
      is_file: True for a file: messages then name the line.
      statements: The statements that gin's parser finds.
      included: The included files, by the line of the statement.
    """

    label: str
    text: str
    is_file: bool
    statements: list[Any] = dataclasses.field(default_factory=list)
    included: dict[int, _Source] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_binding(cls, binding: str) -> _Source:
        name, _, value = binding.partition("=")
        source = cls(f"--gin.{name.strip()}={value.strip()}", binding, is_file=False)
        source._scan()
        return source

    @classmethod
    def read(cls, path: Path, folders: Sequence[Folder], chain: tuple[Path, ...]) -> _Source:
        """Reads a file and the files that it includes; `chain` are the files that include it."""
        if path in chain:
            raise InputError(f"gin file {chain[-1]} includes {path}, which includes it in turn")
        try:
            # utf-8-sig: a byte order mark of some editors is no part of a name.
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"gin file {path} cannot be read: {one_line(error)}") from error
        if text.startswith("version https://git-lfs.github.com/spec/"):
            raise InputError(
                f"gin file {path}: a Git LFS pointer, not the file that it stands for; run "
                "git lfs pull in the repository that it is from"
            )
        source = cls(str(path), text, is_file=True)
        source._scan()
        for statement in source.statements:
            if isinstance(statement, config_parser.IncludeStatement):
                line = statement.location.line_num
                try:
                    included = find(statement.filename, folders)
                except InputError as error:
                    raise InputError(f"{source.where(line)}: {error}") from error
                source.included[line] = cls.read(included, folders, (*chain, path))
        return source

    def where(self, line: int | None) -> str:
        """Returns the place of a line, for the beginning of a message."""
        return f"{self.label}:{line}" if self.is_file and line else self.label

    def _scan(self) -> None:
        try:
            parser = config_parser.ConfigParser(_NamedText(self.text, self.label), _Recorder())
            self.statements = list(parser)
        except tokenize.TokenError as error:
            message, (line, _) = error.args
            raise InputError(f"{self.where(line)}: {message}") from error
        except (SyntaxError, ValueError) as error:
            raise _as_input_error(error, self) from error

    def walk(self) -> Iterator[tuple[_Source, Any]]:
        """Yields the statements in the order in which they take effect, with their sources."""
        for statement in self.statements:
            yield self, statement
            if isinstance(statement, config_parser.IncludeStatement):
                yield from self.included[statement.location.line_num].walk()

    def given(self) -> Iterator[Any]:
        """Yields the user's own statements: not those of packaged files and their includes."""
        if self.is_file and _owner(self.label) is not None:
            return
        for statement in self.statements:
            yield statement
            if isinstance(statement, config_parser.IncludeStatement):
                yield from self.included[statement.location.line_num].given()

    def files(self) -> Iterator[str]:
        """Yields the file and those that it includes."""
        if self.is_file:
            yield self.label
        for included in self.included.values():
            yield from included.files()

    def plugin_in(self) -> Callable[[str], str | None]:
        """Returns a function from a selector of this source to the plugin it names, or None."""
        dynamic = False
        namespaces = {"plugins", _NAMESPACE}
        for statement in self.statements:
            if not isinstance(statement, config_parser.ImportStatement):
                continue
            if statement.module == "__gin__.dynamic_registration":
                # From here on, only imported names count.
                dynamic, namespaces = True, set()
            elif dynamic and statement.module == _NAMESPACE:
                direct = statement.is_from or statement.alias
                namespaces.add(statement.bound_name() if direct else _NAMESPACE)
        bare = set() if dynamic else _bare_names()

        def plugin(selector: str) -> str | None:
            for namespace in namespaces:
                if selector.startswith(namespace + "."):
                    return selector[len(namespace) + 1 :].split(".")[0]
            return selector if selector in bare else None

        return plugin

    def segments(self) -> Iterator[tuple[str, _Source | None]]:
        """Splits the text at its includes, and yields each part with the file included after it.

        For example, the file

            import my_module        # line 1
            a.x = 1                 # line 2
            include 'b.gin'         # line 3
            c.y = @my_module.f      # line 4

        gives (lines 1 and 2, the source of b.gin) and (line 1, two blank lines and line 4, None).
        The second part repeats the import, which line 4 needs, and blank lines stand for lines 2
        and 3, so that gin counts line 4 as line 4. gin gets no include: it would search its own
        folders, and log its own messages.
        """
        starts = sorted({statement.location.line_num for statement in self.statements})
        lines = self.text.splitlines(keepends=True)
        ends = dict(itertools.pairwise([*starts, len(lines) + 1]))
        imports = {
            line
            for statement in self.statements
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


def _bare_names() -> set[str]:
    """Returns the plugins that static files may name without `plugins.`.

    These are all plugins in gin, except those whose name gin already knows for another object, such
    as a configurable of an engine.
    """
    return {
        name
        for name in registry.process_registry().names_in_gin()
        if not _is_registered(name) or _is_registered(f"{_NAMESPACE}.{name}")
    }


def _is_registered(selector: str) -> bool:
    try:
        gin.get_configurable(selector)
    except (ValueError, KeyError):
        return False
    return True


def _load_plugins(
    sources: Sequence[_Source], hooks_flag: Sequence[str]
) -> tuple[tuple[str, ...], list[registry.Plugin]]:
    """Loads the plugins that sources name; an error names file and line."""
    plugins: dict[str, registry.Plugin] = {}
    installed = registry.process_registry()
    hooks: list[tuple[str, str]] = []
    for source in sources:
        plugin_in: dict[int, Callable[[str], str | None]] = {}
        for origin, statement in source.walk():
            plugin_in.setdefault(id(origin), origin.plugin_in())
            where = origin.where(statement.location.line_num)
            for selector in _selectors(statement):
                name = plugin_in[id(origin)](selector)
                if name is None or name in plugins:
                    continue
                with _at(where):
                    installed.load_in_gin(name)
                    plugins[name] = installed.find_in_gin(name)
            if _macro_name(statement) == "HOOKS":
                hooks = [(name, where) for name in _hook_names(statement.value, where)]
    hooks += [(name, "--hooks") for name in hooks_flag]
    for name, where in hooks:
        # Load hooks before gin parses and locks, so that files can set their parameters.
        with _at(where):
            installed.load("hooks", name)
            plugins[name] = installed.find("hooks", name)
    return tuple(dict.fromkeys(name for name, _ in hooks)), list(plugins.values())


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Puts a place before the message of a plugin's error."""
    try:
        yield
    except PluginError as error:
        raise type(error)(f"{where}: {error}") from error


def _selectors(statement: Any) -> Iterator[str]:
    """Yields the configurables that a statement names."""
    if isinstance(statement, config_parser.BlockDeclaration):
        yield statement.selector
    elif isinstance(statement, config_parser.BindingStatement):
        if statement.arg_name:
            yield statement.selector
        for part in _parts(statement.value):
            if isinstance(part, _Reference):
                yield part.selector


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


def _macro_name(statement: Any) -> str | None:
    """Returns the macro that a statement sets, or None."""
    if not isinstance(statement, config_parser.BindingStatement) or statement.arg_name:
        return None
    return f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector


def _owner(file: str) -> Folder | None:
    """Returns the packaged folder that contains a gin file, for any path to the file."""
    path = Path(file).resolve()
    folders = (f for f in packaged_folders() if path.is_relative_to(f.path.resolve()))
    return next(folders, None)


def _refuse_files_of_others(sources: Sequence[_Source], engine: str) -> None:
    """Refuses a packaged file of another engine."""
    for file in (file for source in sources for file in source.files()):
        owner = _owner(file)
        if owner is not None and owner.engine not in (SHARED, engine):
            raise InputError(
                f"gin file {file} is the engine {owner.engine}'s ({owner.distribution}), and this "
                f"is --engine {engine}; name it by its path within that folder for the file of "
                f"--engine {engine}, or use --engine {owner.engine}"
            )


def _refuse_forgotten_prompt(sources: Sequence[_Source]) -> None:
    """Refuses a PROMPT before a models file: that file sets PROMPT to None."""
    named = None
    for source in sources:
        for origin, statement in source.walk():
            if _macro_name(statement) == "PROMPT":
                where = origin.where(statement.location.line_num)
                if named is not None and statement.value is None:
                    raise InputError(
                        f"{named} sets PROMPT, and {where}, which comes after it, sets it to None; "
                        "name the model's file before it"
                    )
                named = None if statement.value is None else where


def _filled(sources: Sequence[_Source], fill: FillMacros) -> tuple[list[_Source], list[str]]:
    """Returns the bindings of `fill` as sources, and its messages for the user."""
    filled = fill(
        Macros(
            known=_macros(statement for source in sources for _, statement in source.walk()),
            given=_macros(statement for source in sources for statement in source.given()),
            used=frozenset(_used(sources)),
        )
    )
    bindings = [f"{name} = {value!r}" for name, value in filled.values.items()]
    found = [_Source(filled.origin, binding, is_file=False) for binding in bindings]
    for source in found:
        source._scan()
    return found, list(filled.notes)


def _check_macros(sources: Sequence[_Source], check: CheckMacro) -> None:
    """Checks the last value of each macro; an error of `check` gets the place in front."""
    last = {
        name: (origin.where(statement.location.line_num), statement.value)
        for source in sources
        for origin, statement in source.walk()
        if (name := _macro_name(statement)) is not None
    }
    for name, (where, value) in last.items():
        # A reference or another macro: gin knows the value only at its use.
        if not any(isinstance(part, (_Macro, _Reference)) for part in _parts(value)):
            try:
                check(name, value)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error


def _macros(statements: Iterable[Any]) -> dict[str, Any]:
    """Returns the last value of each macro that has one."""
    values = {
        name: statement.value
        for statement in statements
        if (name := _macro_name(statement)) is not None
    }
    return {name: value for name, value in values.items() if value != _Macro("gin.REQUIRED")}


def _used(sources: Sequence[_Source]) -> set[str]:
    """Returns the macros that a value refers to."""
    return {
        part.name
        for source in sources
        for _, statement in source.walk()
        for part in _parts(getattr(statement, "value", None))
        if isinstance(part, _Macro)
    }


def _refuse_unused_macros(bindings: Sequence[_Source], sources: Sequence[_Source]) -> None:
    """Refuses a macro of the command line that no file uses: it would have no effect."""
    used = {"HOOKS"} | _used(sources)
    for binding in bindings:
        for _, statement in binding.walk():
            name = _macro_name(statement)
            if name is not None and name not in used:
                raise InputError(
                    f"{binding.label}: none of the gin files uses %{name}{nearest(name, used)}"
                )


def _hook_names(value: object, where: str) -> Sequence[str]:
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, (_Macro, _Reference)):
        return ()  # gin evaluates it later, and the engine loads the plugins then.
    raise InputError(f"{where}: HOOKS is {value!r}, and should be a list: HOOKS = ['name', …]")


def _register(names: Iterator[str]) -> None:
    """Registers plugins with gin, in the way of a file with dynamic registration.

    A plugin then has one selector: `init_mine` and `plugins.init_mine` both match it, and an
    operative config can import it. An external configurable would not have that.
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
                f"{token[1]} is no value; write text in quotes, a macro as %NAME, a configurable "
                "as @name"
            )
        elif error.text and error.text.strip():
            message = f"{message.rstrip('.')} in {error.text.strip()!r}"
    else:
        place = re.search(r'\n  In (?:file "[^"]*",|bindings string) line (\d+)\n', str(error))
        line = int(place[1]) if place else None
        message = _explain_parsing(error)
    return InputError(f"{source.where(line)}: {' '.join(message.split())}")


def _explain_parsing(error: Exception) -> str:
    text = _first_part(error)
    installed = registry.process_registry()
    match = re.fullmatch(r"No configurable matching (?:reference )?'@?(.*?)(?:\(\))?'\.", text)
    if match:
        known = installed.names_in_gin()
        return (
            f"{match[1]!r} is no plugin, and nothing registered with gin"
            f"{nearest(match[1].rpartition('.')[2], known)}"
        )
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
    try:
        configurable = gin.get_configurable(selector)
    except (ValueError, KeyError):
        # Only the file that imports it knows this name, such as `p.init_mine`.
        try:
            configurable = registry.process_registry().load_in_gin(selector.rpartition(".")[2])
        except PluginError:
            return ""
    # gin wraps a class in a metaclass with a useless signature.
    function = (
        configurable.__init__  # type: ignore[misc]  # Only its signature is read.
        if isinstance(configurable, type)
        else configurable
    )
    try:
        names = set(inspect.signature(function).parameters) - {"self"}
    except (ValueError, TypeError):
        return ""
    return nearest(parameter, names)


def _refuse_unfinished(error: ValueError, sources: Sequence[_Source]) -> NoReturn:
    """Raises an error of gin about the whole configuration, with its place."""
    match = re.match(r"No bindings specified for '(.*)/gin\.macro'", str(error))
    if match:
        statements = [pair for source in sources for pair in source.walk()]
        names = {name for _, statement in statements if (name := _macro_name(statement))}
        for source, statement in statements:
            if _Macro(match[1]) in _parts(getattr(statement, "value", None)):
                raise InputError(
                    f"{source.where(statement.location.line_num)}: macro %{match[1]} has no value; "
                    f"write {match[1]} = … in a gin file or --gin.{match[1]}=…"
                    f"{nearest(match[1], names)}"
                ) from error
    match = re.match(r"(.*)/macro\.value set to `%gin\.REQUIRED`", str(error))
    if match:
        raise InputError(
            f"macro %{match[1]} has no value; write {match[1]} = … in a gin file or "
            f"--gin.{match[1]}=…"
        ) from error
    raise InputError(f"gin: {_first_part(error)}") from error
