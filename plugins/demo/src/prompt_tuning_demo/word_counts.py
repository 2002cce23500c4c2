"""A linear classifier on word counts: TF-IDF and logistic regression, by scikit-learn."""

from __future__ import annotations

import dataclasses
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_tasks import TextTask

INSTALL = "pip install 'prompt-tuning-demo[baselines]'"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that the validation split chooses.

    Attributes:
      longest_words: The most words of a counted sequence: 1 counts words, 2 counts pairs of words
        too.
      fewest_texts: A sequence is counted if at least this many texts have it.
      inverse_strength: The inverse strength of the regularisation, scikit-learn's C.
    """

    longest_words: int
    fewest_texts: int
    inverse_strength: float


class WordCounts:
    """Trains and scores classifiers of a task's texts, whose targets are the classes.

    Args:
      task: The task.

    Raises:
      InputError: If scikit-learn is not installed.
    """

    def __init__(self, task: TextTask) -> None:
        check_installed()
        self._task = task
        self._train = task.examples("train")

    def train(self, settings: Settings) -> Any:
        """Returns a scikit-learn pipeline from texts to targets, fitted to the training split."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        classifier = make_pipeline(
            TfidfVectorizer(
                ngram_range=(1, settings.longest_words),
                min_df=settings.fewest_texts,
                sublinear_tf=True,
            ),
            LogisticRegression(C=settings.inverse_strength, max_iter=1000),
        )
        return classifier.fit(
            [example.inputs for example in self._train],
            [example.targets for example in self._train],
        )

    def score(self, classifier: Any, split: str) -> float:
        """Returns the share of a split's texts that get their target."""
        examples = self._task.examples(split)
        return float(classifier.score([e.inputs for e in examples], [e.targets for e in examples]))


def check_installed() -> None:
    """Checks that scikit-learn is installed.

    Raises:
      InputError: If not; the message has the command that installs it.
    """
    try:
        import sklearn  # noqa: F401  Only to see that it is there.
    except ImportError:
        raise InputError(
            f"TF-IDF and logistic regression need scikit-learn, which is not installed; "
            f"install it with: {INSTALL}"
        ) from None
