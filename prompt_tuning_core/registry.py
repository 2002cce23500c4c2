"""Finds installed plugins by their metadata, and loads a plugin by its name.

Listing (`discover`) reads entry points through `importlib_metadata` and imports no plugin. Loading
(`load`) imports one: it first compares the version of the core that the plugin requires, and then
checks that the object fits its kind. If two distributions claim one name, both are in conflict, and
the user must block one.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
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
from prompt_tuning_core.kinds import A_NAME, KINDS, Kind

if TYPE_CHECKING:
    import importlib_metadata
    import pluggy

CORE_DISTRIBUTION = "prompt-tuning-core"
ALLOW_VARIABLE = "PROMPT_TUNING_ALLOW_PLUGINS"
BLOCK_VARIABLE = "PROMPT_TUNING_BLOCK_PLUGINS"
_CHECKSUM = "sha256:"


class Plugin(NamedTuple):
    """One entry point, as its metadata describes it; or a Python file with hooks.

    For a file, `distribution` is its path and `version` its checksum, `sha256:…`.

    Attributes:
      kind: A key of `KINDS`; `""` if the entry points of a distribution cannot be read.
      name: The registered name.
      value: The object of the entry point, `module:attribute`.
      distribution: The distribution that carries it.
      version: The distribution's version.
      status: `"ok"`, `"conflict"`, `"blocked"`, `"broken"`, or, after `check`, `"incompatible"`.
      description: The distribution's summary.
      detail: The reason for a status other than ok; else `""`.
      usage: The text that a user types to use the plugin.
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
    usage: str = ""
    requirements: tuple[str, ...] = ()

    @property
    def is_core(self) -> bool:
        """True if the core's own distribution carries it."""
        return normalized(self.distribution) == CORE_DISTRIBUTION

    @property
    def is_file(self) -> bool:
        """True for a Python file, which no distribution carries."""
        return self.version.startswith(_CHECKSUM)

    def __str__(self) -> str:
        if self.is_file:
            return f"{self.kind} file {self.distribution}"
        return f"{self.kind} plugin {self.name!r} of {self.distribution} {self.version}"


class Filters(NamedTuple):
    """The lists of allowed and blocked plugins; the core's own are always allowed.

    Each item is a plugin's name, a distribution's name, or `distribution:name`.

    Attributes:
      allow: If not empty, only these plugins may be used.
      block: These plugins may not be used.
    """

    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()

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
    if ":" in item:
        carrier, _, wanted = item.partition(":")
        return wanted == name and normalized(carrier) == normalized(distribution)
    return item == name or normalized(item) == normalized(distribution)


