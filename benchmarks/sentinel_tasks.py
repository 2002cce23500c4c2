"""The demo's tasks with a token in front that names the task, for a multitask prompt."""

from __future__ import annotations

import dataclasses

import prompt_tuning_tasks as tasks
from prompt_tuning_demo import demo_tasks

for task in (demo_tasks.DEMO_REVIEWS, demo_tasks.DEMO_PLOT_OR_REVIEW):
    tasks.register(
        dataclasses.replace(task, name=f"{task.name}_sentinel", inputs="<extra_id_0> {text}")
    )
