"""The provenance of a prompt that every engine records: plugins, versions and config."""

from __future__ import annotations

import datetime
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_core import registry

__all__ = ["bindings", "facts", "without_settings"]

_VERSIONS_OF = ("prompt-tuning-core", "jax", "flax", "optax", "numpy")

# Not recorded: a run asks all installed formats and catalogs, and a command only starts it.
_NOT_OF_A_RUN = ("format", "catalog", "command")


def facts(distributions: Sequence[str] = (), config: str | None = None) -> dict[str, Any]:
    """Returns the facts of this process's run, JSON-serialisable.

    Call it after the run has called its gin configurables: the operative config and the list of
    plugins contain only those in use.

    Args:
      distributions: Distributions whose version is recorded, in addition to the core, JAX, Flax,
        optax and numpy.
      config: The settings of a run that no gin file describes, as lines `NAME = VALUE`; None takes
        gin's operative config.

    Returns:
      `initializer` (the bindings that name initializers and the bindings of their parameters, one
      on each line), `plugins`, `versions`, `started` (UTC) and `config`. For a Python file with
      hooks, the distribution is its path, and the version its checksum.
    """
    if config is None:
        import gin  # Here: reading a prompt does not need it.

        config = gin.operative_config_str()
    plugins = [p for p in registry.process_registry().loaded() if p.kind not in _NOT_OF_A_RUN]
    return {
        "initializer": _initializers(
            config, [plugin.name for plugin in plugins if plugin.kind == "initializer"]
        ),
        "plugins": [
            {key: getattr(plugin, key) for key in ("kind", "name", "distribution", "version")}
            for plugin in plugins
        ],
        "versions": {
            name: importlib.metadata.version(name) for name in (*_VERSIONS_OF, *distributions)
        },
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config,
    }


def without_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves gin values and paths out of the facts of a run (RECORD_SETTINGS)."""
    kept = {n: v for n, v in facts.items() if n not in ("config", "initializer", "changes")}
    for name in ("model", "vocabulary"):
        kept[name] = {n: v for n, v in kept.get(name, {}).items() if n != "path"}
    # The distribution of a file with hooks is its path: keep only the file's name.
    kept["plugins"] = [
        {**plugin, "distribution": plugin["distribution"].rpartition("/")[2]}
        for plugin in kept.get("plugins", ())
    ]
    return kept


def bindings(config: str) -> dict[str, str]:
    """Returns the bindings of a config by name, with scope and module; each value is one line."""
    # A long value continues on indented lines.
    found = re.findall(r"^(\S+) = (.*(?:\n[ \t].*)*)", config, re.MULTILINE)
    return {name: re.sub(r"\s*\\?\n\s*", " ", value).strip() for name, value in found}


def _initializers(config: str, plugins: Sequence[str]) -> list[str]:
    """Returns the bindings of the initializers in use, one on each line.

    Args:
      config: The operative config.
      plugins: The initializer plugins that were loaded; others are named by their module.
    """
    found = bindings(config)
    named = {n: v for n, v in found.items() if n.endswith(".prompt_init") and v.startswith("@")}
    used = {*plugins, *(value.strip("@()").rpartition("/")[2] for value in named.values())}
    own = "|".join(re.escape(name) for name in sorted(used))
    pattern = rf"(?:\S+/)?(?:[\w.]+\.)?(?:{own})\.\w+"
    return [
        f"{bound} = {value}"
        for bound, value in found.items()
        if bound in named or (used and re.fullmatch(pattern, bound))
    ]
