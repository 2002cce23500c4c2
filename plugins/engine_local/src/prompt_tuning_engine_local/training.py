"""Trains a prompt on one machine."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import rich.console

from prompt_tuning_core import prompt_files, registry, tasks
from prompt_tuning_core.errors import InputError, PromptTuningError
from prompt_tuning_core.tasks import Task
from prompt_tuning_engine_local import data, model_files, models, provenance, reporting
from prompt_tuning_engine_local.evaluation import Predictor, metrics_of
from prompt_tuning_engine_local.models import EncoderDecoderModel, Params

CONFIG_FILE = "config.gin"
CURVES_FILE = "curves.png"


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A finished run, as hooks get it (`run_finished`).

    Attributes:
      directory: MODEL_DIR.
      console: Where the run writes.
      model: The model.
      frozen: The frozen model's file and parameters.
      task: The task or mixture.
      predictor: Answers texts with any prompt.
      initial_prompt: The prompt's parameters before training.
      prompt: The prompt's parameters at the end.
      prompt_path: The last prompt file.
      seed: The run's seed.
      history: For each metric its values by step; see `reporting.TrainingReport`.
    """

    directory: Path
    console: rich.console.Console
    model: EncoderDecoderModel
    frozen: model_files.FrozenModel
    task: Task
    predictor: Predictor
    initial_prompt: Params
    prompt: Params
    prompt_path: Path
    seed: int
    history: Mapping[str, Mapping[int, float]]


