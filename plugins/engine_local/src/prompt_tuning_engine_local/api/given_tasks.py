"""Tasks that a Python program gives: objects, names or rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import find_task
from prompt_tuning_engine_local.data.engine_task import EngineTask
from prompt_tuning_engine_local.data.text_components import TextEngineTask
from prompt_tuning_tasks import Mixture, Row, Sources, Task, TextTask


def is_rows(task: object) -> TypeGuard[Sequence[Row]]:
    """Checks whether a task is given as rows."""
    return isinstance(task, Sequence) and not isinstance(task, str)


def engine_task(
    task: Task | str | Sequence[Row], splits: Mapping[str, Sequence[Row]]
) -> EngineTask:
    """Returns a task in the form that the engine reads.

    Args:
      task: A text task or a mixture, the name of a registered task or mixture, or rows.
      splits: If the task is rows, the rows of each split.

    Raises:
      InputError: If no task has the name, or `task` is something else.
    """
    if isinstance(task, str):
        return find_task.find(task, None)
    if is_rows(task):
        sources: dict[str, Sources] = {
            split: functools.partial(list, rows) for split, rows in splits.items()
        }
        return TextEngineTask(TextTask("rows", sources))
    if not isinstance(task, TextTask | Mixture):
        raise InputError(
            f"the task is {task!r}, expected a text task, a mixture, the name of one, or rows such "
            "as [{'inputs': …, 'targets': …}]"
        )
    return TextEngineTask(task)
