"""Finds installed plugins by their metadata, and loads those that are named.

Listing (`discover`) reads entry points through `importlib_metadata` and imports no plugin. Loading
(`load`) imports one, after comparing what it requires of the core, and checks that it is what its
kind promises. Nothing is preferred: two distributions that claim one name are a conflict, which
the person settles by blocking one.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from prompt_tuning_core import __version__
from prompt_tuning_core.errors import (
    InputError,
    PluginBlockedError,
    PluginConflictError,
    PluginLoadError,
    UnknownPluginError,
    nearest,
    one_line,
)

if TYPE_CHECKING:
    import importlib_metadata
    import pluggy

CORE_DISTRIBUTION = "prompt-tuning-core"
ALLOW_VARIABLE = "PROMPT_TUNING_ALLOW_PLUGINS"
BLOCK_VARIABLE = "PROMPT_TUNING_BLOCK_PLUGINS"


class Kind(NamedTuple):
    """A kind of plugin. `KINDS` holds those there are; a new kind is a new entry there.

    Attributes:
      name: What people call it, and `Plugin.kind`.
      group: The entry-point group that declares it.
      reference: How a plugin is named where it is used; `{name}` stands for its name.
      complaint: Says what a loaded object lacks to be of this kind, in words that follow "the
        plugin"; `None` if it lacks nothing.
      in_gin: Whether `prompt_tuning_core.plugins` offers it to gin files.
    """

    name: str
    group: str
    reference: str
    complaint: Callable[[object], str | None]
    in_gin: bool


def _not_callable(loaded: object) -> str | None:
    if callable(loaded):
        return None
    return f"names a value of type {type(loaded).__name__}, which cannot be called"


def _no_engine(loaded: object) -> str | None:
    if not isinstance(loaded, type):
        return f"names a value of type {type(loaded).__name__}, and an engine is a class"
    missing = [m for m in ("train", "eval", "infer") if not callable(getattr(loaded, m, None))]
    return f"names an engine class without {', '.join(missing)}" if missing else None


def _no_hooks(loaded: object) -> str | None:
    # pluggy would call a class's functions without an instance. It checks the hooks themselves.
    if isinstance(loaded, type):
        return "names a class, and hooks are a module or an instance"
    return None


def _no_format(loaded: object) -> str | None:
    if not isinstance(loaded, type):
        return f"names a value of type {type(loaded).__name__}, and a format is a class"
    whole = (
        ("recognizes_model", "open_model"),
        ("recognizes_prompt", "read_prompt"),
    )
    missing = [[m for m in methods if not hasattr(loaded, m)] for methods in whole]
    if all(missing):
        least = min(missing, key=len)
        return f"names a format class that reads neither models nor prompts: no {', '.join(least)}"
    return None


def _no_package(loaded: object) -> str | None:
    if hasattr(loaded, "__path__"):
        return None
    return f"names a value of type {type(loaded).__name__}, and pretrained prompts are in a package"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("initializer", "prompt_tuning.initializers", "@plugins.{name}()", _not_callable, True),
        Kind("prompt", "prompt_tuning.prompts", "@plugins.{name}", _not_callable, True),
        Kind("engine", "prompt_tuning.engines", "--engine {name}", _no_engine, False),
        Kind("hooks", "prompt_tuning.hooks", "HOOKS = ['{name}']", _no_hooks, False),
        Kind("format", "prompt_tuning.formats", "by a file's content", _no_format, False),
        Kind(
            "pretrained",
            "prompt_tuning.pretrained_prompts",
            "PROMPT_FILE = 'MODEL/TASK'",
            _no_package,
            False,
        ),
    )
}


class Plugin(NamedTuple):
    """One entry point, as its metadata describes it.

    Attributes:
      kind: A key of `KINDS`; `""` if the entry points of a distribution cannot be read.
      name: The registered name.
      value: What the entry point names, `module:attribute`.
      distribution: The distribution that carries it, and `version`, its version.
      version: See `distribution`.
      status: `"ok"`, `"conflict"`, `"blocked"`, `"broken"`, or, after `check`, `"incompatible"`.
      description: The distribution's summary.
      detail: Why the status is not ok; `""` if it is.
      gin: How to name the plugin where it is used.
      requirements: The distribution's `Requires-Dist` fields.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    status: str
    description: str
    detail: str
    gin: str
    requirements: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} plugin {self.name!r} of {self.distribution} {self.version}"


