"""Evaluates a prompt on a task's split, and answers the texts of a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import rich.console

import prompt_tuning_tasks as tasks
from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import engine_task, find_task
from prompt_tuning_engine_local.model import model_files
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs import reporting
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Evaluation, Predictor, metrics_of
from prompt_tuning_files import prompt_files, trained_prompts
from prompt_tuning_tasks import Mixture, TextTask
from prompt_tuning_tasks.feature_lengths import FeatureLengths


def evaluate(
    model: EncoderDecoderModel,
    checkpoint_path: str,
    output_dir: str,
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    mixture_or_task_module: str | None = None,
    prompt_file: str | None = None,
    split: str = "test",
    batch_size: int = 32,
    num_devices: int | None = None,
    bucketing: bool = True,
    strict_lengths: bool = False,
    hooks: Sequence[str] = (),
    extra_hooks: Sequence[str] = (),
) -> dict[str, float]:
    """Scores a prompt on a split, and writes the metrics and the predictions.

    The files are `TASK-SPLIT-metrics.json` and `TASK-SPLIT-predictions.jsonl`, for each task of a
    mixture. The prompt is what PROMPT makes: with `prompts/from_file.gin`, the one in PROMPT_FILE.

    Args:
      model: The model, with its prompt module (MODEL).
      checkpoint_path: The frozen model's file or directory (CHECKPOINT_PATH).
      output_dir: Where to write (EVAL_OUTPUT_DIR).
      mixture_or_task_name: The task or mixture (MIXTURE_OR_TASK_NAME).
      task_feature_lengths: The most ids of "inputs" and "targets" (TASK_FEATURE_LENGTHS).
      mixture_or_task_module: A tasks plugin or a module, imported first (MIXTURE_OR_TASK_MODULE).
      prompt_file: Where the prompt is from, to tell hooks its step; None has them told the frozen
        model's (PROMPT_FILE).
      split: The split (EVAL_SPLIT).
      batch_size: Examples decoded at once (BATCH_SIZE).
      num_devices: How many local devices share a batch; None for all of JAX's default backend
        (NUM_DEVICES).
      bucketing: Whether texts of similar length are decoded together, padded no further than they
        need; otherwise all are padded to `task_feature_lengths` (BUCKETING).
      strict_lengths: Whether a text that is longer than `task_feature_lengths` is an error;
        otherwise it is cut, and that is said (STRICT_LENGTHS).
      hooks: Names of hooks plugins (HOOKS).
      extra_hooks: More of them, from the command line.

    Returns:
      The metrics by name; those of a mixture are named `TASK/METRIC`.

    Raises:
      PromptTuningError: If something given cannot be used; nothing is written then.
    """
    hook = registry.process_registry().load_hooks([*hooks, *extra_hooks])
    task = find_task.find(mixture_or_task_name, mixture_or_task_module)
    saved = None if prompt_file is None else trained_prompts.find(prompt_file)
    predictor, prompt, step = _predictor(
        model,
        checkpoint_path,
        task_feature_lengths,
        batch_size,
        num_devices,
        bucketing,
        strict_lengths,
    )
    prepared = [predictor.prepare(component, split) for component in task.components(split)]
    results = [predictor.evaluate_prepared(one, prompt) for one in prepared]
    metrics = metrics_of(task, results)
    if saved is not None and saved.step is not None:
        step = saved.step
    hook.evaluated(step=step, metrics=metrics)

    for result in results:
        _write_evaluation(Path(output_dir).expanduser(), split, result)
    return metrics


def infer(
    model: EncoderDecoderModel,
    checkpoint_path: str,
    output_dir: str,
    input_file: str,
    task_feature_lengths: Mapping[str, int],
    mixture_or_task_name: str | None = None,
    mixture_or_task_module: str | None = None,
    batch_size: int = 32,
    num_devices: int | None = None,
    bucketing: bool = True,
    strict_lengths: bool = False,
    hooks: Sequence[str] = (),
    extra_hooks: Sequence[str] = (),
) -> Path:
    """Answers each text of a file; writes `NAME-predictions.jsonl`, a line a text, in order.

    What the file may be, `prompt_tuning_tasks.read_inputs` says; without a task, a text is
    taken as it is, or from the column "inputs".

    Args:
      model: The model, with its prompt module (MODEL).
      checkpoint_path: The frozen model's file or directory (CHECKPOINT_PATH).
      output_dir: Where to write (INFER_OUTPUT_DIR).
      input_file: What to read (INFER_INPUT_FILE).
      task_feature_lengths: The most ids of "inputs" and "targets" (TASK_FEATURE_LENGTHS).
      mixture_or_task_name: The task whose template to use, or None (MIXTURE_OR_TASK_NAME).
      mixture_or_task_module: A tasks plugin or a module, imported first (MIXTURE_OR_TASK_MODULE).
      batch_size: Texts decoded at once (BATCH_SIZE).
      num_devices: How many local devices share a batch; None for all of JAX's default backend
        (NUM_DEVICES).
      bucketing: As in `evaluate` (BUCKETING).
      strict_lengths: As in `evaluate` (STRICT_LENGTHS).
      hooks: Names of hooks plugins (HOOKS).
      extra_hooks: More of them, from the command line.

    Returns:
      The file written.

    Raises:
      PromptTuningError: If something given cannot be used; nothing is written then.
    """
    registry.process_registry().load_hooks([*hooks, *extra_hooks])
    task = TextTask("infer", {})
    if mixture_or_task_name is not None:
        task = _with_a_template(find_task.find(mixture_or_task_name, mixture_or_task_module))
    source = Path(input_file).expanduser()
    texts = tasks.read_inputs(source, task)
    predictor, prompt, _ = _predictor(
        model,
        checkpoint_path,
        task_feature_lengths,
        batch_size,
        num_devices,
        bucketing,
        strict_lengths,
    )
    answers = predictor.predict(texts, prompt, str(source))
    target = Path(output_dir).expanduser() / f"{tasks.stem(source)}-predictions.jsonl"
    _write_jsonl(
        target,
        ({"inputs": t.inputs, "prediction": a} for t, a in zip(texts, answers, strict=True)),
    )
    rich.console.Console().print(
        f"{len(texts)} predictions: {target}", highlight=False, soft_wrap=True
    )
    return target


def _with_a_template(task: engine_task.EngineTask) -> TextTask:
    """Returns the task, whose input template a text can fill."""
    if isinstance(task.source, TextTask | Mixture):
        return tasks.with_a_template(task.source)
    raise InputError(
        f"MIXTURE_OR_TASK_NAME {task.name!r} is seqio's, whose preprocessors make whole examples "
        "and have no input template; predict for one of its splits with `prompt-tuning eval`, or "
        "give the texts as the model is to read them, with MIXTURE_OR_TASK_NAME = None"
    )


def _predictor(
    model: EncoderDecoderModel,
    checkpoint_path: str,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    num_devices: int | None,
    bucketing: bool,
    strict_lengths: bool,
) -> tuple[Predictor, Params, int]:
    placement = Placement(num_devices)
    placement.check_batch_size(batch_size)
    lengths = FeatureLengths.of(task_feature_lengths)
    frozen = model_files.load(checkpoint_path, model.frozen_parameters, placement.everywhere)
    # A prompt from a file ignores the key; any other initializer gives an untrained prompt.
    prompt = model.init_prompt(jax.random.key(0))
    predictor = Predictor(
        model, frozen.params, lengths, batch_size, placement, bucketing, strict_lengths
    )
    return predictor, placement.everywhere(prompt), frozen.step


def _write_evaluation(directory: Path, split: str, result: Evaluation) -> None:
    """Writes the metrics and predictions of one task, and shows the metrics."""
    task = result.task_name
    rows: list[dict[str, object]] = [
        {"inputs": example.inputs, "targets": example.targets, "prediction": prediction}
        for example, prediction in zip(result.examples, result.predictions, strict=True)
    ]
    for row, score in zip(rows, result.scores or (), strict=False):
        row["score"] = score
    _write_jsonl(directory / f"{task}-{split}-predictions.jsonl", rows)
    prompt_files.write_json(
        directory / f"{task}-{split}-metrics.json",
        {"task": task, "split": split, "examples": len(result.examples), **result.metrics},
    )
    rich.console.Console().print(
        reporting.table(
            "", [f"{task}, {split}", *result.metrics],
            [[f"{len(result.examples)} examples", *(f"{v:.4f}" for v in result.metrics.values())]],
        )
    )  # fmt: skip


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with prompt_files.atomic_write(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
