"""Trains a prompt from Python: a run's settings are keywords, with the defaults of gin."""

from __future__ import annotations

import ast
import dataclasses
import functools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import optax
import rich.console

from prompt_tuning_core import prompts, registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptFactory, PromptModule
from prompt_tuning_core.protocols import Initializer
from prompt_tuning_engine_local.api.answering import LENGTHS, Model
from prompt_tuning_engine_local.api.given_tasks import engine_task, is_rows
from prompt_tuning_engine_local.data.engine_task import EngineTask
from prompt_tuning_engine_local.model import optimizers, schedules
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_local.runs import defaults, training
from prompt_tuning_engine_local.runs.options import Given, TrainingOptions
from prompt_tuning_engine_local.runs.training import Step
from prompt_tuning_files.loaded_prompts import Prompt
from prompt_tuning_tasks import Row, Task

__all__ = ["PromptTraining", "train"]

P = ParamSpec("P")


@dataclasses.dataclass(eq=False)
class PromptTraining:
    """A training run: iterate over it to take one step after another, or call `run`.

    Each setting has the default of its gin macro, which is named in brackets.

    Attributes:
      model: The frozen model.
      task: A text task or a mixture, the name of a registered task or mixture, or rows with the
        columns "inputs" and "targets" (MIXTURE_OR_TASK_NAME).
      steps: Number of steps to take (TRAIN_STEPS_RELATIVE).
      validation: The rows to evaluate on, if `task` is rows.
      prompt: The prompt module: a plugin's name, or a function that makes one; None for the plain
        prompt (PROMPT).
      length: P, the number of prompt vectors (PROMPT_LENGTH).
      initializer: Makes the first value, `initializer(rng, shape)`; or a `Prompt` to train further;
        None for random uniform values in [0, 0.5).
      learning_rate: The learning rate of Adafactor: a number (LEARNING_RATE), or an optax schedule
        without the next three settings.
      learning_rate_schedule: See `schedules.learning_rate` (LEARNING_RATE_SCHEDULE).
      warmup_steps: See `schedules.learning_rate` (WARMUP_STEPS).
      decay_steps: See `schedules.learning_rate` (DECAY_STEPS).
      optimizer: An optax optimizer instead of Adafactor and its learning rate (OPTIMIZER).
      dropout_rate: Dropout in the frozen model (DROPOUT_RATE).
      z_loss: See `losses.cross_entropy` (Z_LOSS).
      label_smoothing: See `losses.cross_entropy` (LABEL_SMOOTHING).
      loss_normalizing_factor: See `losses.cross_entropy` (LOSS_NORMALIZING_FACTOR).
      task_feature_lengths: The largest numbers of ids in "inputs" and "targets"; None for the
        model's own lengths (TASK_FEATURE_LENGTHS).
      model_dir: The directory of the run; the same call resumes the run. None keeps no file
        (MODEL_DIR).
      callbacks: Functions that are called after each step. A function that returns True ends the
        run.
      quiet: True shows no progress.

    `options.TrainingOptions` describes the other attributes.

    Raises:
      PromptTuningError: If an argument cannot be used; nothing is written then.
    """

    model: Model
    task: Task | str | Sequence[Row]
    steps: int
    _: dataclasses.KW_ONLY
    validation: Sequence[Row] | None = None
    prompt: str | PromptFactory | None = None
    length: int = 100
    initializer: Initializer | Prompt | None = None
    learning_rate: optax.ScalarOrSchedule = 0.3
    learning_rate_schedule: str = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None
    optimizer: optax.GradientTransformation | None = None
    dropout_rate: float = 0.1
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None
    task_feature_lengths: Mapping[str, int] | None = None
    model_dir: str | Path | None = None
    callbacks: Sequence[Callable[[Step], bool | None]] = ()
    quiet: bool = False
    # Fields of TrainingOptions.
    batch_size: int = 128
    num_microbatches: int | None = None
    eval_period: int = 1000
    save_period: int = 1000
    keep_checkpoints: int | None = None
    best_metric: str | None = None
    best_is_lowest: bool | None = None
    eval_loss: bool = False
    early_stopping: int | None = None
    random_seed: int | None = None
    train_split: str = "train"
    eval_split: str = "validation"
    shuffle: bool = True
    bucketing: bool = True
    strict_lengths: bool = False
    hooks: Sequence[str] = ()
    allow_changes: Sequence[str] = ()
    record_settings: bool = True

    def __post_init__(self) -> None:
        """Reads and checks everything."""
        directory = self.model_dir
        if directory is None:
            directory = tempfile.mkdtemp(prefix="prompt-tuning-")
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self._training = training.Training(self._options(str(directory)))

    def __iter__(self) -> Iterator[Step]:
        """Takes the remaining steps.

        Raises:
          PromptTuningError: If the run cannot continue.
        """
        for step in self._training:
            yield step
            if True in [callback(step) for callback in self.callbacks]:
                self._training.stop()

    def run(self) -> Prompt:
        """Takes the remaining steps, and returns the prompt.

        Returns:
          The prompt with the best value of `best_metric` if it is set, else the last prompt.

        Raises:
          PromptTuningError: If the run cannot continue.
        """
        for _ in self:
            pass
        return self.trained

    @property
    def trained(self) -> Prompt:
        """The prompt of the finished run; see `run`.

        Raises:
          InputError: If the run has not taken all steps.
        """
        finished = self._training.finished
        found = defaults.load_prompt(finished.directory, finished.model.module.clone)
        return dataclasses.replace(
            found, name=f"of the task {finished.task.name!r}", history=finished.history
        )

    def _options(self, directory: str) -> TrainingOptions:
        model = self._prompted_model()
        lengths = self.task_feature_lengths or self.model.lengths or LENGTHS
        passed = (_names(self) & _names(TrainingOptions)) - _MADE - {"optimizer"}
        task = self._task()
        return TrainingOptions(
            model=model,
            model_dir=directory,
            checkpoint_path=self.model.path,
            task_feature_lengths=lengths,
            mixture_or_task_name=task.name,
            relative_steps=self.steps,
            optimizer=self.optimizer or optimizers.adafactor(self._rate()),
            num_devices=self.model.placement.num_devices,
            given=Given(
                frozen=self.model.frozen,
                task=task,
                settings=self._settings(lengths),
                console=rich.console.Console(quiet=self.quiet),
                keeps_files=self.model_dir is not None,
            ),
            **{name: getattr(self, name) for name in passed},
        )

    def _rate(self) -> optax.ScalarOrSchedule:
        named = self.learning_rate_schedule, self.warmup_steps, self.decay_steps
        if callable(self.learning_rate):
            if named != ("constant", 0, None):
                raise InputError(
                    "learning_rate is a schedule, and so is what learning_rate_schedule, "
                    "warmup_steps and decay_steps describe; give one of the two"
                )
            return self.learning_rate
        return schedules.learning_rate(self.learning_rate, *named)

    def _task(self) -> EngineTask:
        rows: dict[str, Sequence[Row]] = {}
        if is_rows(self.task):
            if self.validation is None:
                raise InputError(
                    "the task is rows, and validation is None; give the rows to evaluate on: "
                    "validation=[{'inputs': …, 'targets': …}]"
                )
            rows = {self.train_split: self.task, self.eval_split: self.validation}
        return engine_task(self.task, rows)

    def _prompted_model(self) -> EncoderDecoderModel:
        module = self._module()
        return EncoderDecoderModel(
            dataclasses.replace(self.model.config, dropout_rate=self.dropout_rate),
            self.model.vocabulary,
            lambda: module,
            self.z_loss,
            self.label_smoothing,
            self.loss_normalizing_factor,
        )

    def _module(self) -> PromptModule:
        load = registry.process_registry().load
        factory, first = self.prompt, self.initializer
        return prompts.make(
            load("prompt", factory) if isinstance(factory, str) else factory,
            self.length,
            default=defaults.prompt_module,
            default_init=defaults.initializer,
            prompt_init=first.values if isinstance(first, Prompt) else first,
        )

    def _settings(self, lengths: Mapping[str, int]) -> str:
        """Returns the settings as lines `NAME = VALUE`, for provenance and to resume the run."""
        values = {
            "options.TrainingOptions.relative_steps": self.steps,
            "options.TrainingOptions.task_feature_lengths": dict(lengths),
        }
        for name in _names(self) - _MADE:
            is_option = name in _names(TrainingOptions)
            owner = "options.TrainingOptions" if is_option else "PromptTraining"
            values[f"{owner}.{name}"] = getattr(self, name)
        return "".join(f"{name} = {_written(value)}\n" for name, value in sorted(values.items()))


_MADE = {
    "model", "task", "steps", "validation", "task_feature_lengths", "callbacks", "model_dir",
    "quiet",
}  # fmt: skip
"""Fields that other facts of the run show, or on which no step depends."""


def _names(settings: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(settings)}


def _written(value: object) -> str:
    """Returns a value as gin writes it; for an object that gin cannot write, its name as a text."""
    text = repr(value)
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        named = value if hasattr(value, "__qualname__") else type(value)
        return repr(f"{named.__module__}.{named.__qualname__}")
    return text


def _as_function(training_class: Callable[P, PromptTraining]) -> Callable[P, Prompt]:
    @functools.wraps(training_class)
    def train(*args: P.args, **kwargs: P.kwargs) -> Prompt:
        return training_class(*args, **kwargs).run()

    return train


train = _as_function(PromptTraining)
"""Trains a prompt and returns it; takes the arguments of `PromptTraining`."""
