"""Trains a prompt on one machine."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import rich.console

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_core.prompts import check_is_plain
from prompt_tuning_engine_local.data import batching, engine_task, find_task
from prompt_tuning_engine_local.model import model_files, optimizers, prompted_model
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs import (
    devices,
    interruptions,
    reporting,
    resuming,
    run_facts,
    state_store,
)
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor, metrics_of
from prompt_tuning_engine_local.runs.state_store import TrainingState
from prompt_tuning_files import prompt_files
from prompt_tuning_tasks.feature_lengths import FeatureLengths

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
      task: The task or mixture: of `prompt_tuning_tasks`, or seqio's own.
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
    task: Any
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
    keep_checkpoints: int | None = None,
    best_metric: str | None = None,
    mixture_or_task_module: str | None = None,
    random_seed: int | None = None,
    num_devices: int | None = None,
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
    before the first step, at every save and at the end, `metrics.jsonl`, TensorBoard's files in
    `tensorboard`, and `curves.png`. The same call again goes on exactly where the last save was,
    with the same result as if it had never stopped; `total_steps` may be raised.

    Args:
      model: The model, with its prompt module (MODEL).
      model_dir: Where to write; may hold this same run, unfinished (MODEL_DIR).
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
      save_period: Steps between saves (SAVE_PERIOD).
      keep_checkpoints: How many prompts and states to keep, the newest; None keeps every prompt.
        States are kept for going on, two of them at least and as many as this says
        (KEEP_CHECKPOINTS).
      best_metric: The metric whose highest value decides which prompt is kept besides, as
        `best_prompt.npy`; None for none (BEST_METRIC).
      mixture_or_task_module: A tasks plugin or a module, imported first; it registers tasks
        (MIXTURE_OR_TASK_MODULE).
      random_seed: Determines initial values, order and dropout; None draws one (RANDOM_SEED).
      num_devices: How many local devices share a batch; None for all of JAX's default backend
        (NUM_DEVICES).
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
      PromptTuningError: If something given cannot be used, or the directory holds another run;
        nothing is written then.
      KeyboardInterrupt: If the run was interrupted; its state has been saved.
    """
    if pack:
        raise InputError("PACK is True, and prompt tuning does not support packed examples")
    for name, value in [
        ("EVAL_PERIOD", eval_period), ("SAVE_PERIOD", save_period),
        ("KEEP_CHECKPOINTS", 1 if keep_checkpoints is None else keep_checkpoints),
    ]:  # fmt: skip
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}, expected a whole number of at least 1")
    if random_seed is not None and random_seed not in range(2**32):
        raise InputError(
            f"RANDOM_SEED is {random_seed!r}, expected a whole number from 0 to {2**32 - 1}, or "
            "None to draw one"
        )
    check_is_plain(model.prompt)
    placement = Placement(num_devices)
    placement.check_batch_size(batch_size)
    directory = _usable_directory(model_dir)
    earlier = state_store.read_run(directory)
    hook = registry.process_registry().load_hooks([*hooks, *extra_hooks])
    lengths = FeatureLengths.of(task_feature_lengths)
    task = find_task.find(mixture_or_task_name, mixture_or_task_module)
    frozen = model_files.load(
        initial_checkpoint_path, model.frozen_parameters, placement.everywhere
    )
    first = frozen.step
    last = first + relative_steps if relative_steps else total_steps
    if not isinstance(last, int) or last < first:
        raise InputError(
            f"TRAIN_STEPS is {last!r}, expected a whole number of at least {first}: the step to "
            f"stop at, counted from the loaded model's step {first}"
        )
    if random_seed is None:
        random_seed = secrets.randbits(31) if earlier is None else earlier["seed"]
    init_rng, dropout_rng = jax.random.split(jax.random.key(random_seed))

    prompt: Params = model.init_prompt(init_rng)
    # Copied, since the training step reuses the parameters' memory.
    initial_prompt = {name: np.array(leaf) for name, leaf in prompt.items()}
    if not np.isfinite(prompted_model.prompt_matrix(initial_prompt)).all():
        raise InputError(
            "the initial prompt has values that are not finite; set another initializer, with a "
            "file of prompts/ for example"
        )
    reading = engine_task.Reading(model.vocabulary, lengths, strict_lengths, random_seed)
    components = find_task.drawn_from(task, train_split)
    train_examples = [component.read(train_split, reading).tokenized for component, _ in components]
    predictor = Predictor(
        model, frozen.params, lengths, batch_size, placement, bucketing, strict_lengths
    )
    eval_sets = [
        predictor.prepare(component, eval_split) for component in task.components(eval_split)
    ]

    facts = run_facts.describe_run(
        model,
        frozen,
        task.name,
        mixture_or_task_module,
        lengths,
        random_seed,
        batching.checksum(train_examples),
    )
    if earlier is not None:
        resuming.check_same_run(directory, earlier, facts)
    console = rich.console.Console()
    state = TrainingState(first, prompt, optimizers.start_at(optimizer.init(prompt), first), {})
    batches = batching.training_batches(
        train_examples, lengths, batch_size, random_seed, [rate for _, rate in components],
        shuffle, bucketing, target_bucketing=not model.counts_padding,
    )  # fmt: skip

    with (
        state_store.lock(directory),
        contextlib.closing(state_store.StateStore(directory, keep_checkpoints or 2)) as store,
    ):
        if state_store.read_run(directory) != earlier:
            raise InputError(
                f"MODEL_DIR {directory}: another run has begun there in the meantime; give another "
                "directory"
            )
        prompt_files.remove_leftovers(directory)
        resumed = store.newest(like=state)
        if resumed is None:
            # The seed must be known before anything depends on it.
            prompt_files.write_json(directory / state_store.RUN_FILE, facts)
            hook.prompt_initialized(
                prompt=prompted_model.prompt_matrix(initial_prompt), provenance=facts
            )
        elif last < resumed.step:
            raise InputError(
                f"TRAIN_STEPS is {last}, and the run in {directory} has reached step "
                f"{resumed.step}; raise TRAIN_STEPS, or give another directory"
            )
        else:
            state = resumed
            batches.set_state(state.notes["data"])
            console.print(f"going on from step {state.step}", highlight=False)
        with prompt_files.atomic_write(directory / CONFIG_FILE) as file:
            file.write(facts["config"].encode())
        report = reporting.TrainingReport(
            directory, console, None if resumed is None else state.step
        )
        progress = _Progress(
            state=dataclasses.replace(
                state,
                prompt=placement.everywhere(state.prompt),
                optimizer=placement.everywhere(state.optimizer),
            ),
            directory=directory,
            facts=facts,
            store=store,
            report=report,
            hook=hook,
            batches=batches,
            evaluate_prompt=lambda prompt: metrics_of(
                task, [predictor.evaluate_prepared(one, prompt) for one in eval_sets]
            ),
            eval_split=eval_split,
            keep=keep_checkpoints,
            best_metric=best_metric,
        )
        step_fn = make_step(model, optimizer)
        try:
            if resumed is None:
                progress.evaluate()
                progress.save()
            with (
                interruptions.Interruptions() as interrupted,
                report.training(last - first, batch_size, done=state.step - first),
            ):
                for step in range(state.step + 1, last + 1):
                    progress.advance(
                        step,
                        *step_fn(
                            progress.prompt,
                            progress.optimizer,
                            frozen.params,
                            placement.split(next(batches)),
                            dropout_rng,
                            step,
                        ),
                    )
                    if step % eval_period == 0 or step == last:
                        progress.evaluate()
                    if step % save_period == 0 or step == last or interrupted.received:
                        progress.save()
                    if interrupted.received:
                        store.wait()
                        console.print(
                            f"stopped at step {step}; the same command goes on from there"
                        )
                        interrupted.stop()
            store.wait()
            report.close()
        except OSError as error:
            kept = prompt_files.newest(directory)
            raise InputError(
                f"MODEL_DIR {directory}: cannot be written to ({error.strerror or error}); "
                + (f"{kept.name} is whole; " if kept else "nothing was saved; ")
                + "make room, and the same command goes on from the last save"
            ) from error
        report.draw(directory / CURVES_FILE)
    path = directory / prompt_files.name_at(last)
    run = TrainingRun(
        directory, console, model, frozen, task.source, predictor, initial_prompt,
        {name: np.asarray(leaf) for name, leaf in progress.prompt.items()}, path, random_seed,
        report.history,
    )  # fmt: skip
    console.print(_summary(run, eval_split, first, last))
    console.print(f"prompt: {path}", highlight=False, soft_wrap=True)
    hook.run_finished(run=run)
    return run