def train(
    model: EncoderDecoderModel,
    model_dir: str,
    initial_checkpoint_path: str,
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    total_steps: int | None,
    optimizer: optax.GradientTransformation,
    batch_size: int = 128,
    relative_steps: int | None = None,
    eval_period: int = 1000,
    save_period: int = 1000,
    mixture_or_task_module: str | None = None,
    random_seed: int | None = None,
    train_split: str = "train",
    eval_split: str = "validation",
    shuffle: bool = True,
    bucketing: bool = True,
    strict_lengths: bool = False,
    pack: bool = False,
    hooks: Sequence[str] = (),
    extra_hooks: Sequence[str] = (),
) -> TrainingRun:
    """Trains a prompt and writes it, with its provenance, to `model_dir`.

    The directory gets `config.gin` (the operative config), `prompt_STEP.npy` and `prompt_STEP.json`
    at every save and at the end, TensorBoard's files in `tensorboard`, and `curves.png`.

    Args:
      model: The model, with its prompt module (MODEL).
      model_dir: Where to write; must not hold a run yet (MODEL_DIR).
      initial_checkpoint_path: The frozen model's file or directory (INITIAL_CHECKPOINT_PATH).
      mixture_or_task_name: The task or mixture (MIXTURE_OR_TASK_NAME).
      task_feature_lengths: The most ids of "inputs" and "targets" (TASK_FEATURE_LENGTHS).
      total_steps: The step to stop at, counted from the step of the loaded model, which is 0 for a
        file that does not say (TRAIN_STEPS).
      optimizer: Trains the prompt (OPTIMIZER).
      batch_size: Examples a step (BATCH_SIZE).
      relative_steps: How many steps to take, instead of `total_steps` (TRAIN_STEPS_RELATIVE).
      eval_period: Steps between evaluations; there is one before the first step and one behind the
        last as well (EVAL_PERIOD).
      save_period: Steps between saves of the prompt (SAVE_PERIOD).
      mixture_or_task_module: A Python module to import first; it registers tasks
        (MIXTURE_OR_TASK_MODULE).
      random_seed: Determines initial values, order and dropout; None draws one (RANDOM_SEED).
      train_split: The split to train on.
      eval_split: The split to evaluate on.
      shuffle: Whether the examples are shuffled; otherwise they come in the files' order (SHUFFLE).
      bucketing: Whether examples of similar length share a batch and are padded no further than
        they need; otherwise all are padded to `task_feature_lengths` (BUCKETING).
      strict_lengths: Whether a text that is longer than `task_feature_lengths` is an error;
        otherwise it is cut, and that is said (STRICT_LENGTHS).
      pack: Must be False: prompt tuning does not support packed examples (PACK).
      hooks: Names of hooks plugins (HOOKS).
      extra_hooks: More of them, from the command line.

    Returns:
      The finished run.

    Raises:
      PromptTuningError: If something given cannot be used; nothing is written then.
    """
    if pack:
        raise InputError("PACK is True, and prompt tuning does not support packed examples")
    for name, value in [
        ("BATCH_SIZE", batch_size), ("EVAL_PERIOD", eval_period), ("SAVE_PERIOD", save_period)
    ]:  # fmt: skip
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}, expected a whole number of at least 1")
    if random_seed is not None and random_seed not in range(2**32):
        raise InputError(
            f"RANDOM_SEED is {random_seed!r}, expected a whole number from 0 to {2**32 - 1}, or "
            "None to draw one"
        )
    directory = _free_directory(model_dir)
    hook = registry.load_hooks([*hooks, *extra_hooks])
    lengths = data.FeatureLengths.of(task_feature_lengths)
    task = find_task(mixture_or_task_name, mixture_or_task_module)
    components = task.components
    frozen = model_files.load(initial_checkpoint_path, model.frozen_shapes)
    first = frozen.step
    last = first + relative_steps if relative_steps else total_steps
    if not isinstance(last, int) or last < first:
        raise InputError(
            f"TRAIN_STEPS is {last!r}, expected a whole number of at least {first}: the step to "
            f"stop at, counted from the loaded model's step {first}"
        )
    seed = secrets.randbits(31) if random_seed is None else random_seed
    init_rng, dropout_rng = jax.random.split(jax.random.key(seed))

    prompt: Params = model.init_prompt(init_rng)
    # Copied, since the training step reuses the parameters' memory.
    initial_prompt = {name: np.array(leaf) for name, leaf in prompt.items()}
    models.prompt_matrix(initial_prompt)
    train_examples = [
        data.tokenize(
            component.examples(train_split), model.vocabulary, lengths,
            f"task {component.name!r}, split {train_split!r}", strict_lengths,
        )
        for component, _ in components
    ]  # fmt: skip
    params = jax.device_put(dict(frozen.params))
    predictor = Predictor(model, params, lengths, batch_size, bucketing, strict_lengths)
    eval_sets = [predictor.prepare(component, eval_split) for component, _ in components]

    facts = provenance.describe_run(model, frozen, task.name, lengths, seed)
    hook.prompt_initialized(prompt=models.prompt_matrix(initial_prompt), provenance=facts)
    console = rich.console.Console()
    batches = data.training_batches(
        train_examples, lengths, batch_size, seed, [rate for _, rate in components],
        shuffle, bucketing, target_bucketing=not model.counts_padding,
    )  # fmt: skip
    step_fn = _make_step(model, optimizer)
    optimizer_state = optimizer.init(prompt)

    directory.mkdir(parents=True, exist_ok=True)
    prompt_files.remove_leftovers(directory)
    with prompt_files.atomic_write(directory / CONFIG_FILE) as file:
        file.write(facts["config"].encode())
    report = reporting.TrainingReport(directory / "tensorboard", console)
    metrics: dict[str, float] = {}

    def evaluate(step: int) -> None:
        metrics.clear()
        metrics.update(
            metrics_of(task, [predictor.evaluate_prepared(s, prompt) for s in eval_sets])
        )
        report.evaluation(step, metrics)
        hook.evaluated(step=step, metrics=dict(metrics))

    def save(step: int) -> Path:
        path = directory / prompt_files.name_at(step)
        saved = {**facts, "step": step, "metrics": {eval_split: dict(metrics)}}
        prompt_files.save(path, models.prompt_matrix(prompt), saved)
        hook.prompt_saved(path=path, provenance=saved)
        return path

    try:
        evaluate(first)
        with report.training(last - first, batch_size):
            for step in range(first + 1, last + 1):
                prompt, optimizer_state, step_metrics = step_fn(
                    prompt, optimizer_state, params, next(batches), dropout_rng, step
                )
                values = {name: float(value) for name, value in step_metrics.items()}
                _check_finite(values["loss"], step, directory)
                report.step(step, values)
                hook.step_logged(step=step, metrics=values)
                if step % eval_period == 0 and step != last:
                    evaluate(step)
                if step % save_period == 0 and step != last:
                    save(step)
        if last > first:
            evaluate(last)
        path = save(last)
    finally:
        report.close()
    report.draw(directory / CURVES_FILE)
    run = TrainingRun(
        directory, console, model, frozen, task, predictor, initial_prompt,
        {name: np.asarray(leaf) for name, leaf in prompt.items()}, path, seed, report.history,
    )  # fmt: skip
    console.print(_summary(run, eval_split, first, last))
    console.print(f"prompt: {path}", highlight=False, soft_wrap=True)
    hook.run_finished(run=run)
    return run


