"""Finds a task by name: a text task, or a task of seqio if a module has imported seqio."""

from __future__ import annotations

import sys

import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import InputError, PluginLoadError, nearest
from prompt_tuning_engine_local import extras
from prompt_tuning_engine_local.data.engine_task import Component, EngineTask
from prompt_tuning_engine_local.data.text_components import TextEngineTask


def find(name: str, module: str | None) -> EngineTask:
    """Returns a task or mixture by name, after importing the module that may register it.

    It looks among the text tasks first, and then among seqio's tasks, if seqio is imported.

    Raises:
      InputError: If the module fails to import or there is no such task.
    """
    if module:
        _import(module)
    if "seqio" in sys.modules and name not in tasks.names():
        from prompt_tuning_engine_local.data import seqio_tasks

        found = seqio_tasks.find(name)
        if found is None:
            known = [*tasks.names(), *seqio_tasks.names()]
            raise InputError(
                f"unknown task {name!r}{nearest(name, known)} (neither a text task nor one of "
                "seqio's has that name)"
            )
        return found
    return TextEngineTask(tasks.get(name))


def drawn_from(task: EngineTask, split: str) -> list[tuple[Component, float]]:
    """Returns the components that training on a split draws from, with their rates.

    Raises:
      InputError: If there are none.
    """
    rates = [(component, task.rate(component)) for component in task.components(split)]
    drawn = [(component, rate) for component, rate in rates if rate]
    if not drawn:
        raise InputError(f"mixture {task.name!r}: all of its rates are 0; nothing is trained on")
    return drawn


def _import(module: str) -> None:
    try:
        tasks.import_module(module)
    except (InputError, PluginLoadError) as e:
        raise InputError(f"{e}{extras.how_to_install(e.__cause__)}") from e