class Filters(NamedTuple):
    """Which plugins may be used.

    Each item is a plugin's name, a distribution's name, or `distribution:name`.

    Attributes:
      allow: If not empty, only what it names may be used.
      block: What it names may not be used.
    """

    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()

    @classmethod
    def parse(cls, allow: Iterable[str] = (), block: Iterable[str] = ()) -> Filters:
        """Splits lists joined by commas, and checks their items.

        Raises:
          InputError: If an item is none of the three forms.
        """
        return cls(tuple(_items(allow)), tuple(_items(block)))

    @classmethod
    def from_environment(cls) -> Filters:
        """Reads `PROMPT_TUNING_ALLOW_PLUGINS` and `PROMPT_TUNING_BLOCK_PLUGINS`."""
        return cls.parse([os.environ.get(ALLOW_VARIABLE, "")], [os.environ.get(BLOCK_VARIABLE, "")])

    def joined(self, other: Filters) -> Filters:
        """Returns filters with the items of both."""
        return Filters(self.allow + other.allow, self.block + other.block)

    def reason_to_block(self, name: str, distribution: str) -> str | None:
        """Returns why a plugin may not be used, or `None` if it may."""
        for item in self.block:
            if _is_named_by(name, distribution, item):
                return f"{item!r} is blocked (--block-plugin or {BLOCK_VARIABLE})"
        if self.allow and not any(_is_named_by(name, distribution, item) for item in self.allow):
            return f"not among the allowed (--allow-plugin or {ALLOW_VARIABLE})"
        return None


def _items(lists: Iterable[str]) -> Iterable[str]:
    for joined in lists:
        for item in joined.split(","):
            item = item.strip()
            if item.count(":") > 1 or (":" in item and "" in item.split(":")):
                raise InputError(
                    f"{item!r} names no plugin: write a plugin's name, a distribution's name, or "
                    "distribution:name"
                )
            if item:
                yield item


def _is_named_by(name: str, distribution: str, item: str) -> bool:
    # Imported here: most listings have no filters, and need not compile its patterns.
    from prompt_tuning_core.versions import normalize_name

    if ":" in item:
        carrier, _, wanted = item.partition(":")
        return wanted == name and normalize_name(carrier) == normalize_name(distribution)
    return item == name or normalize_name(item) == normalize_name(distribution)


class Registry:
    """The plugins installed in this environment, under given filters.

    Reads metadata at the first use and keeps it, and keeps what it has loaded.
    """

    def __init__(self, filters: Filters | None = None) -> None:
        self.filters = filters or Filters()
        self._plugins: tuple[Plugin, ...] | None = None
        self._loaded: dict[tuple[str, str], Any] = {}

    def discover(self) -> tuple[Plugin, ...]:
        """Lists the installed plugins by kind and name, those that cannot be used included."""
        if self._plugins is None:
            self._plugins = _discover(self.filters)
        return self._plugins

    def find(self, kind: str, name: str) -> Plugin:
        """Returns the one plugin of this kind and name.

        Raises:
          InputError: If there is no such kind.
          UnknownPluginError: If no distribution has it.
          PluginConflictError: If several claim the name.
          PluginBlockedError: If the filters exclude it.
          PluginLoadError: If its metadata cannot be used.
        """
        if kind not in KINDS:
            raise InputError(f"{kind!r} is no kind of plugin{nearest(kind, KINDS)}")
        return self._find(name, [kind])

    def find_in_gin(self, name: str) -> Plugin:
        """Returns the one plugin that gin files mean by `plugins.NAME`; raises as `find`."""
        return self._find(name, [kind.name for kind in KINDS.values() if kind.in_gin])

    def names_in_gin(self) -> list[str]:
        """Lists the names that gin files may use, those that end in an error included."""
        return sorted({p.name for p in self.discover() if p.kind and KINDS[p.kind].in_gin})

    def load(self, kind: str, name: str) -> Any:
        """Imports one plugin and returns what its entry point names.

        Raises:
          PluginLoadError: If it does not work with this core, fails to import, or is not what its
            kind requires. Also what `find` raises.
        """
        return self._load(self.find(kind, name))

    def load_in_gin(self, name: str) -> Any:
        """Imports the plugin that gin files mean by `plugins.NAME`; raises as `load`."""
        return self._load(self.find_in_gin(name))

    def loaded(self) -> tuple[Plugin, ...]:
        """Lists the plugins loaded so far, in the order of `discover`."""
        return tuple(p for p in self.discover() if (p.kind, p.name) in self._loaded)

    def load_hooks(self, names: Iterable[str]) -> Any:
        """Loads hooks plugins for a run.

        Args:
          names: The plugins that the run asks for; only these are called, in this order.

        Returns:
          An object with one callable per specification in `prompt_tuning_core.hookspecs`, to be
          called with keyword arguments: `hooks.step_logged(step=1, metrics={})`.

        Raises:
          PluginError: As `load`.
        """
        manager = _new_manager()
        # pluggy calls what was registered last first.
        for name in reversed(list(dict.fromkeys(names))):
            manager.register(self.load("hooks", name), name)
        return manager.hook

    def check(self, plugin: Plugin) -> Plugin:
        """Loads a listed plugin, and returns it with the status that came of it."""
        if plugin.status != "ok":
            return plugin
        complaint = _incompatibility(plugin)
        if complaint:
            return plugin._replace(status="incompatible", detail=complaint)
        try:
            self._load(plugin)
        except PluginLoadError as error:
            detail = str(error).removeprefix(f"{plugin} ")
            return plugin._replace(status="broken", detail=detail)
        return plugin

    def _find(self, name: str, kinds: Sequence[str]) -> Plugin:
        wanted = " or ".join(kinds)
        rows = [plugin for plugin in self.discover() if plugin.name == name]
        rows_of_kind = [plugin for plugin in rows if plugin.kind in kinds]
        if not rows:
            known = [plugin.name for plugin in self.discover() if plugin.kind in kinds]
            hint = nearest(name, known) or "; none is installed"
            raise UnknownPluginError(f"no {wanted} plugin named {name!r} is installed{hint}")
        if not rows_of_kind:
            raise UnknownPluginError(
                f"{rows[0]} is not of kind {wanted}: it is used as {rows[0].gin}"
            )
        usable = [plugin for plugin in rows_of_kind if plugin.status != "blocked"]
        if not usable:
            blocked = rows_of_kind[0]
            raise PluginBlockedError(f"{blocked} may not be used: {blocked.detail}")
        plugin = usable[0]
        if plugin.status == "conflict":
            raise PluginConflictError(f"{plugin} cannot be used: {plugin.detail}")
        if plugin.status != "ok":
            raise PluginLoadError(f"{plugin} {plugin.detail}")
        return plugin

    def _load(self, plugin: Plugin) -> Any:
        key = (plugin.kind, plugin.name)
        if key not in self._loaded:
            complaint = _incompatibility(plugin)
            if complaint:
                raise PluginLoadError(f"{plugin} {complaint}")
            loaded = _import(plugin)
            complaint = KINDS[plugin.kind].complaint(loaded)
            if complaint:
                raise PluginLoadError(f"{plugin} {complaint} ({plugin.value})")
            _validate_hooks(plugin, loaded)
            self._loaded[key] = loaded
        return self._loaded[key]


