"""Writes the metrics and the predictions of an evaluation, in `eval` and while training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prompt_tuning_engine_local.runs.evaluation import Evaluation
from prompt_tuning_files import prompt_files, strict_json


def write(directory: Path, split: str, result: Evaluation) -> None:
    """Writes `TASK-SPLIT-predictions.jsonl` and `TASK-SPLIT-metrics.json`, each atomically.

    A line of predictions has `inputs`, `targets`, `prediction`, `score` if there are scores, and
    the other columns of the evaluation.
    """
    task = result.task_name
    rows: list[dict[str, object]] = [
        {"inputs": example.inputs, "targets": example.targets, "prediction": prediction}
        for example, prediction in zip(result.examples, result.predictions, strict=True)
    ]
    for row, score in zip(rows, result.scores or (), strict=False):
        row["score"] = score
    for row, columns in zip(rows, result.columns, strict=False):
        row.update(columns)
    with prompt_files.atomic_write(directory / f"{task}-{split}-predictions.jsonl") as file:
        file.writelines(map(line, rows))
    prompt_files.write_json(
        directory / f"{task}-{split}-metrics.json",
        {"task": task, "split": split, "examples": len(result.examples), **result.metrics},
    )


def line(row: Mapping[str, object]) -> bytes:
    """Returns a line of a `.jsonl` file."""
    return f"{strict_json.dumps(row)}\n".encode()
