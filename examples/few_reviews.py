"""Registers a task in Python: a few of the demo's sentences about films, with their mood.

`MIXTURE_OR_TASK_MODULE = 'few_reviews'` names this file, in the current directory.
"""

import prompt_tuning_tasks as tasks
from prompt_tuning_demo import demo_tasks


def few(split, count):
    """Returns the rows of the first short sentences; half of them are positive."""
    rows = [row for row in demo_tasks.review_rows(split) if len(row["text"]) < 30]
    moods = ("positive", "negative")
    return [row for mood in moods for row in [r for r in rows if r["label"] == mood][: count // 2]]


tasks.register(
    tasks.TextTask(
        "few_reviews",
        {"train": lambda: few("train", 32), "validation": lambda: few("validation", 16)},
        inputs="{text}",
        targets="{label}",
        metrics=["exact_match"],
    )
)