class _Progress:
    """What a run has reached, and how it is evaluated and saved."""

    def __init__(
        self,
        state: TrainingState,
        directory: Path,
        facts: Mapping[str, Any],
        store: state_store.StateStore,
        report: reporting.TrainingReport,
        hook: Any,
        batches: Any,
        evaluate_prompt: Callable[[Params], Mapping[str, float]],
        eval_split: str,
        keep: int | None,
        best_metric: str | None,
    ) -> None:
        self.step = state.step
        self.prompt: Params = state.prompt
        self.optimizer = state.optimizer
        self._metrics: Mapping[str, float] = state.notes.get("metrics", {})
        self._best: float | None = state.notes.get("best")
        self._directory = directory
        self._facts = facts
        self._store = store
        self._report = report
        self._hook = hook
        self._batches = batches
        self._evaluate_prompt = evaluate_prompt
        self._eval_split = eval_split
        self._keep = keep
        self._best_metric = best_metric

    def advance(
        self, step: int, prompt: Params, optimizer: Any, metrics: Mapping[str, jax.Array]
    ) -> None:
        """Takes what a step made.

        Raises:
          InputError: If the loss is not finite; what was saved before stays.
        """
        values = {name: float(value) for name, value in metrics.items()}
        _check_finite(values["loss"], step, self._directory)
        self.step, self.prompt, self.optimizer = step, prompt, optimizer
        self._report.step(step, values)
        self._hook.step_logged(step=step, metrics=values)

    def evaluate(self) -> None:
        """Evaluates the prompt, and keeps it besides if it is the best so far."""
        self._metrics = self._evaluate_prompt(self.prompt)
        self._report.evaluation(self.step, self._metrics)
        if self._best_metric is not None:
            value = _chosen(self._metrics, self._best_metric)
            if self._best is None or value > self._best:
                self._best = value
                self._write_prompt(self._directory / prompt_files.BEST_FILE)
        self._hook.evaluated(step=self.step, metrics=dict(self._metrics))

    def save(self) -> None:
        """Writes the prompt, and the state in the background."""
        self._report.flush()
        path = self._directory / prompt_files.name_at(self.step)
        provenance = self._write_prompt(path)
        notes = {
            "data": self._batches.get_state(),
            "metrics": dict(self._metrics),
            "best": self._best,
        }
        self._store.save(TrainingState(self.step, self.prompt, self.optimizer, notes))
        for old in prompt_files.by_step(self._directory)[: -self._keep if self._keep else 0]:
            old.unlink(missing_ok=True)
            old.with_suffix(".json").unlink(missing_ok=True)
        self._hook.prompt_saved(path=path, provenance=provenance)

    def _write_prompt(self, path: Path) -> dict[str, Any]:
        provenance = {
            **self._facts,
            "step": self.step,
            "metrics": {self._eval_split: dict(self._metrics)},
        }
        prompt_files.save(path, prompted_model.prompt_matrix(self.prompt), provenance)
        return provenance


