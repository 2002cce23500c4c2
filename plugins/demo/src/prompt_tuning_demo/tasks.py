"""Registers the demo's task `demo_reviews`: is a review positive or negative?

For `MIXTURE_OR_TASK_MODULE`. The rows are read from the data package when a split is asked for, not
when this module is imported.
"""

from __future__ import annotations

import functools

from prompt_tuning_core import tasks
from prompt_tuning_demo import reviews


def rows(split: reviews.Split) -> list[tasks.Row]:
    """Returns the reviews of `split` as rows of `text` and `label`.

    Raises:
      InputError: If the data package is not installed, or another version of it.
    """
    return [
        {"text": review.text, "label": review.label}
        for review in reviews.read_corpus().reviews[split]
    ]


DEMO_REVIEWS = tasks.register(
    tasks.TextTask(
        name="demo_reviews",
        splits={split: functools.partial(rows, split) for split in reviews.SPLITS},
        inputs="{text}",
        targets="{label}",
    )
)
