"""The details of one plugin: its folder, its requirements and, after an import, its parameters."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from prompt_tuning_core import gin_config, registry
from prompt_tuning_core.commands.text_tables import printable
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.kinds import KINDS

_WITH_IMPORT = "not shown; add --import"
_SET_BY_OTHERS = {"prompt": ("stack", "parent", "name")}  # Engines and Flax set these.


def of(plugin: registry.Plugin, imports: bool) -> dict[str, Any]:
    """Returns the facts of a plugin by name; imports the plugin only if `imports` is True."""
    try:
        folder = str(gin_config.find_module(plugin.value.partition(":")[0].strip()))
    except InputError as error:
        folder = str(error)
    requires = {text: _state(text) for text in plugin.requirements}
    facts = {"object": plugin.value, "folder": folder, "requires": requires}
    if not imports:
        return {**facts, "parameters": _WITH_IMPORT, "docstring": _WITH_IMPORT}
    loaded = registry.process_registry().load_found(plugin)
    parameters = _parameters(plugin, loaded) if KINDS[plugin.kind].in_gin else {}
    return {**facts, "parameters": parameters, "docstring": inspect.getdoc(loaded)}


def shown(facts: Mapping[str, Any]) -> str:
    """Returns the facts of a plugin as lines for people."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = "\n".join(f"{key}: {each}" for key, each in value.items())
        for line in str(value or "none").splitlines():
            lines.append(printable(f"{name:<13} {line}").rstrip())
            name = ""
    return "\n".join(lines)


def _state(requirement: str) -> str:
    """Returns "met", "not met by VERSION", or the reason why no version was compared."""
    try:
        wanted = Requirement(requirement)
        version = importlib.metadata.version(wanted.name)
    except InvalidRequirement:
        return "cannot be read"
    except importlib.metadata.PackageNotFoundError:
        is_extra = wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})
        return "not needed here" if is_extra else "not installed"
    is_met = wanted.specifier.contains(version, prereleases=True)
    return "met" if is_met else f"not met by {version}"


def _parameters(plugin: registry.Plugin, loaded: Any) -> dict[str, str]:
    """Returns the default of each parameter, by the parameter's name in gin."""
    hidden = _SET_BY_OTHERS.get(plugin.kind, ())
    return {
        f"plugins.{plugin.name}.{key}": "must be set"
        if one.default is one.empty
        else repr(one.default)
        for key, one in inspect.signature(loaded).parameters.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and key not in hidden
    }
