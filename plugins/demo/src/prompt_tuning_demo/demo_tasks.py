"""Registers the demo's tasks, for `MIXTURE_OR_TASK_MODULE`.

- `demo_reviews`: is a review positive or negative?
- `demo_plot_or_review`: is a sentence from a plot or from a review?

The rows are read from the data package when a split is read, not when this module is imported.
"""

from __future__ import annotations

import functools

import prompt_tuning_tasks as tasks
from prompt_tuning_demo import reviews
from prompt_tuning_demo.prefixes import PLOT, REVIEW


def review_rows(split: reviews.Split) -> list[tasks.Row]:
    """Returns the reviews of `split` as rows of `text` and `label`, the sentiment.

    Raises:
      InputError: If the data package is not installed, or another version of it is.
    """
    return [
        {"text": review.text, "label": review.label}
        for review in reviews.read_corpus().reviews[split]
    ]


def plot_or_review_rows(split: reviews.Split) -> list[tasks.Row]:
    """Returns the sentences of `split` as rows of `text` and `label`, their source.

    Raises:
      InputError: If the data package is not installed, or another version of it is.
    """
    corpus = reviews.read_corpus()
    return [
        *({"text": review.text, "label": REVIEW} for review in corpus.reviews[split]),
        *({"text": text, "label": PLOT} for text in reviews.plot_sentences(corpus, split)),
    ]


DEMO_REVIEWS = tasks.register(
    tasks.TextTask(
        name="demo_reviews",
        splits={split: functools.partial(review_rows, split) for split in reviews.SPLITS},
        inputs="{text}",
        targets="{label}",
    )
)
DEMO_PLOT_OR_REVIEW = tasks.register(
    tasks.TextTask(
        name="demo_plot_or_review",
        splits={split: functools.partial(plot_or_review_rows, split) for split in reviews.SPLITS},
        inputs="{text}",
        targets="{label}",
    )
)
