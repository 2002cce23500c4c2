"""Trains a prompt on one machine."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.model import microbatches, model_files, optimizers
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs import (
    devices,
    evaluation,
    evaluation_files,
    interruptions,
    reporting,
    state_store,
)
from prompt_tuning_engine_local.runs.evaluation import Predictor, metrics_of
from prompt_tuning_engine_local.runs.options import TrainingOptions
from prompt_tuning_engine_local.runs.preparing import Prepared, prepare
from prompt_tuning_engine_local.runs.state_store import TrainingState
from prompt_tuning_files import module_files, prompt_files, run_files
from prompt_tuning_files.provenance import without_settings

CURVES_FILE = "curves.png"


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A finished run, as hooks get it (`run_finished`).

    Attributes:
      directory: MODEL_DIR.
      console: The terminal of the run.
      model: The model.
      frozen: The frozen model's file and parameters.
      task: The task or mixture, of `prompt_tuning_tasks` or of seqio.
      predictor: Answers texts with any prompt.
      initial_prompt: The prompt's parameters before training.
      prompt: The prompt's parameters at the end.
      prompt_path: The last prompt file.
      seed: The run's seed.
      history: The values of each metric by step; see `reporting.TrainingReport`.
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


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step that was taken.

    Attributes:
      number: The number of the step; the run counts on from the loaded model's step.
      metrics: The metrics of its batch, such as `loss`.
      evaluation: The metrics of the evaluation after it; None if there was none.
    """

    number: int
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float] | None


def train(options: TrainingOptions) -> TrainingRun:
    """Trains a prompt; see `Training`.

    Raises:
      PromptTuningError: In the cases of `Training`.
      KeyboardInterrupt: If the run was interrupted; its state has been saved.
    """
    training = Training(options)
    for _ in training:
        pass
    return training.finished


class Training:
    """A run that trains a prompt and writes it, with its provenance, to MODEL_DIR.

    The constructor reads and checks everything, and writes nothing. Iterating over the run takes
    one step after another. If a loop ends early, the run stays at its last save.

    The directory gets `config.gin` (the operative config), `prompt_STEP.npy` and `prompt_STEP.json`
    before the first step, at every save and at the end, `metrics.jsonl`, TensorBoard's files in
    `tensorboard`, and `curves.png` if Matplotlib is installed. Each evaluation replaces
    `TASK-SPLIT-predictions.jsonl` and `TASK-SPLIT-metrics.json`, which have the same form as in
    `inference.evaluate`. If the run stops, the same options resume it from the last save, with the
    same result as a run that never stopped. A larger `total_steps` continues a finished run.

    Args:
      options: The run's options.

    Raises:
      PromptTuningError: If an option cannot be used, or the directory holds another run; nothing is
        written then.
    """

    def __init__(self, options: TrainingOptions) -> None:
        self._options = options
        self._prepared = prepare(options)
        self._trainer: _Trainer | None = None
        self._finished: TrainingRun | None = None

    def __iter__(self) -> Iterator[Step]:
        """Takes the remaining steps.

        Raises:
          PromptTuningError: If the run cannot continue, or its directory cannot be written to.
          KeyboardInterrupt: If the run was interrupted; its state has been saved.
        """
        options, prepared = self._options, self._prepared
        directory = prepared.directory
        with (
            _writing(directory),
            # First, since opening the store removes the leftovers of a killed save.
            state_store.lock(directory),
            contextlib.closing(
                state_store.StateStore(directory, options.keep_checkpoints or 2)
            ) as store,
        ):
            self._trainer = _Trainer(options, prepared, store)
            yield from self._trainer.steps()
            self._finished = self._trainer.finished()
        prepared.hook.run_finished(run=self._finished)

    def stop(self) -> None:
        """Ends the run at the step that the iteration has just yielded, as at its last step."""
        if self._trainer is not None:
            self._trainer.is_stopping = True

    @property
    def finished(self) -> TrainingRun:
        """The finished run.

        Raises:
          InputError: If the run has not taken all steps.
        """
        if self._finished is None:
            raise InputError(
                f"the run in {self._prepared.directory} has not finished; iterate over it to its "
                "end"
            )
        return self._finished


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Reports a failure to write the run's files, such as a full disk, as an `InputError`."""
    try:
        yield
    except OSError as error:
        kept = prompt_files.newest(directory)
        saved = f"{kept.name} is whole" if kept else "no prompt was saved"
        then = "the same command begins again"
        if state_store.has_states(directory):
            then = "the same command goes on from the last save"
        raise InputError(
            f"MODEL_DIR {directory}: cannot be written to ({error.strerror or error}); {saved}; "
            f"make room, and {then}"
        ) from error


