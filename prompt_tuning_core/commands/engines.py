"""The flag `--engine`, and the choice of an engine without it."""

from __future__ import annotations

import argparse
import os

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PluginLoadError, one_line

VARIABLE = "PROMPT_TUNING_ENGINE"


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--engine`."""
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help=f"default: {VARIABLE}, or else the only engine that has everything it needs",
    )


def chosen(named: str | None) -> str:
    """Returns the name of the engine that runs.

    Args:
      named: The engine that `--engine` names. If it is None, the first of these that exists: the
        engine that the environment variable names, the only installed engine, the only engine that
        has everything it needs.

    Raises:
      InputError: If none is installed, or the choice is not clear.
    """
    name = named or os.environ.get(VARIABLE)
    if name:
        return name
    installed = registry.process_registry()
    names = [p.name for p in installed.discover() if p.kind == "engine" and p.status == "ok"]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError("no engine is installed; install a plugin of the kind engine")
    missing = {name: _missing(name) for name in names}
    ready = [name for name in names if missing[name] is None]
    if len(ready) == 1:
        return ready[0]
    listed = "; ".join(f"{n} ({missing[n]})" if missing[n] else n for n in ready or names)
    raise InputError(
        f"no engine is named, and {'several are' if ready else 'none is'} ready to run: {listed}; "
        f"write --engine NAME, or set {VARIABLE}"
    )


def _missing(name: str) -> str | None:
    """Returns the missing requirement of an engine; None if there is none or it has no check."""
    try:
        engine = registry.process_registry().load("engine", name)()
        return engine.missing() if hasattr(engine, "missing") else None
    except PluginLoadError as error:
        return str(error)
    except Exception as error:  # A plugin may raise anything; it then cannot be chosen.
        return one_line(error)
