"""Trains the demo's prompt from each initializer, and compares the results.

`python -m prompt_tuning_demo.compare_initializers OUT_DIR` runs `prompt-tuning train` for each
initializer and seed, with the settings of `runs/demo.gin` and the initializer's file of `prompts/`,
below OUT_DIR. The results go to `initializers.json` in this package and, as a table, to
the terminal. `init_file` starts from a prompt trained for the second task of the demo.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import rich.console

from prompt_tuning_core.errors import InputError
from prompt_tuning_demo import scripts
from prompt_tuning_files import prompt_files

FILE = Path(__file__).with_name("initializers.json")
METRIC = "exact_match"
SEEDS = (0, 1, 2)
STEPS = 300

LEVEL = 0.7
"""A level of the validation metric. A fast run reaches this level early."""

_EVAL_PERIOD = 25
OTHER_TASK = "plot_or_review"
"""Folder of the run for the second task."""

# The gin files sample from 5,000 embeddings, but the demo's vocabulary has 3,996 pieces.
_POPULATION = "prompt_init/plugins.init_vocab.population_size = 3996"
_VERSIONS_OF = ("prompt-tuning-core", "prompt-tuning-engine-local", "prompt-tuning-demo", "jax")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way to start a prompt.

    Attributes:
      gin_file: The gin file of the initializer.
      bindings: Additional gin bindings.
    """

    gin_file: str
    bindings: tuple[str, ...] = ()


SCHEMES = {
    "init_random": Scheme("prompts/from_random_uniform.gin"),
    "init_vocab": Scheme("prompts/from_sampled_vocab.gin", (_POPULATION,)),
    "init_labels": Scheme("prompts/from_class_labels.gin", (_POPULATION,)),
    "init_string": Scheme("prompts/from_string.gin", (_POPULATION,)),
    "init_file": Scheme("prompts/from_file.gin", (f"PROMPT_FILE = '{OTHER_TASK}'",)),
}


@dataclasses.dataclass(frozen=True)
class Compared:
    """The results of one initializer; each list of values has the order of the seeds.

    Attributes:
      initializer: Its name.
      gin_file: The file that names it.
      untrained: The metric on the validation films before the first step.
      validation: The metric on the validation films after the last step.
      held_out: The metric on the held-out films after the last step.
      steps_to_level: The first evaluated step at which the validation metric was at least `LEVEL`;
        None if it never was.
    """

    initializer: str
    gin_file: str
    untrained: list[float]
    validation: list[float]
    held_out: list[float]
    steps_to_level: list[int | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The content of `initializers.json`.

    Attributes:
      made_by: The command that made it.
      date: The day, in UTC.
      task: The task.
      metric: Its metric.
      seeds: The seeds.
      steps: Steps of training.
      level: See `LEVEL`.
      base_sha256: Checksum of the frozen model's file.
      versions: Versions of the packages that the numbers depend on.
      initializers: The results, one for each initializer.
    """

    made_by: str
    date: str
    task: str
    metric: str
    seeds: list[int]
    steps: int
    level: float
    base_sha256: str
    versions: dict[str, str]
    initializers: list[Compared]


def read(file: Path = FILE) -> Comparison:
    """Reads the comparison."""
    content = json.loads(file.read_text(encoding="utf-8"))
    initializers = [Compared(**one) for one in content.pop("initializers")]
    return Comparison(**content, initializers=initializers)


def compare(directory: Path, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> Comparison:
    """Trains from each initializer, and scores the prompts.

    Args:
      directory: The folder for the runs; a finished run in it is not repeated.
      seeds: The seeds.
      steps: Steps of training.

    Raises:
      InputError: If a run fails; its own message is on the terminal.
    """
    from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS
    from prompt_tuning_demo.held_out import HeldOut

    directory.mkdir(parents=True, exist_ok=True)
    _train(directory, OTHER_TASK, "--gin_file=runs/demo_plot_or_review.gin", _seed(seeds[0]))
    scorer = HeldOut()
    compared = []
    for name, scheme in SCHEMES.items():
        histories, held_out = [], []
        for seed in seeds:
            run = f"{name}_{seed}"
            _train(
                directory,
                run,
                "--gin_file=runs/demo.gin",
                f"--gin_file={scheme.gin_file}",
                *(f"--gin.{binding}" for binding in scheme.bindings),
                f"--gin.TRAIN_STEPS={steps}",
                f"--gin.EVAL_PERIOD={_EVAL_PERIOD}",
                _seed(seed),
            )
            histories.append(_validation(directory / run))
            prompt = directory / run / prompt_files.name_at(steps)
            held_out.append(round(scorer.score(prompt, DEMO_REVIEWS, METRIC), 4))
        compared.append(
            Compared(
                initializer=name,
                gin_file=scheme.gin_file,
                untrained=[round(history[0], 4) for history in histories],
                validation=[round(history[steps], 4) for history in histories],
                held_out=held_out,
                steps_to_level=[
                    next((step for step, value in history.items() if value >= LEVEL), None)
                    for history in histories
                ],
            )
        )
    return Comparison(
        task=DEMO_REVIEWS.name,
        metric=METRIC,
        seeds=list(seeds),
        steps=steps,
        level=LEVEL,
        initializers=compared,
        **scripts.facts("compare_initializers", _VERSIONS_OF),
    )


def markdown(comparison: Comparison) -> str:
    """Returns the table for the documentation: means, with minimum and maximum."""
    lines = [
        f"| initializer | held-out, mean | spread | validation, mean | untrained, mean | "
        f"steps to {comparison.level} |",
        "|---|---|---|---|---|---|",
    ]
    for one in comparison.initializers:
        steps = ", ".join("never" if step is None else str(step) for step in one.steps_to_level)
        cells = [
            f"`{one.initializer}`",
            f"{statistics.fmean(one.held_out):.3f}",
            f"{min(one.held_out):.3f} to {max(one.held_out):.3f}",
            f"{statistics.fmean(one.validation):.3f}",
            f"{statistics.fmean(one.untrained):.3f}",
            steps,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seed(seed: int) -> str:
    return f"--gin.RANDOM_SEED={seed}"


def _train(directory: Path, run: str, *flags: str) -> None:
    command = ["train", *flags, f"--gin.MODEL_DIR='{run}'", "--gin.HOOKS=()"]
    finished = subprocess.run(
        [sys.executable, "-m", "prompt_tuning_core", *command], cwd=directory, check=False
    )
    if finished.returncode:
        raise InputError(f"the run in {directory / run} failed: prompt-tuning {' '.join(command)}")


def _validation(run: Path) -> dict[int, float]:
    """Returns the metric on the validation films by step, as the run wrote it."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["step"]: row[f"eval/{METRIC}"] for row in rows if f"eval/{METRIC}" in row}


def main(arguments: Sequence[str]) -> None:
    """Runs the command line with `arguments`."""
    parser = argparse.ArgumentParser(
        prog="python -m prompt_tuning_demo.compare_initializers",
        description="Trains the demo's prompt from each initializer, with three seeds.",
    )
    parser.add_argument("out_dir", type=Path, help="the folder for the runs")
    parser.add_argument(
        "--output", type=Path, default=FILE, help="the file to write; default: in the package"
    )
    options = parser.parse_args(arguments)
    comparison = compare(options.out_dir)
    prompt_files.write_json(options.output, dataclasses.asdict(comparison))
    rich.console.Console().print(markdown(comparison), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    scripts.run("compare_initializers", main)