class _Trainer:
    """Takes the steps of a prepared run, and evaluates and saves its prompt.

    The constructor writes the files of a new run, or reads the newest state of an earlier run.

    Args:
      options: The run's options.
      prepared: The run before its first step.
      store: The saved states in the run's directory. This process has locked the directory.

    Raises:
      InputError: If another process has begun a run in the directory, or the earlier run is past
        the last step.

    Attributes:
      is_stopping: True ends the run at the step that `steps` has just yielded.
    """

    def __init__(
        self, options: TrainingOptions, prepared: Prepared, store: state_store.StateStore
    ) -> None:
        self._options = options
        self._prepared = prepared
        self._store = store
        self._console = options.given.console or rich.console.Console()
        self.is_stopping = False
        # A copy, since the training step reuses the parameters' memory.
        self._initial = {name: np.array(leaf) for name, leaf in prepared.prompt.items()}
        saved = self._newest_state()
        state = saved or self._first_state()
        self._is_new = saved is None
        self._report = reporting.TrainingReport(
            prepared.directory, self._console, None if self._is_new else state.step
        )
        self._step = state.step
        self._prompt: Params = prepared.loaded.placement.everywhere(state.prompt)
        self._optimizer = prepared.loaded.placement.everywhere(state.optimizer)
        self._values: Mapping[str, float] = {}
        self._metrics: Mapping[str, float] = state.notes.get("metrics", {})
        # Values of another metric or split cannot be compared.
        best = state.notes.get("best", [])
        is_same = best[:1] == [self._best_of]
        self._best: float | None = best[1] if is_same else None
        # Evaluations since the best one.
        self._not_better = best[2] if is_same and len(best) > 2 else 0

    @property
    def _best_of(self) -> list[Any]:
        options = self._options
        which = [options.best_metric, options.eval_split]
        return [*which, "lowest"] if options.lowest_is_best else which

    @property
    def _stops_early(self) -> bool:
        limit = self._options.early_stopping
        return limit is not None and self._not_better >= limit

    def steps(self) -> Iterator[Step]:
        """Takes the remaining steps, and draws the curves."""
        with contextlib.closing(self._report):
            if self._is_new:
                self._evaluate()
                self._save()
            yield from self._take_steps()
            self._store.wait()
            self._report.end(self._step)
            if self._stops_early:
                self._console.print(
                    f"ended at step {self._step}: the last {self._not_better} evaluations gave no "
                    f"better {self._options.best_metric} (EARLY_STOPPING)",
                    highlight=False,
                    soft_wrap=True,
                )
        self._report.draw(self._prepared.directory / CURVES_FILE)

    def _first_state(self) -> TrainingState:
        first, prompt = self._prepared.first, self._prepared.prompt
        trained, _ = self._options.model.split(prompt)
        optimizer = optimizers.start_at(self._options.optimizer.init(trained), first)
        # Copies: some optimizers begin with one array in two places, and a step reuses its memory.
        return TrainingState(first, prompt, jax.tree.map(jnp.array, optimizer), {})

    def _newest_state(self) -> TrainingState | None:
        """Returns the state that an earlier process saved; begins a new run if there is none."""
        prepared, directory = self._prepared, self._prepared.directory
        if run_files.read_run(directory) != prepared.earlier:
            raise InputError(
                f"MODEL_DIR {directory}: another run has begun there in the meantime; give another "
                "directory"
            )
        prompt_files.remove_leftovers(directory)
        saved = self._store.newest(like=self._first_state())
        if saved is None:
            _check_nothing_is_lost(prepared)
            # Save the seed before anything depends on it.
            run_files.write_run(directory, prepared.facts)
            prepared.hook.prompt_initialized(
                prompt=self._options.model.matrix(self._initial),
                parameters=_as_numpy(self._initial),
                provenance=prepared.facts,
            )
        elif prepared.last < saved.step:
            raise InputError(
                f"TRAIN_STEPS is {prepared.last}, and the run in {directory} has reached step "
                f"{saved.step}; raise TRAIN_STEPS, or give another directory"
            )
        else:
            prepared.batches.set_state(saved.notes["data"])
            if prepared.changes:
                changes = [{"step": saved.step, **change} for change in prepared.changes]
                prepared.facts.setdefault("changes", []).extend(changes)
                run_files.write_run(directory, prepared.facts)
            self._console.print(f"going on from step {saved.step}", highlight=False)
        with prompt_files.atomic_write(directory / run_files.CONFIG_FILE) as file:
            file.write(prepared.facts["config"].encode())
        return saved

    def _take_steps(self) -> Iterator[Step]:
        options, prepared = self._options, self._prepared
        frozen, placement = prepared.loaded.frozen.params, prepared.loaded.placement
        step_fn = make_step(options.model, options.optimizer, options.num_microbatches)
        dropout_rng = prepared.dropout_rng
        taken, all_steps = self._step - prepared.first, prepared.last - prepared.first
        with (
            interruptions.Interruptions() as interrupted,
            self._report.training(all_steps, options.batch_size, done=taken),
        ):
            # A run that has stopped early takes no step when its command is given again.
            until = self._step if self._stops_early else prepared.last
            for step in range(self._step + 1, until + 1):
                batch = placement.split(next(prepared.batches))
                is_ended = self._advance(
                    step,
                    *step_fn(self._prompt, self._optimizer, frozen, batch, dropout_rng, step),
                )
                is_last = is_ended or step == prepared.last
                evaluates = is_last or step % options.eval_period == 0
                saves = is_last or step % options.save_period == 0 or bool(interrupted.received)
                if evaluates or saves:
                    _check_finite_prompt(self._prompt, step, prepared.directory)
                if evaluates:
                    self._evaluate()
                    is_last = is_last or self._stops_early
                if saves or is_last:
                    self._save()
                if interrupted.received:
                    self._store.wait()
                    self._console.print(
                        f"stopped at step {step}; the same command goes on from there"
                    )
                    interrupted.stop()
                yield Step(step, self._values, dict(self._metrics) if evaluates else None)
                if self.is_stopping and not is_last:
                    self._end(step, evaluates, saves)
                if self.is_stopping or is_last:
                    break

    def _end(self, step: int, is_evaluated: bool, is_saved: bool) -> None:
        """Does the remaining work at the last step of a run that is stopped."""
        if not is_evaluated:
            _check_finite_prompt(self._prompt, step, self._prepared.directory)
            self._evaluate()
        if not is_saved:
            self._save()
        elif not is_evaluated:
            self._write_prompt(f"prompt_{step}")  # With the metrics.

    def _advance(
        self, step: int, prompt: Params, optimizer: Any, metrics: Mapping[str, jax.Array]
    ) -> bool:
        """Records the results of a step; returns True if a hook ends the run.

        Raises:
          InputError: If the loss is not finite; earlier saves are kept.
        """
        values = {name: float(value) for name, value in metrics.items()}
        _check_finite(values["loss"], step, self._prepared.directory)
        self._step, self._prompt, self._optimizer = step, prompt, optimizer
        self._values = values
        self._report.step(step, values)
        return True in self._prepared.hook.step_logged(step=step, metrics=values)

    def _evaluate(self) -> None:
        """Evaluates the prompt, and saves it as the best prompt if it is the best so far.

        The files of predictions come from the last evaluation.
        """
        prepared, best_metric = self._prepared, self._options.best_metric
        predictor = prepared.loaded.predictor
        loss = self._options.evaluates_loss
        results = [
            predictor.evaluate_prepared(one, self._prompt, loss=loss) for one in prepared.eval_sets
        ]
        self._metrics = metrics_of(prepared.task, results)
        self._report.evaluation(self._step, self._metrics)
        for result in results:
            evaluation_files.write(prepared.directory, self._options.eval_split, result)
        if best_metric is not None:
            value = evaluation.chosen(self._metrics, best_metric)
            # NaN, such as the correlation of equal answers, is never the best.
            if self._is_better(value):
                self._best, self._not_better = value, 0
                self._write_prompt(prompt_files.BEST)
            elif self._step > prepared.first:  # Not before the first step.
                self._not_better += 1
        prepared.hook.evaluated(step=self._step, metrics=dict(self._metrics))

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self._best is None:
            return True
        return value < self._best if self._options.lowest_is_best else value > self._best

    def _save(self) -> None:
        """Writes the prompt, and starts to write the state in the background."""
        directory, keep = self._prepared.directory, self._options.keep_checkpoints
        self._report.flush()
        paths = self._write_prompt(f"prompt_{self._step}")
        notes = {
            "data": self._prepared.batches.get_state(),
            "metrics": dict(self._metrics),
            "best": [self._best_of, self._best, self._not_better],
        }
        self._store.save(TrainingState(self._step, self._prompt, self._optimizer, notes))
        for old in prompt_files.by_step(directory)[: -keep if keep else 0]:
            for file in prompt_files.files_of(old):
                file.unlink(missing_ok=True)
        provenance = prompt_files.read_provenance(paths[0])  # With the facts that the writer adds.
        self._prepared.hook.prompt_saved(paths=paths, provenance=provenance)

    def _write_prompt(self, name: str) -> list[Path]:
        """Writes the prompt in all of its forms, with its provenance; returns the files."""
        facts = self._prepared.facts
        provenance = {
            **(facts if self._options.record_settings else without_settings(facts)),
            "step": self._step,
            "metrics": {self._options.eval_split: dict(self._metrics)},
        }
        return module_files.save(
            self._prepared.directory / name,
            _as_numpy(self._prompt),
            self._options.model.matrix(self._prompt),
            self._prepared.facts["prompt_module"],
            provenance,
        )

    def finished(self) -> TrainingRun:
        """Returns the finished run, and prints its first and last metrics."""
        options, prepared = self._options, self._prepared
        run = TrainingRun(
            directory=prepared.directory,
            console=self._console,
            model=options.model,
            frozen=prepared.loaded.frozen,
            task=prepared.task.source,
            predictor=prepared.loaded.predictor,
            initial_prompt=self._initial,
            prompt=_as_numpy(self._prompt),
            prompt_path=prompt_files.newest(prepared.directory) or prepared.directory,
            seed=prepared.seed,
            history=self._report.history,
        )
        self._console.print(_summary(run, options.eval_split, prepared.first, self._step))
        if options.given.keeps_files:
            self._console.print(f"prompt: {run.prompt_path}", highlight=False, soft_wrap=True)
        return run


