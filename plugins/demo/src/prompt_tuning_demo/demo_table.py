"""The demo's table: what a prompt does for reviews of films that nobody has trained on.

A hooks plugin that a run asks for with `HOOKS = ['demo_table']`. Everything is chosen on the
validation split; the held-out split `test` is read once, when the run has finished.

`python -m prompt_tuning_demo.demo_table DIRECTORY` prints the tables of all runs below a directory
side by side.
"""

from __future__ import annotations

import collections
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console

from prompt_tuning_core import prompt_files
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.hookspecs import hookimpl
from prompt_tuning_core.tasks import Example, TextTask
from prompt_tuning_demo.prefixes import SENTIMENT
from prompt_tuning_engine_local.reporting import table
from prompt_tuning_engine_local.training import TrainingRun

FILE_NAME = "held_out.json"
METRIC = "exact_match"


@hookimpl
def run_finished(run: TrainingRun) -> None:
    """Scores what the prompt is to be compared with, and writes and prints the table."""
    task = run.task
    if not isinstance(task, TextTask):
        raise InputError(f"demo_table compares prompts of one task, and {task.name!r} is a mixture")
    held_out = task.examples("test")
    validation = task.examples("validation")
    labels = [example.targets for example in task.examples("train")]
    majority = collections.Counter(labels).most_common(1)[0][0]

    def score(examples: Sequence[Example], prompt: Any, split: str) -> float:
        return run.predictor.evaluate_examples(task, examples, prompt, split).metrics[METRIC]

    on_validation = {
        prefix: score(_told(validation, prefix), None, "validation") for prefix in SENTIMENT
    }
    best = max(on_validation, key=lambda prefix: on_validation[prefix])
    rows = {
        f"always {majority!r}": sum(e.targets == majority for e in held_out) / len(held_out),
        "frozen model, no prompt": score(held_out, None, "test"),
        "untrained prompt": score(held_out, run.initial_prompt, "test"),
        f"best text prefix, {best!r}": score(_told(held_out, best), None, "test"),
        "trained prompt": score(held_out, run.prompt, "test"),
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
    """Prints the tables of several runs, a column a run, and their mean."""
    results = [json.loads(file.read_text()) for file in files]
    names = list(dict.fromkeys(name for result in results for name in result["rows"]))
    several = len(results) > 1
    rows = []
    for name in names:
        values = [result["rows"].get(name) for result in results]
        known = [value for value in values if value is not None]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        rows.append([name, *cells, *([f"{sum(known) / len(known):.3f}"] if several else [])])
    first = results[0]
    error = math.sqrt(0.25 / first["examples"])
    columns = [
        f"exact match on {first['examples']} held-out sentences",
        *(f"seed {result['seed']}" for result in results),
        *(["mean"] if several else []),
    ]
    console.print(table("", columns, rows))
    console.print(
        f"Sentences about films that are in no training text; standard error at most {error:.3f}.",
        highlight=False,
        soft_wrap=True,
    )


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
    show(files, rich.console.Console())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"demo_table: error: {error}")
