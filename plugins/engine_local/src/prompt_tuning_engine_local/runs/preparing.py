"""Reads and checks everything that a run needs, and writes nothing."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching, find_task
from prompt_tuning_engine_local.data.engine_task import Component, EngineTask, Reading, Split
from prompt_tuning_engine_local.model import model_files
from prompt_tuning_engine_local.model.model_files import FrozenModel
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs import evaluation, resuming, run_facts, state_store
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor
from prompt_tuning_engine_local.runs.options import Options, TrainingOptions
from prompt_tuning_files import prompt_files, run_files
from prompt_tuning_tasks.feature_lengths import FeatureLengths


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A frozen model, ready to answer.

    Attributes:
      placement: Puts arrays on devices.
      lengths: The largest numbers of ids.
      frozen: The frozen model.
      predictor: Answers texts with any prompt.
    """

    placement: Placement
    lengths: FeatureLengths
    frozen: FrozenModel
    predictor: Predictor


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A training run before its first step; nothing has been written.

    Attributes:
      directory: The output directory.
      earlier: The facts of the run in the directory; None for a new run.
      facts: The facts of this run, for the provenance of its prompts.
      changes: The bindings that differ from the earlier run and are allowed to (ALLOW_CHANGES).
      hook: Calls the hooks plugins.
      loaded: The frozen model.
      task: The task or mixture.
      last: The step to stop at.
      seed: The run's seed.
      prompt: The prompt's initial parameters.
      batches: Grain's iterator of training batches.
      eval_sets: The splits to evaluate, one for each task.
    """

    directory: Path
    earlier: dict[str, Any] | None
    facts: dict[str, Any]
    changes: Sequence[resuming.Change]
    hook: Any
    loaded: Loaded
    task: EngineTask
    last: int
    seed: int
    prompt: Params
    batches: Any
    eval_sets: Sequence[Split]

    @property
    def first(self) -> int:
        """The loaded model's step."""
        return self.loaded.frozen.step

    @property
    def dropout_rng(self) -> jax.Array:
        """The key from which every step derives its own key."""
        return _keys(self.seed)[1]


def load_hooks(options: Options) -> Any:
    """Loads the hooks plugins that the options name; returns an object that calls them."""
    return registry.process_registry().load_hooks([*options.hooks, *options.extra_hooks])


def place(options: Options) -> Placement:
    """Returns the devices after a check that they can share a batch evenly.

    Raises:
      InputError: If there are too few devices, or the batch cannot be split evenly.
    """
    placement = Placement(options.num_devices)
    placement.check_batch_size(options.batch_size)
    return placement


def load(options: Options, placement: Placement) -> Loaded:
    """Reads the frozen model.

    Raises:
      InputError: If it cannot be used.
    """
    model, lengths = options.model, FeatureLengths.of(options.task_feature_lengths)
    model.check_decoding(lengths.targets)
    frozen = options.given.frozen or model_files.load(
        options.checkpoint_path, model.frozen_parameters, placement.everywhere
    )
    predictor = Predictor(
        model,
        frozen.params,
        lengths,
        options.batch_size,
        placement,
        bucketing=options.bucketing,
        strict_lengths=options.strict_lengths,
    )
    return Loaded(placement, lengths, frozen, predictor)


def prepare(options: TrainingOptions) -> Prepared:
    """Reads and checks everything that a training run needs.

    Raises:
      PromptTuningError: If an option cannot be used, or the directory holds another run.
    """
    _check_optimizer(options.optimizer)
    placement = place(options)
    placement.check_batch_size(options.batch_size, options.num_microbatches)
    directory = _usable_directory(options.model_dir)
    earlier = run_files.read_run(directory)
    hook = load_hooks(options)
    task = options.given.task or find_task.find(options.task_name, options.mixture_or_task_module)
    loaded = load(options, placement)
    last = options.last_step(loaded.frozen.step)
    seed = _seed(options, earlier)
    prompt = _initial_prompt(options.model, seed)
    drawn = find_task.drawn_from(task, options.train_split)
    examples = _read_examples(options, [component for component, _ in drawn], seed)
    eval_sets = [
        loaded.predictor.prepare(component, options.eval_split)
        for component in task.components(options.eval_split)
    ]
    _check_metrics(options, task, eval_sets)
    facts = run_facts.describe_run(
        options.model,
        loaded.frozen,
        task.name,
        options.mixture_or_task_module,
        loaded.lengths,
        seed,
        batching.checksum(examples),
        options.given.settings,
    )
    changes = resuming.check_same_run(directory, earlier, facts, options.allow_changes)
    batches = batching.training_batches(
        examples,
        loaded.lengths,
        options.batch_size,
        seed,
        [rate for _, rate in drawn],
        shuffle=options.shuffle,
        bucketing=options.bucketing,
        target_bucketing=not options.model.counts_padding,
    )
    return Prepared(
        directory=directory,
        earlier=earlier,
        facts=facts,
        changes=changes,
        hook=hook,
        loaded=loaded,
        task=task,
        last=last,
        seed=seed,
        prompt=prompt,
        batches=batches,
        eval_sets=eval_sets,
    )


def _seed(options: TrainingOptions, earlier: Mapping[str, Any] | None) -> int:
    """Returns the given seed, else the seed of the run in the directory, else a new seed."""
    if options.random_seed is not None:
        return options.random_seed
    return secrets.randbits(31) if earlier is None else int(earlier["seed"])


def _check_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(
            f"OPTIMIZER is {optimizer!r}, expected an optax optimizer such as "
            "@optimizers.adafactor()"
        )


def _check_metrics(options: TrainingOptions, task: EngineTask, eval_sets: Sequence[Split]) -> None:
    """Refuses a BEST_METRIC that evaluations will not have, before anything is written."""
    if options.best_metric is not None or options.evaluates_loss:
        metrics = evaluation.metrics_of_targets(task, eval_sets, loss=options.evaluates_loss)
        if options.best_metric is not None:
            evaluation.chosen(metrics, options.best_metric)


def _keys(seed: int) -> jax.Array:
    """Returns the keys of the prompt's initial values and of dropout."""
    return jax.random.split(jax.random.key(seed))


def _initial_prompt(model: EncoderDecoderModel, seed: int) -> Mapping[str, Any]:
    prompt = model.init_prompt(_keys(seed)[0])
    model.matrix(prompt)  # Checks the matrix for the first file.
    return prompt


def _read_examples(
    options: TrainingOptions, components: Sequence[Component], seed: int
) -> list[Sequence[batching.TokenizedExample]]:
    lengths = FeatureLengths.of(options.task_feature_lengths)
    reading = Reading(options.model.vocabulary, lengths, options.strict_lengths, seed)
    return [component.read(options.train_split, reading).tokenized for component in components]


def _usable_directory(model_dir: str) -> Path:
    directory = Path(model_dir).expanduser()
    if not state_store.is_writable(directory):
        raise InputError(f"MODEL_DIR {directory} is not a directory that can be written to")
    prompt = prompt_files.newest(directory)
    if (directory / run_files.RUN_FILE).exists():
        return directory
    if prompt is not None or state_store.has_states(directory):
        found = "saved states" if prompt is None else prompt.name
        raise InputError(
            f"MODEL_DIR {directory} holds {found} and no {run_files.RUN_FILE} that says which "
            "run made it; give another directory"
        )
    return directory