def make_step(
    model: EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    num_microbatches: int | None = None,
) -> Callable[..., tuple[Params, Any, dict[str, jax.Array]]]:
    """Returns the jitted training step; it computes gradients of trained parameters only.

    Its metrics are the loss, `gradient_norm` (the L2 norm of the gradient over all trained arrays,
    before the optimizer changes it), `prompt_norm` (the L2 norm of the trained arrays after the
    update), and the reports of the prompt modules. `learning_rate` is another metric if the
    optimizer's state has an entry of this name, as the states of Adafactor and of
    `optax.inject_hyperparams` have.

    Some optimizers need more than the gradient, such as `optax.contrib.reduce_on_plateau` and
    `optax.lbfgs`. They get the loss (`value`), the gradient (`grad`) and the loss function
    (`value_fn`).

    Args:
      model: The model.
      optimizer: Trains the prompt.
      num_microbatches: The number of equal parts of a batch, which are computed one after another,
        with the memory of one part. None for `model.quickest_parts`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step_fn(
        prompt: Params,
        state: Any,
        frozen: Params,
        batch: batching.Batch,
        dropout_rng: jax.Array,
        step: int,
    ) -> tuple[Params, Any, dict[str, jax.Array]]:
        rng = jax.random.fold_in(dropout_rng, step)
        trained, fixed = model.split(prompt)

        number = num_microbatches or model.quickest_parts(prompt, batch)
        loss_of = microbatches.loss_in_parts(model, fixed, frozen, batch, rng, number)
        (loss, per_token), gradient = jax.value_and_grad(loss_of, has_aux=True)(trained)
        metrics = {"loss": loss, reporting.LOSS: per_token, **model.report(prompt)}
        penalty = model.penalty(prompt)
        if penalty is not None:
            metrics["penalty"] = penalty
        updates, state = optimizer.update(
            gradient,
            state,
            trained,
            value=loss,
            grad=gradient,
            value_fn=lambda trained: loss_of(trained)[0],
        )
        trained = optax.apply_updates(trained, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["prompt_norm"] = optax.tree.norm(trained)
        rates = optax.tree.get_all_with_path(state, "learning_rate", filtering=_is_array)
        if len(rates) == 1:
            metrics["learning_rate"] = rates[0][1]
        return {**fixed, **trained}, state, metrics

    return jax.jit(step_fn, donate_argnums=(0, 1), compiler_options=devices.compiler_options())


def _is_array(path: Any, value: Any) -> bool:
    del path
    return isinstance(value, jax.Array)


def _as_numpy(prompt: Params) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float32) for name, leaf in prompt.items()}


def _check_finite(loss: float, step: int, directory: Path) -> None:
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} at step {step}; {_after_divergence(directory)}")


def _check_finite_prompt(prompt: Params, step: int, directory: Path) -> None:
    for name, leaf in prompt.items():
        if not np.isfinite(leaf).all():
            raise InputError(
                f"the prompt's {name} is not finite after step {step}; "
                + _after_divergence(directory)
            )


def _after_divergence(directory: Path) -> str:
    """Returns text about the prompt that is left after divergence, and about what to do."""
    kept = prompt_files.newest(directory)
    if kept is None:
        return "no prompt was saved; lower the learning rate"
    return (
        f"the last prompt saved is {kept}; lower the learning rate, in another MODEL_DIR, or from "
        "there with ALLOW_CHANGES = ['LEARNING_RATE']"
    )


def _check_nothing_is_lost(prepared: Prepared) -> None:
    """Refuses to begin again if an earlier process saved prompts and no state is left."""
    steps = prompt_files.by_step(prepared.directory, whole=True)
    newest = prompt_files.step_of(steps[-1]) if steps else None
    if prepared.earlier is not None and newest is not None and newest > prepared.first:
        raise InputError(
            f"MODEL_DIR {prepared.directory} holds {steps[-1].name} and no state that could be "
            "resumed; give another MODEL_DIR, to begin again or, with prompts/from_file.gin, "
            "from that prompt"
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
