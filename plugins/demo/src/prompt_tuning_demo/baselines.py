"""Measures the baselines of the demo's prompt, which take too long for `make demo`.

`python -m prompt_tuning_demo.baselines` trains two baselines on the sentences that the prompt of
`demo_reviews` is trained on: full fine-tuning of the base, and a linear classifier on word counts.
It makes every choice on the validation films, and then scores the held-out films once for each
seed. The results go to `baselines.json` in this package; the demo's table reads that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console

from prompt_tuning_demo import scripts
from prompt_tuning_files import prompt_files

FILE = Path(__file__).with_name("baselines.json")
METRIC = "exact_match"
SEEDS = (0, 1, 2)

_LEARNING_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
_DROPOUT_RATES = (0.1, 0.3)
_LONGEST_WORDS = (1, 2)
_FEWEST_TEXTS = (1, 2)
_INVERSE_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
_VERSIONS_OF = ("prompt-tuning-demo", "jax", "flax", "optax", "numpy", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The results of one baseline.

    Attributes:
      name: The baseline.
      seeds: The seeds, if it depends on any.
      held_out: The metric on the held-out films, for each seed, or once.
      validation: The metric on the validation films, in the same order.
      settings: The settings chosen on the validation films.
      tried: All settings tried, each with its metric on the validation films.
    """

    name: str
    seeds: list[int]
    held_out: list[float]
    validation: list[float]
    settings: dict[str, Any]
    tried: list[dict[str, Any]]

    def of_seed(self, seed: int) -> float | None:
        """Returns the metric of one seed on the held-out films; None for a seed not measured."""
        if not self.seeds:
            return self.held_out[0]
        return dict(zip(self.seeds, self.held_out, strict=True)).get(seed)

    @property
    def mean(self) -> float:
        """The mean of `held_out`."""
        return sum(self.held_out) / len(self.held_out)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The content of `baselines.json`.

    Attributes:
      made_by: The command that made it.
      date: The day, in UTC.
      task: The task.
      metric: Its metric.
      examples: Number of examples of each split.
      data: The package of the sentences.
      base_sha256: Checksum of the base's file.
      versions: Versions of the packages that the numbers depend on.
      baselines: The results, one for each baseline.
    """

    made_by: str
    date: str
    task: str
    metric: str
    examples: dict[str, int]
    data: str
    base_sha256: str
    versions: dict[str, str]
    baselines: list[Baseline]


def read(file: Path = FILE) -> Measured:
    """Reads the measured baselines."""
    content = json.loads(file.read_text(encoding="utf-8"))
    baselines = [Baseline(**one) for one in content.pop("baselines")]
    return Measured(**content, baselines=baselines)


def measure(console: rich.console.Console) -> Measured:
    """Measures both baselines, and reports on `console`.

    Raises:
      InputError: If the data package or scikit-learn is not installed.
    """
    from prompt_tuning_demo import reviews, word_counts
    from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS

    word_counts.check_installed()
    counted = _word_counts(console)
    tuned = _full_fine_tuning(console)
    return Measured(
        task=DEMO_REVIEWS.name,
        metric=METRIC,
        examples={split: len(DEMO_REVIEWS.examples(split)) for split in reviews.SPLITS},
        data=f"{reviews.DISTRIBUTION}=={reviews.VERSION}",
        baselines=[tuned, counted],
        **scripts.facts("baselines", _VERSIONS_OF),
    )


def _full_fine_tuning(console: rich.console.Console) -> Baseline:
    """Returns the results of full fine-tuning; one seed chooses the settings."""
    from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS
    from prompt_tuning_demo.full_fine_tuning import FullFineTuning, Settings

    trainer = FullFineTuning(DEMO_REVIEWS, METRIC)
    runs = {}
    for dropout, rate in itertools.product(_DROPOUT_RATES, _LEARNING_RATES):
        settings = Settings(rate, dropout)
        runs[settings] = trainer.train(settings, SEEDS[0])
        console.print(settings, f"step {runs[settings].step}, {runs[settings].validation:.4f}")
    chosen = max(runs, key=lambda settings: runs[settings].validation)
    best = [runs[chosen], *(trainer.train(chosen, seed) for seed in SEEDS[1:])]
    result = Baseline(
        name="full fine-tuning",
        seeds=list(SEEDS),
        held_out=[round(trainer.held_out(one), 4) for one in best],
        validation=[round(one.validation, 4) for one in best],
        settings={**dataclasses.asdict(chosen), "steps": [one.step for one in best]},
        tried=[
            {
                **dataclasses.asdict(settings),
                "steps": run.step,
                "validation": round(run.validation, 4),
            }
            for settings, run in runs.items()
        ],
    )
    console.print(result)
    return result


def _word_counts(console: rich.console.Console) -> Baseline:
    from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS
    from prompt_tuning_demo.word_counts import Settings, WordCounts

    trainer = WordCounts(DEMO_REVIEWS)
    runs = {}
    for choice in itertools.product(_LONGEST_WORDS, _FEWEST_TEXTS, _INVERSE_STRENGTHS):
        classifier = trainer.train(Settings(*choice))
        runs[Settings(*choice)] = classifier, trainer.score(classifier, "validation")
    chosen = max(runs, key=lambda settings: runs[settings][1])
    classifier, validation = runs[chosen]
    result = Baseline(
        name="TF-IDF + logistic regression",
        seeds=[],
        held_out=[round(trainer.score(classifier, "test"), 4)],
        validation=[round(validation, 4)],
        settings=dataclasses.asdict(chosen),
        tried=[
            {**dataclasses.asdict(settings), "validation": round(value, 4)}
            for settings, (_, value) in runs.items()
        ],
    )
    console.print(result)
    return result


def main(arguments: Sequence[str]) -> None:
    """Runs the command line with `arguments`."""
    parser = argparse.ArgumentParser(
        prog="python -m prompt_tuning_demo.baselines",
        description="Measures full fine-tuning and TF-IDF with logistic regression.",
    )
    parser.add_argument(
        "--output", type=Path, default=FILE, help="the file to write; default: in the package"
    )
    output = parser.parse_args(arguments).output
    prompt_files.write_json(output, dataclasses.asdict(measure(rich.console.Console())))


if __name__ == "__main__":
    scripts.run("baselines", main)