def normalized(distribution: str) -> str:
    """Returns a distribution's name in its normal spelling (PEP 503), for comparing."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class Registry:
    """The plugins installed in this environment, under given filters.

    It reads the metadata at the first use, and keeps it and the loaded plugins.
    """

    def __init__(self, filters: Filters | None = None) -> None:
        self.filters = filters or Filters()
        self._plugins: tuple[Plugin, ...] | None = None
        self._loaded: dict[Plugin, Any] = {}

    def discover(self) -> tuple[Plugin, ...]:
        """Lists the installed plugins by kind and name, including those that cannot be used."""
        if self._plugins is None:
            self._plugins = _discover(self.filters)
        return self._plugins

    def has(self, kind: str, name: str) -> bool:
        """Checks whether a plugin of this kind and name is installed, usable or not."""
        return any(plugin.kind == kind and plugin.name == name for plugin in self.discover())

    def named(self, name: str, kind: str | None = None) -> list[Plugin]:
        """Lists the plugins of this name, or else of the distribution of this name, in any state.

        Raises:
          UnknownPluginError: If there are none.
        """
        listed = [plugin for plugin in self.discover() if plugin.kind == (kind or plugin.kind)]
        found = [p for p in listed if p.name == name] or [
            p for p in listed if normalized(p.distribution) == normalized(name)
        ]
        if not found:
            what = f"{kind} plugin" if kind else "plugin"
            known = {known for plugin in listed for known in (plugin.name, plugin.distribution)}
            raise UnknownPluginError(
                f"no {what} or distribution named {name!r} is installed{nearest(name, known)}"
            )
        return found

    def find(self, kind: str, name: str) -> Plugin:
        """Returns the one plugin of this kind and name; the name of hooks may be a `.py` file.

        Raises:
          InputError: If there is no such kind.
          UnknownPluginError: If no distribution has it.
          PluginConflictError: If several claim the name.
          PluginBlockedError: If the filters exclude it.
          PluginLoadError: If its metadata cannot be used.
        """
        if kind not in KINDS:
            raise InputError(f"{kind!r} is no kind of plugin{nearest(kind, KINDS)}")
        if kind == "hooks" and name.endswith(".py"):
            return _of_file(name, self.filters)
        return self._find(name, [kind])

    def find_in_gin(self, name: str) -> Plugin:
        """Returns the one plugin that gin files mean by `plugins.NAME`; raises as `find`."""
        return self._find(name, [kind.name for kind in KINDS.values() if kind.in_gin])

    def names_in_gin(self) -> list[str]:
        """Lists the names that gin files may use, including those that give an error."""
        return sorted({p.name for p in self.discover() if p.kind and KINDS[p.kind].in_gin})

    def load(self, kind: str, name: str) -> Any:
        """Imports one plugin and returns the object of its entry point.

        Raises:
          PluginLoadError: If it does not work with this core, fails to import, or does not fit its
            kind. Also the errors of `find`.
        """
        return self.load_found(self.find(kind, name))

    def load_found(self, plugin: Plugin) -> Any:
        """Imports a plugin that `discover` or `find` returned; raises as `load`."""
        if plugin not in self._loaded:
            complaint = _incompatibility(plugin)
            if complaint:
                raise PluginLoadError(f"{plugin} {complaint}")
            loaded = _import(plugin)
            complaint = KINDS[plugin.kind].complaint(loaded)
            if complaint:
                raise PluginLoadError(f"{plugin} {complaint} ({plugin.value})")
            if not plugin.is_core:  # Listing plugins does not need pluggy.
                _validate_hooks(plugin, loaded)
            twin = self.plugin_of(loaded)
            if twin is not None and KINDS[plugin.kind].in_gin:
                raise PluginLoadError(
                    f"{plugin} is the same object as {twin}, and gin would share their bindings; "
                    "give each a function of its own"
                )
            self._loaded[plugin] = loaded
        return self._loaded[plugin]

    def load_in_gin(self, name: str) -> Any:
        """Imports the plugin that gin files mean by `plugins.NAME`; raises as `load`."""
        return self.load_found(self.find_in_gin(name))

    def loaded(self) -> tuple[Plugin, ...]:
        """Lists the plugins loaded so far, in the order of `discover`; files come last."""
        files = (plugin for plugin in self._loaded if plugin.is_file)
        return (*(plugin for plugin in self.discover() if plugin in self._loaded), *files)

    def plugin_of(self, loaded: object) -> Plugin | None:
        """Returns the plugin that an object was loaded from; None if it is no plugin's."""
        return next((p for p, found in self._loaded.items() if found is loaded), None)

    def load_hooks(self, names: Iterable[str]) -> Any:
        """Loads the hooks plugins of a run, which are called in this order; raises as `load`.

        Args:
          names: Names of plugins, and paths of Python files that end in `.py`.

        Returns:
          An object with one callable for each specification in `prompt_tuning_core.hookspecs`. Call
          them with keyword arguments: `hooks.step_logged(step=1, metrics={})`.
        """
        manager = _new_manager()
        # pluggy calls the last registered plugin first.
        for name in reversed(list(dict.fromkeys(names))):
            loaded = self.load("hooks", name)
            if not manager.is_registered(loaded):  # Two paths may name one file.
                manager.register(loaded, name)
        if os.environ.get("PROMPT_TUNING_TRACE"):
            manager.add_hookcall_monitoring(_trace, lambda *_: None)
        return manager.hook

    def check(self, plugin: Plugin) -> Plugin:
        """Loads a listed plugin, and returns it with its new status."""
        if plugin.status != "ok":
            return plugin
        try:
            self.load_found(plugin)
        except PluginLoadError as error:
            status = "incompatible" if _incompatibility(plugin) else "broken"
            return plugin._replace(status=status, detail=str(error).removeprefix(f"{plugin} "))
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
                f"{rows[0]} is not of kind {wanted}: it is used as {rows[0].usage}"
            )
        usable = [plugin for plugin in rows_of_kind if plugin.status != "blocked"]
        if not usable:
            blocked = rows_of_kind[0]
            raise PluginBlockedError(f"{blocked} may not be used: {blocked.detail}")
        # If another distribution claims a command of the core, only the core's row is ok.
        plugin = next((plugin for plugin in usable if plugin.status == "ok"), usable[0])
        if plugin.status == "conflict":
            raise PluginConflictError(f"{plugin} cannot be used: {plugin.detail}")
        if plugin.status != "ok":
            raise PluginLoadError(f"{plugin} {plugin.detail}")
        return plugin


