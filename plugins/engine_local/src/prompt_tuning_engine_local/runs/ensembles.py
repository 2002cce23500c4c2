"""Ensembles: each of several prompts answers every example (Lester et al. 2021, section 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from prompt_tuning_engine_local.data.engine_task import Answers, Split
from prompt_tuning_engine_local.model.prompt_of_each import JointPrompts, VotingPrompts
from prompt_tuning_engine_local.runs.evaluation import Evaluation, Predictor
from prompt_tuning_engine_local.runs.several_prompts import MEAN_LOGIT, VOTE, SeveralPrompts
from prompt_tuning_tasks import Example


def evaluate(predictor: Predictor, split: Split, prompts: SeveralPrompts) -> Evaluation:
    """Scores each prompt and the ensemble on a split.

    Returns:
      Metrics named `PROMPT/METRIC`, `vote/METRIC` and `mean_logit/METRIC`. The predictions are the
      vote's answers; the columns hold the other answers.

    Raises:
      InputError: If a metric needs the log-likelihood of the targets.
    """
    joint = predictor.evaluate_prepared(split, JointPrompts(prompts.table))
    each = predictor.answers_of_each(split.tokenized, prompts.table)
    ids = {**dict(zip(prompts.names, each, strict=True)), VOTE: VotingPrompts.elected(each)}
    texts = {name: predictor.texts(found) for name, found in ids.items()}
    metrics = {
        f"{name}/{metric}": value
        for name in ids
        for metric, value in split.metrics(Answers(ids[name], texts[name])).items()
    }
    metrics |= {f"{MEAN_LOGIT}/{metric}": value for metric, value in joint.metrics.items()}
    columns = [
        {
            "predictions": {name: texts[name][number] for name in prompts.names},
            MEAN_LOGIT: joint.predictions[number],
        }
        for number in range(len(split.examples))
    ]
    return Evaluation(split.task_name, metrics, split.examples, texts[VOTE], columns=columns)


def answers_in_parts(
    predictor: Predictor, texts: Sequence[Example], prompts: SeveralPrompts, what: str
) -> Iterator[list[dict[str, object]]]:
    """Yields the answers to texts a few batches at a time, in order.

    Args:
      predictor: Answers texts.
      texts: The inputs.
      prompts: The prompts.
      what: The name of the texts in warnings.

    Yields:
      For each text, `prediction`, the answer of the vote, and `predictions`, the answer of each
      prompt.
    """
    copies = [text for text in texts for _ in prompts.names]
    parts = predictor.predict_in_parts(copies, prompts.every(len(texts)), what)
    answers: list[str] = []
    for part in parts:
        answers += part
        whole = len(answers) // len(prompts.names) * len(prompts.names)
        rows = np.array(answers[:whole], object).reshape(-1, len(prompts.names))
        answers = answers[whole:]
        yield [
            {"prediction": elected(row), "predictions": dict(zip(prompts.names, row, strict=True))}
            for row in rows.tolist()
        ]


def elected(answers: Sequence[str]) -> str:
    """Returns the most frequent answer; in a tie, the first prompt's answer."""
    return max(answers, key=answers.count)
