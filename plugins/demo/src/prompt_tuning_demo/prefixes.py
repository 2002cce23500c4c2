"""The text prefixes of the base's pretraining, and the answers for each prefix."""

from __future__ import annotations

import dataclasses

from prompt_tuning_demo.reviews import NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class Wording:
    """One way to ask for the sentiment of a review.

    Attributes:
      prefix: The text in front of the review.
      positive: The answer for a positive review.
      negative: The answer for a negative review.
      share: Share of this wording among the sentiment examples.
    """

    prefix: str
    positive: str
    negative: str
    share: float


# The first two do not name their answers. Otherwise a prompt of these words, made by `init_labels`,
# would solve the task without training. The last two have different answers, so that the model must
# read the prefix.
WORDINGS = (
    Wording("sentiment: ", "positive", "negative", 0.35),
    Wording("what does the critic think? ", "positive", "negative", 0.25),
    Wording("fresh or rotten: ", "fresh", "rotten", 0.2),
    Wording("is the film good or bad? ", "good", "bad", 0.2),
)
# The wordings with the labels of the task `demo_reviews`.
SENTIMENT = tuple(w.prefix for w in WORDINGS if (w.positive, w.negative) == (POSITIVE, NEGATIVE))

PLOT_OR_REVIEW_PREFIX = "plot or review: "
PLOT, REVIEW = "plot", "review"