def find_task(name: str, module: str | None) -> Task:
    """Returns a task or mixture by name, after importing the module that may register it.

    Raises:
      InputError: If the module fails to import or there is no such task.
    """
    if module:
        try:
            importlib.import_module(module)
        except PromptTuningError:
            raise
        except Exception as e:  # a module may raise anything while it is imported
            raise InputError(
                f"MIXTURE_OR_TASK_MODULE {module!r} fails to import: {type(e).__name__}: {e}"
            ) from e
    return tasks.get(name)


def _make_step(
    model: EncoderDecoderModel, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, Any, dict[str, jax.Array]]]:
    """Returns the jitted training step; gradients exist for the prompt only."""
    dropout = model.config.dropout_rate > 0

    def step_fn(
        prompt: Params,
        state: Any,
        frozen: Params,
        batch: data.Batch,
        dropout_rng: jax.Array,
        step: int,
    ) -> tuple[Params, Any, dict[str, jax.Array]]:
        rng = jax.random.fold_in(dropout_rng, step) if dropout else None
        (loss, per_token), gradient = jax.value_and_grad(model.loss, has_aux=True)(
            prompt, frozen, batch, rng
        )
        updates, state = optimizer.update(gradient, state, prompt)
        prompt = optax.apply_updates(prompt, updates)
        return prompt, state, {"loss": loss, reporting.LOSS: per_token}

    return jax.jit(step_fn, donate_argnums=(0, 1))


def _free_directory(model_dir: str) -> Path:
    directory = Path(model_dir).expanduser()
    if (directory / CONFIG_FILE).exists() or prompt_files.newest(directory) is not None:
        raise InputError(
            f"MODEL_DIR {directory} already holds a run; give another directory, or remove it"
        )
    if directory.exists() and not (directory.is_dir() and os.access(directory, os.W_OK)):
        raise InputError(f"MODEL_DIR {directory} is not a directory that can be written to")
    return directory


def _check_finite(loss: float, step: int, directory: Path) -> None:
    if not math.isfinite(loss):
        kept = prompt_files.newest(directory)
        raise InputError(
            f"the loss is {loss} at step {step}; "
            + (f"the last prompt saved is {kept}" if kept else "no prompt was saved")
            + "; lower the learning rate"
        )


def _summary(run: TrainingRun, split: str, first: int, last: int) -> Any:
    names = [name for name in run.history if name.startswith("eval/")]
    rows = [
        [f"step {step}", *(f"{run.history[name][step]:.4f}" for name in names)]
        for step in dict.fromkeys((first, last))
    ]
    columns = [f"{run.task.name}, {split}", *(n.removeprefix("eval/") for n in names)]
    return reporting.table("", columns, rows)
