"""Prints the demo's tables: scores of a prompt on sentences about films not used for training.

This is a hooks plugin; a run uses it with `HOOKS = ['demo_table']`. All choices are made on the
validation split. The held-out split `test` is read once, when the run has finished.

`python -m prompt_tuning_demo.demo_table DIRECTORY` prints the tables of all runs below a directory,
with the runs of one task side by side. It also scores each task's prompt on the other task.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.hookspecs import hookimpl
from prompt_tuning_demo import baselines, scripts
from prompt_tuning_demo.demo_tasks import DEMO_PLOT_OR_REVIEW, DEMO_REVIEWS
from prompt_tuning_demo.held_out import HeldOut
from prompt_tuning_demo.prefixes import PLOT_OR_REVIEW_PREFIX, SENTIMENT
from prompt_tuning_engine_local.runs.reporting import table
from prompt_tuning_engine_local.runs.training import TrainingRun
from prompt_tuning_files import prompt_files
from prompt_tuning_tasks import Example, TextTask

FILE_NAME = "held_out.json"
METRIC = "exact_match"
BARE, UNTRAINED, TRAINED = "frozen model, no prompt", "untrained prompt", "trained prompt"

TASKS = {task.name: task for task in (DEMO_REVIEWS, DEMO_PLOT_OR_REVIEW)}
# The prefixes of each task in pretraining.
PREFIXES = {DEMO_REVIEWS.name: SENTIMENT, DEMO_PLOT_OR_REVIEW.name: (PLOT_OR_REVIEW_PREFIX,)}


@hookimpl
def run_finished(run: TrainingRun) -> None:
    """Scores the prompt and its baselines, and writes and prints the table."""
    task = run.task
    if not isinstance(task, TextTask) or task.name not in TASKS:
        raise InputError(
            f"demo_table compares prompts for {' and '.join(TASKS)}, and the run trained one "
            f"for {task.name!r}"
        )
    held_out = task.examples("test")
    validation = task.examples("validation")
    labels = [example.targets for example in task.examples("train")]
    majority = collections.Counter(labels).most_common(1)[0][0]

    def score(examples: Sequence[Example], prompt: Any, split: str) -> float:
        return run.predictor.evaluate_examples(task, examples, prompt, split).metrics[METRIC]

    on_validation = {
        prefix: score(_told(validation, prefix), None, "validation")
        for prefix in PREFIXES[task.name]
    }
    best = max(on_validation, key=lambda prefix: on_validation[prefix])
    rows = {
        f"always {majority!r}": sum(e.targets == majority for e in held_out) / len(held_out),
        BARE: score(held_out, None, "test"),
        UNTRAINED: score(held_out, run.initial_prompt, "test"),
        f"best text prefix, {best!r}": score(_told(held_out, best), None, "test"),
        TRAINED: score(held_out, run.prompt, "test"),
    }
    prompt_files.write_json(
        run.directory / FILE_NAME,
        {
            "task": task.name,
            "split": "test",
            "examples": len(held_out),
            "metric": METRIC,
            "seed": run.seed,
            "prompt": run.prompt_path.name,
            "rows": rows,
            "prefixes_on_validation": on_validation,
        },
    )
    show([run.directory / FILE_NAME], run.console)


def show(files: Sequence[Path], console: rich.console.Console) -> None:
    """Prints the tables of several runs for one task: a column for each run, and their mean.

    Below the runs are the baselines that were measured once for this task (`baselines.json`). The
    result of a seed is in the column of that seed. The mean is over all measured seeds.
    """
    results = [json.loads(file.read_text()) for file in files]
    first = results[0]
    measured = baselines.read()
    compared = measured.baselines if measured.task == first["task"] else []
    with_mean = len(results) > 1 or bool(compared)
    names = list(dict.fromkeys(name for result in results for name in result["rows"]))
    rows = []
    for name in names:
        values = [result["rows"].get(name) for result in results]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known)
        rows.append([name, *map(_cell, [*values, mean] if with_mean else values)])
    columns = [
        f"exact match on {first['examples']} held-out sentences",
        *(f"seed {result['seed']}" for result in results),
        *(["mean"] if with_mean else []),
    ]
    shown = table("", columns, rows)
    if compared:
        shown.add_section()
    for one in compared:
        by_seed = [one.of_seed(result["seed"]) for result in results]
        shown.add_row(f"{one.name} *", *map(_cell, by_seed), _cell(one.mean))
    console.print(shown)
    if compared:
        console.print(
            f"* Measured once, on {measured.date}, by {measured.made_by}; not run now.",
            highlight=False,
            soft_wrap=True,
        )
    error = math.sqrt(0.25 / first["examples"])
    console.print(
        f"Sentences about films that are in no training text; standard error at most {error:.3f}.",
        highlight=False,
        soft_wrap=True,
    )


def show_swapped(files: Sequence[Path], console: rich.console.Console) -> None:
    """Prints the scores of one prompt of each task on every task, with the same frozen model."""
    scorer = HeldOut()
    results = [json.loads(file.read_text()) for file in files]
    names = [result["task"] for result in results]
    rows = [
        [row, *(_cell(result["rows"].get(row)) for result in results)] for row in (BARE, UNTRAINED)
    ]
    for file, result in zip(files, results, strict=True):
        scores = [
            result["rows"][TRAINED]
            if name == result["task"]
            else scorer.score(file.with_name(result["prompt"]), TASKS[name], METRIC)
            for name in names
        ]
        row = f"prompt for {result['task']}, seed {result['seed']}"
        rows.append([row, *map(_cell, scores)])
    console.print(table("", ["exact match on held-out sentences", *names], rows))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _told(examples: Sequence[Example], prefix: str) -> list[Example]:
    return [Example(prefix + example.inputs, example.targets) for example in examples]


def main(arguments: Sequence[str]) -> None:
    """Prints the tables of the runs below the directory named in `arguments`.

    Raises:
      InputError: If there are none.
    """
    directory = Path(arguments[0]) if len(arguments) == 1 else None
    files = sorted(directory.rglob(FILE_NAME)) if directory else []
    if not files:
        raise InputError(f"usage: demo_table DIRECTORY, one that holds {FILE_NAME}")
    by_task: dict[str, list[Path]] = {}
    for file in files:
        by_task.setdefault(json.loads(file.read_text())["task"], []).append(file)
    console = rich.console.Console()
    groups = {task: by_task[task] for task in TASKS if task in by_task}
    for task, group in groups.items():
        console.print(f"{task}:", highlight=False)
        show(group, console)
    if len(groups) > 1:
        console.print("One frozen model, a prompt for each task:")
        show_swapped([group[0] for group in groups.values()], console)


if __name__ == "__main__":
    scripts.run("demo_table", main)