def make_step(
    model: EncoderDecoderModel, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, Any, dict[str, jax.Array]]]:
    """Returns the jitted training step; gradients exist for the prompt only."""
    dropout = model.config.dropout_rate > 0

    def step_fn(
        prompt: Params,
        state: Any,
        frozen: Params,
        batch: batching.Batch,
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

    return jax.jit(step_fn, donate_argnums=(0, 1), compiler_options=devices.compiler_options())


def _usable_directory(model_dir: str) -> Path:
    directory = Path(model_dir).expanduser()
    if not state_store.is_writable(directory):
        raise InputError(f"MODEL_DIR {directory} is not a directory that can be written to")
    prompt = prompt_files.newest(directory)
    if prompt is not None and not (directory / state_store.RUN_FILE).exists():
        raise InputError(
            f"MODEL_DIR {directory} holds {prompt.name} and no {state_store.RUN_FILE} that says "
            "which run made it; give another directory"
        )
    return directory


def _chosen(metrics: Mapping[str, float], name: str) -> float:
    try:
        return metrics[name]
    except KeyError:
        raise InputError(
            f"BEST_METRIC {name!r} is no metric here{nearest(name, metrics)}"
        ) from None


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
        if all(step in run.history[name] for name in names)
    ]
    columns = [f"{run.task.name}, {split}", *(n.removeprefix("eval/") for n in names)]
    return reporting.table("", columns, rows)