def _validate_hooks(plugin: Plugin, loaded: object) -> None:
    """Checks the hook implementations of a plugin with pluggy; plugins of any kind may have them.

    It uses a new manager, since a refused plugin leaves traces in a manager.
    """
    import pluggy

    manager = _new_manager()
    try:
        manager.register(loaded, plugin.name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        hook = re.search(r"hook '(\w+)'", str(error))
        code = getattr(getattr(loaded, hook[1] if hook else "", None), "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        raise PluginLoadError(f"{plugin} has an invalid hook: {one_line(error)}{place}") from error
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


def _trace(hook: str, called: Sequence[Any], arguments: Mapping[str, Any]) -> None:
    shown = {n: v if isinstance(v, int | float | str) else type(v) for n, v in arguments.items()}
    ran = ", ".join(one.plugin_name for one in reversed(called)) or "no plugin"
    sys.stderr.write(f"hook {hook} {shown}: {ran}\n")


def _incompatibility(plugin: Plugin) -> str | None:
    """Returns the requirement that this core does not meet; None if it meets all."""
    if plugin.is_core:  # Listing plugins does not need packaging.
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    for text in plugin.requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            # Not even the name can be read. It matters only if it may be the core's.
            if CORE_DISTRIBUTION in normalized(text):
                return f"has a requirement that cannot be read: {text!r}"
            continue
        if normalized(requirement.name) != CORE_DISTRIBUTION:
            continue
        # Evaluated without an extra: the plugin itself does not require what its extras require.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        # An installed pre-release counts too.
        if not requirement.specifier.contains(__version__, prereleases=True):
            return f"requires {text!r}, and {CORE_DISTRIBUTION} {__version__} is installed"
    return None


def _of_file(path: str, filters: Filters) -> Plugin:
    """Returns the row of a Python file with hooks; its name is the file's name without `.py`."""
    import hashlib

    full = os.path.expanduser(path)
    name = os.path.basename(full).removesuffix(".py")
    plugin = Plugin("hooks", name, name, path, _CHECKSUM, "ok", "", "")
    if blocked := filters.reason_to_block(name, path):
        raise PluginBlockedError(f"{plugin} may not be used: {blocked}")
    if not os.path.isfile(full):
        raise UnknownPluginError(f"{plugin}: there is no such file")
    with open(full, "rb") as file:
        return plugin._replace(version=_CHECKSUM + hashlib.sha256(file.read()).hexdigest())


_modules_of_files: dict[tuple[str, str], types.ModuleType] = {}  # By path and checksum.


def _import_file(plugin: Plugin) -> object:
    """Runs a Python file as a module, which a gin file may then import by its name."""
    import traceback

    path = os.path.abspath(os.path.expanduser(plugin.distribution))
    key = (path, plugin.version)
    if key in _modules_of_files:
        return _modules_of_files[key]
    module = types.ModuleType(plugin.name)
    module.__file__ = path
    before = sys.modules.get(plugin.name)
    if getattr(before, "__file__", path) == path:  # Replaces no other module.
        sys.modules[plugin.name] = module
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # As in `_import`.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        place = f" ({path}:{lines[-1]})" if lines else ""  # A SyntaxError names its line.
        raise PluginLoadError(f"{plugin} fails to import: {one_line(error)}{place}") from error
    return _modules_of_files.setdefault(key, module)


def _import(plugin: Plugin) -> object:
    if plugin.is_file:
        return _import_file(plugin)
    module_name, _, path = plugin.value.split("[")[0].partition(":")
    try:
        loaded: object = importlib.import_module(module_name.strip())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # A module may raise anything, or call `sys.exit()`.
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


_UNKNOWN = "unknown"
_LIKE_OURS = re.compile(r"prompt[-_. ]?tuning", re.IGNORECASE)


def _discover(filters: Filters) -> tuple[Plugin, ...]:
    rows: list[Plugin] = []
    kinds_by_group = {kind.group: kind for kind in KINDS.values()}
    points, broken = _entry_points()
    for point, blank in points:
        row = blank._replace(name=point.name, value=point.value)
        kind = kinds_by_group.get(point.group)
        if kind is None:
            hint = nearest(point.group.lower(), kinds_by_group)
            detail = f"its group {point.group!r} is no kind of plugin{hint}"
            broken.append(row._replace(status="broken", detail=detail))
        else:
            rows.append(_of_kind(kind, row, point, filters))
    rows = _mark_conflicts(list(dict.fromkeys(rows))) + broken
    order = [*KINDS, ""]
    return tuple(sorted(rows, key=lambda row: (order.index(row.kind), row.name, row.distribution)))


def _entry_points() -> tuple[list[tuple[importlib_metadata.EntryPoint, Plugin]], list[Plugin]]:
    """Returns the entry points of plugins, each with a row that describes its distribution.

    It also returns a row for each distribution whose entry points cannot be used. If a distribution
    is installed twice, Python uses the first copy.
    """
    import importlib_metadata

    first: dict[str, list[importlib_metadata.EntryPoint]] = {}
    points: list[tuple[importlib_metadata.EntryPoint, Plugin]] = []
    broken = []
    for distribution in importlib_metadata.distributions():
        detail = ""
        try:
            text = distribution.read_text("entry_points.txt") or ""
            unused = _first_unused_line(text)
            if not _LIKE_OURS.search(text if not unused else text + _metadata(distribution)):
                continue
            if unused:
                raise ValueError(f"found {unused!r}, expected [GROUP], and NAME = VALUE below")
            row = _blank_row(distribution)
            found = [p for p in distribution.entry_points if _LIKE_OURS.match(p.group)]
            known = row.distribution != _UNKNOWN
            kept = first.setdefault(normalized(row.distribution), found) if known else found
            if kept is found:
                points += [(point, row) for point in found]
            elif kept != found:
                folder = distribution.locate_file("")
                detail = f"is a second copy with other plugins, in {folder}; uninstall one"
        except Exception as error:  # Undecodable or not in ini form.
            detail = f"its entry_points.txt cannot be read: {one_line(error)}"
        if detail:
            broken.append(_blank_row(distribution)._replace(status="broken", detail=detail))
    return points, broken


def _first_unused_line(text: str) -> str:
    """Returns the first line of an `entry_points.txt` that has no effect; "" if there is none."""
    group = False
    for line in filter(None, map(str.strip, text.splitlines())):
        is_group = line[0] == "[" and line[-1] == "]"
        if line[0] != "#" and not is_group and not (group and "=" in line):
            return line
        group = group or is_group
    return ""


def _blank_row(distribution: Any) -> Plugin:
    """Returns a row with the fields of METADATA, for any plugin of the distribution.

    `distribution.metadata` would parse all of it, even the long description, with `email`.
    """
    fields: dict[str, list[str]] = {"Name": [], "Version": [], "Summary": [], "Requires-Dist": []}
    for line in _metadata(distribution).splitlines():
        if not line.strip():
            break
        field, separator, value = line.partition(":")
        if separator and field in fields:
            fields[field].append(value.strip())
    name, version = (fields[field] or [_UNKNOWN] for field in ("Name", "Version"))
    summary = fields["Summary"] or [""]
    requires = tuple(fields["Requires-Dist"])
    return Plugin("", "", "", name[0], version[0], "ok", summary[0], "", requirements=requires)


def _metadata(distribution: Any) -> str:
    try:
        return distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except Exception:  # Undecodable; the row says that there is no name.
        return ""


def _of_kind(
    kind: Kind, row: Plugin, point: importlib_metadata.EntryPoint, filters: Filters
) -> Plugin:
    status, detail = "ok", ""
    # The core's own commands always work, such as `--allow-plugin=x list-plugins`.
    blocked = None if row.is_core else filters.reason_to_block(row.name, row.distribution)
    if blocked:
        status, detail = "blocked", blocked
    elif not kind.names.fullmatch(row.name):
        status, detail = "broken", f"is named {row.name!r}, and a name is {A_NAME[kind.names]}"
    elif not point.pattern.match(row.value):
        status, detail = "broken", f"names {row.value!r}, and should name module:attribute"
    usage = kind.usage.format(name=row.name, words=row.name.replace(".", " "))
    return row._replace(kind=kind.name, status=status, detail=detail, usage=usage)


def _mark_conflicts(rows: list[Plugin]) -> list[Plugin]:
    """Marks the rows whose name several distributions claim.

    For example, an initializer `x` of one distribution and an engine `x` of another are both in
    conflict, since gin has one namespace for both; a format `x` is in conflict with neither. If
    another distribution declares a command of the core, such as `train`, only its row is marked:
    the core's command stays usable.
    """
    claims: dict[tuple[str, str], list[Plugin]] = {}
    for row in rows:
        if row.status != "blocked":
            claims.setdefault(_namespace(row), []).append(row)
    marked = []
    for row in rows:
        rivals = [claim for claim in claims.get(_namespace(row), ()) if claim is not row]
        if row.kind == "command" and row.is_core:
            rivals = []
        if row.status == "ok" and rivals and KINDS[row.kind].unique != "no":
            others = ", ".join(f"{r.distribution} {r.version} ({r.kind})" for r in rivals)
            elsewhere = [r.distribution for r in rivals if r.distribution != row.distribution]
            if any(r.is_core for r in rivals):
                advice = "the core keeps its names, so its author must rename it"
            elif elsewhere:
                flags = (f"--block-plugin={r}:{row.name}" for r in (elsewhere[0], row.distribution))
                advice = f"block one, with {' or '.join(flags)}"
            else:
                advice = "one name stands for one plugin, so its author must rename one"
            detail = f"the name is also claimed by {others}; {advice}"
            row = row._replace(status="conflict", detail=detail)
        marked.append(row)
    return marked


def _namespace(plugin: Plugin) -> tuple[str, str]:
    return ("gin" if KINDS[plugin.kind].unique == "gin" else plugin.kind, plugin.name)


_process_registry: Registry | None = None


def configure(allow: Iterable[str] = (), block: Iterable[str] = ()) -> Registry:
    """Makes the registry of this process, with these filters and the filters in the environment.

    Raises:
      InputError: If an item has none of the three forms. Commas may join items.
    """
    global _process_registry
    allow = [os.environ.get(ALLOW_VARIABLE, ""), *allow]
    block = [os.environ.get(BLOCK_VARIABLE, ""), *block]
    _process_registry = Registry(Filters(tuple(_items(allow)), tuple(_items(block))))
    return _process_registry


def process_registry() -> Registry:
    """Returns the registry of this process, with the filters of `configure`."""
    return _process_registry or configure()