def _validate_hooks(plugin: Plugin, loaded: object) -> None:
    """Has pluggy check the hook implementations of a plugin, of whatever kind.

    In a manager of its own: a refused plugin leaves its marks in pluggy's.
    """
    import pluggy

    manager = _new_manager()
    try:
        manager.register(loaded, plugin.name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginLoadError(f"{plugin} has an invalid hook: {one_line(error)}") from error
    if plugin.kind == "hooks" and not manager.get_hookcallers(loaded):
        raise PluginLoadError(
            f"{plugin} has no function marked by prompt_tuning_core.hookspecs.hookimpl "
            f"({plugin.value})"
        )


def _new_manager() -> pluggy.PluginManager:
    import pluggy

    from prompt_tuning_core import hookspecs

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _incompatibility(plugin: Plugin) -> str | None:
    from prompt_tuning_core.versions import unmet

    return unmet(plugin.requirements, CORE_DISTRIBUTION, __version__)


def _import(plugin: Plugin) -> object:
    module_name, _, path = plugin.value.split("[")[0].partition(":")
    try:
        loaded: object = importlib.import_module(module_name.strip())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # A module may raise anything, and `sys.exit()` too.
        raise PluginLoadError(f"{plugin} fails to import: {one_line(error)}") from error
    for attribute in filter(None, path.strip().split(".")):
        try:
            loaded = getattr(loaded, attribute)
        except AttributeError as error:
            raise PluginLoadError(
                f"{plugin} names {plugin.value!r}, and there is no {attribute!r} in it"
            ) from error
        except Exception as error:  # A module's own __getattr__ may raise anything.
            raise PluginLoadError(f"{plugin} fails to import: {one_line(error)}") from error
    return loaded


def _discover(filters: Filters) -> tuple[Plugin, ...]:
    rows: list[Plugin] = []
    kinds_by_group = {kind.group: kind for kind in KINDS.values()}
    points, unreadable = _entry_points()
    headers: dict[int, dict[str, list[str]]] = {}  # By distribution: some carry several plugins.
    for point in points:
        kind = kinds_by_group.get(point.group)
        if kind is not None:
            key = id(point.dist)
            if key not in headers:
                headers[key] = _headers(point.dist)
            rows.append(_row(kind, point, headers[key], filters))
    rows = _mark_conflicts(list(dict.fromkeys(rows))) + unreadable
    order = [*KINDS, ""]
    return tuple(sorted(rows, key=lambda row: (order.index(row.kind), row.name, row.distribution)))


def _entry_points() -> tuple[list[importlib_metadata.EntryPoint], list[Plugin]]:
    """Returns the installed entry points, and rows for distributions whose own cannot be read."""
    import importlib_metadata

    try:
        return list(importlib_metadata.entry_points()), []
    except Exception:
        # One unreadable file fails them all. Read the distributions one by one.
        points: list[importlib_metadata.EntryPoint] = []
        unreadable = []
        for distribution in importlib_metadata.distributions():
            try:
                points += distribution.entry_points
            except Exception as error:  # Undecodable, or no ini file: it is a row.
                fields = _headers(distribution)
                unreadable.append(
                    Plugin(
                        kind="",
                        name="",
                        value="",
                        distribution=fields["Name"][0],
                        version=fields["Version"][0],
                        status="broken",
                        description=fields["Summary"][0],
                        detail=f"its entry_points.txt cannot be read: {one_line(error)}",
                        gin="",
                        requirements=(),
                    )
                )
        return points, unreadable


def _headers(distribution: Any) -> dict[str, list[str]]:
    """Reads the fields of METADATA that a row needs.

    `distribution.metadata` would parse the whole of it, description and all, with `email`.
    """
    fields: dict[str, list[str]] = {"Name": [], "Version": [], "Summary": [], "Requires-Dist": []}
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except Exception:  # Undecodable; the row says that there is no name.
        text = ""
    for line in text.splitlines():
        if not line.strip():
            break
        field, separator, value = line.partition(":")
        if separator and field in fields:
            fields[field].append(value.strip())
    for field in ("Name", "Version"):
        fields[field] = fields[field] or ["unknown"]
    fields["Summary"] = fields["Summary"] or [""]
    return fields


def _row(
    kind: Kind,
    point: importlib_metadata.EntryPoint,
    fields: dict[str, list[str]],
    filters: Filters,
) -> Plugin:
    distribution = fields["Name"][0]
    status, detail = "ok", ""
    blocked = filters.reason_to_block(point.name, distribution)
    if blocked:
        status, detail = "blocked", blocked
    elif not point.name.isidentifier():
        status, detail = "broken", f"is named {point.name!r}, and a name is a Python identifier"
    elif not point.pattern.match(point.value):
        status, detail = "broken", f"names {point.value!r}, and should name module:attribute"
    return Plugin(
        kind=kind.name,
        name=point.name,
        value=point.value,
        distribution=distribution,
        version=fields["Version"][0],
        status=status,
        description=fields["Summary"][0],
        detail=detail,
        gin=kind.reference.format(name=point.name),
        requirements=tuple(fields["Requires-Dist"]),
    )


def _mark_conflicts(rows: list[Plugin]) -> list[Plugin]:
    claims: dict[str, list[Plugin]] = {}
    for row in rows:
        if row.status != "blocked":
            claims.setdefault(row.name, []).append(row)
    marked = []
    for row in rows:
        rivals = [claim for claim in claims.get(row.name, ()) if claim is not row]
        if row.status != "blocked" and rivals:
            others = ", ".join(f"{r.distribution} {r.version} ({r.kind})" for r in rivals)
            elsewhere = [r.distribution for r in rivals if r.distribution != row.distribution]
            advice = (
                f"block one, for example with --block-plugin={elsewhere[0]}:{row.name}"
                if elsewhere
                else "names are unique across kinds, so its author must rename one"
            )
            detail = f"the name is also claimed by {others}; {advice}"
            row = row._replace(status="conflict", detail=detail)
        marked.append(row)
    return marked


_process_registry: Registry | None = None


def configure(allow: Iterable[str] = (), block: Iterable[str] = ()) -> Registry:
    """Sets the filters of this process, besides those of the environment.

    Args:
      allow: As `Filters.allow`; items may be joined by commas.
      block: As `Filters.block`; likewise.

    Returns:
      The new process-wide registry, which the functions of this module use from now on.

    Raises:
      InputError: If an item names nothing that could be a plugin.
    """
    global _process_registry
    _process_registry = Registry(Filters.from_environment().joined(Filters.parse(allow, block)))
    return _process_registry


def process_registry() -> Registry:
    """Returns the registry of this process, with the filters of `configure`."""
    return _process_registry or configure()


def discover() -> tuple[Plugin, ...]:
    """As `Registry.discover`, in the process-wide registry."""
    return process_registry().discover()


def find(kind: str, name: str) -> Plugin:
    """As `Registry.find`, in the process-wide registry."""
    return process_registry().find(kind, name)


def load(kind: str, name: str) -> Any:
    """As `Registry.load`, in the process-wide registry."""
    return process_registry().load(kind, name)


def load_hooks(names: Iterable[str]) -> Any:
    """As `Registry.load_hooks`, in the process-wide registry."""
    return process_registry().load_hooks(names)
