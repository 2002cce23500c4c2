"""Options of the three commands, and the table of allowed values of gin macros."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optax
import rich.console

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data.engine_task import EngineTask
from prompt_tuning_engine_local.model.losses import LossNormalizingFactor
from prompt_tuning_engine_local.model.model_files import FrozenModel
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel


class Check(NamedTuple):
    """The values that a macro may have.

    Attributes:
      expected: Describes the values, for messages.
      accepts: Returns True for an allowed value.
    """

    expected: str
    accepts: Callable[[Any], bool]

    def or_none(self, meaning: str = "") -> Check:
        """Returns a check that also accepts None."""
        return Check(
            f"{self.expected}, or None{meaning}", lambda value: value is None or self.accepts(value)
        )


def _is_whole(value: Any) -> bool:
    # In Python, True and False are numbers; here, they are mistakes.
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(least: int, most: int | None = None) -> Check:
    if most is None:
        return Check(
            f"a whole number of at least {least}", lambda value: _is_whole(value) and value >= least
        )
    return Check(
        f"a whole number from {least} to {most}",
        lambda value: _is_whole(value) and least <= value <= most,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*names: str) -> Check:
    return Check(f"one of {', '.join(map(repr, names))}", lambda value: value in names)


_TEXT = Check("a text in quotes", lambda value: isinstance(value, str) and value != "")
_FOLDER = Check(
    "the path of a folder on this machine, in quotes (T5X, --engine t5x, writes to buckets)",
    lambda value: _TEXT.accepts(value) and "://" not in value,
)
_BOOL = Check("True or False", lambda value: isinstance(value, bool))
_NAMES = Check(
    "a list of names, such as ['name']",
    lambda value: isinstance(value, list | tuple) and all(isinstance(name, str) for name in value),
)
_TEXTS = Check(
    "a list of texts, such as ['yes', 'no']",
    lambda value: (
        isinstance(value, list | tuple) and len(value) > 0 and all(map(_TEXT.accepts, value))
    ),
)
_SEED = Check(
    f"a whole number from 0 to {2**32 - 1}", lambda value: _is_whole(value) and 0 <= value < 2**32
)
_LENGTHS = Check(
    "a mapping such as {'inputs': 128, 'targets': 8}",
    lambda value: (
        isinstance(value, Mapping)
        and set(value) == {"inputs", "targets"}
        and all(_is_whole(length) and 0 < length <= 10**6 for length in value.values())
    ),
)

_NOT_NEGATIVE = Check("a number of at least 0", lambda value: _is_number(value) and value >= 0)
_FRACTION = Check(
    "a number of at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1
)

MACROS: Mapping[str, Check] = {
    # Paths.
    "MODEL_DIR": _FOLDER,
    "INITIAL_CHECKPOINT_PATH": _TEXT,
    "CHECKPOINT_PATH": _TEXT,
    "EVAL_OUTPUT_DIR": _FOLDER,
    "INFER_OUTPUT_DIR": _FOLDER,
    "INFER_INPUT_FILE": _TEXT,
    "PROMPT_FILE": _TEXT.or_none(),
    "PROMPT_FILES": Check(
        "a mapping of names to prompt files, such as {'a': 'a.npy', 'b': 'b.npy'}, or None",
        lambda value: (
            value is None
            or (
                isinstance(value, Mapping)
                and len(value) > 0
                and all(map(_TEXT.accepts, [*value, *value.values()]))
            )
        ),
    ),
    "PROMPT_COLUMN": _TEXT.or_none(),
    "VOCABULARY_FILE": _TEXT.or_none(),
    # The task.
    "MIXTURE_OR_TASK_NAME": _TEXT.or_none(),
    "MIXTURE_OR_TASK_MODULE": _TEXT.or_none(),
    "TASK_FEATURE_LENGTHS": _LENGTHS,
    "EVAL_SPLIT": _TEXT,
    "STRICT_LENGTHS": _BOOL,
    "BUCKETING": _BOOL,
    "SHUFFLE": _BOOL,
    "PACK": _BOOL,
    # The run.
    "TRAIN_STEPS": _whole(0).or_none(),
    "TRAIN_STEPS_RELATIVE": _whole(0).or_none(),
    "BATCH_SIZE": _whole(1, 10**6),
    "NUM_MICROBATCHES": _whole(1).or_none(" for the quickest number"),
    "EVAL_PERIOD": _whole(1),
    "SAVE_PERIOD": _whole(1),
    "KEEP_CHECKPOINTS": _whole(1).or_none(" for every prompt"),
    "BEST_METRIC": _TEXT.or_none(),
    "BEST_IS_LOWEST": _BOOL.or_none(" for the loss alone"),
    "EVAL_LOSS": _BOOL,
    "EARLY_STOPPING": _whole(1).or_none(" to take all steps"),
    "RANDOM_SEED": _SEED.or_none(" to draw one"),
    "NUM_DEVICES": _whole(1).or_none(" for all"),
    "HOOKS": _NAMES,
    "ALLOW_CHANGES": _NAMES,
    "RECORD_SETTINGS": _BOOL,
    # Decoding.
    "DECODING_SEED": _SEED,
    "NUM_ANSWERS": _whole(1, 10**4),
    "RANK_LABELS": _TEXTS,
    # The model. The largest sizes are above any T5's: they stop a slip before it takes memory.
    "PROMPT_LENGTH": _whole(1, 10**6),
    "NUM_EMBEDDINGS": _whole(1, 10**8),
    "EMBED_DIM": _whole(1, 10**6),
    "NUM_HEADS": _whole(1, 10**4),
    "HEAD_DIM": _whole(1, 10**6),
    "MLP_DIM": _whole(1, 10**7),
    "NUM_ENCODER_LAYERS": _whole(1, 10**4),
    "NUM_DECODER_LAYERS": _whole(1, 10**4),
    "VOCABULARY_EXTRA_IDS": _whole(0, 10**6),
    "ACTIVATION_DTYPE": _one_of("float32", "bfloat16", "float16"),
    "DROPOUT_RATE": _FRACTION,
    "LABEL_SMOOTHING": _FRACTION,
    "LOSS_NORMALIZING_FACTOR": Check(
        f"a number above 0, one of {', '.join(LossNormalizingFactor.__members__)}, or None",
        lambda value: (
            value is None
            or (_is_number(value) and value > 0)
            or (isinstance(value, str) and value.upper() in LossNormalizingFactor.__members__)
        ),
    ),
    "Z_LOSS": _NOT_NEGATIVE,
    # The optimizer.
    "LEARNING_RATE": _NOT_NEGATIVE,
    "LEARNING_RATE_SCHEDULE": _TEXT,
    "WARMUP_STEPS": _whole(0),
    "DECAY_STEPS": _whole(1).or_none(),
    # Fields without a macro in the packaged files.
    "train_split": _TEXT,
    "eval_split": _TEXT,
}
"""The allowed values of each macro of the packaged gin files; other macros are not checked."""


def check(macro: str, value: Any) -> None:
    """Checks the value of a macro.

    Raises:
      InputError: If the value is not allowed.
    """
    if macro in MACROS and not MACROS[macro].accepts(value):
        raise InputError(f"{macro} is {value!r}, expected {MACROS[macro].expected}")


def _set_by(macro: str, **default: Any) -> Any:
    """Returns a field that a macro sets."""
    return dataclasses.field(metadata={"macro": macro}, **default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Objects that a Python program gives to a run. A field is None if other options describe it.

    Attributes:
      frozen: The frozen model, which has already been read.
      task: The task or mixture.
      settings: The settings of the run, for its provenance, as lines `NAME = VALUE`.
      console: The console on which the run shows its progress.
      keeps_files: False if the run's directory is removed after the run.
    """

    frozen: FrozenModel | None = None
    task: EngineTask | None = None
    settings: str | None = None
    console: rich.console.Console | None = None
    keeps_files: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options that all three commands have; a check of them reads no file.

    Attributes:
      model: The model, with its prompt module (MODEL).
      checkpoint_path: The frozen model's file or directory (CHECKPOINT_PATH; in training,
        INITIAL_CHECKPOINT_PATH).
      task_feature_lengths: The largest numbers of ids in "inputs" and "targets"
        (TASK_FEATURE_LENGTHS).
      mixture_or_task_name: The task or mixture (MIXTURE_OR_TASK_NAME).
      mixture_or_task_module: A Python module to import first; it registers tasks
        (MIXTURE_OR_TASK_MODULE).
      batch_size: Number of examples in a batch (BATCH_SIZE).
      num_devices: Number of local devices that share a batch; None for all devices of JAX's default
        backend (NUM_DEVICES).
      bucketing: True puts examples of similar length into one batch and pads them only as far as
        they need; False pads all to `task_feature_lengths` (BUCKETING).
      strict_lengths: True refuses a text that is longer than `task_feature_lengths`; False cuts
        it, with a warning (STRICT_LENGTHS).
      hooks: Names of hooks plugins (HOOKS).
      extra_hooks: Names of hooks plugins from the command line.
      given: The objects that a Python program gives.

    Raises:
      InputError: If a value has the wrong type or is out of range.
    """

    model: EncoderDecoderModel
    checkpoint_path: str = _set_by("CHECKPOINT_PATH")
    task_feature_lengths: Mapping[str, int] = _set_by("TASK_FEATURE_LENGTHS")
    mixture_or_task_name: str | None = _set_by("MIXTURE_OR_TASK_NAME", default=None)
    mixture_or_task_module: str | None = _set_by("MIXTURE_OR_TASK_MODULE", default=None)
    batch_size: int = _set_by("BATCH_SIZE", default=32)
    num_devices: int | None = _set_by("NUM_DEVICES", default=None)
    bucketing: bool = _set_by("BUCKETING", default=True)
    strict_lengths: bool = _set_by("STRICT_LENGTHS", default=False)
    hooks: Sequence[str] = _set_by("HOOKS", default=())
    extra_hooks: Sequence[str] = ()
    given: Given = Given()

    def __post_init__(self) -> None:
        """Checks the model, and each other field against the table."""
        if not isinstance(self.model, EncoderDecoderModel):
            raise InputError(
                f"MODEL is {self.model!r}, expected an EncoderDecoderModel: name a models file"
            )
        for field in dataclasses.fields(self):
            check(field.metadata.get("macro", ""), getattr(self, field.name))

    @property
    def task_name(self) -> str:
        """The name of the task, which must be set.

        Raises:
          InputError: If it is None.
        """
        if self.mixture_or_task_name is None:
            raise InputError("MIXTURE_OR_TASK_NAME is None, expected the name of a task")
        return self.mixture_or_task_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """Options of a training run, in addition to `Options`.

    Attributes:
      model_dir: The output directory; it may hold this same run, unfinished (MODEL_DIR).
      total_steps: The step to stop at (TRAIN_STEPS). The run counts on from the step of the loaded
        model, which is 0 if its file has no step.
      relative_steps: Number of steps to take, instead of `total_steps` (TRAIN_STEPS_RELATIVE).
      optimizer: Trains the prompt (OPTIMIZER).
      num_microbatches: The number of equal parts of a batch. A step computes them one after
        another, with the memory of one part. None computes the whole batch at once on
        accelerators and on several devices, and on a CPU in as many parts as is quickest
        (NUM_MICROBATCHES).
      eval_period: Steps between evaluations. There is also one before the first step and one after
        the last (EVAL_PERIOD).
      save_period: Steps between saves (SAVE_PERIOD).
      keep_checkpoints: Number of the newest prompts and states to keep; None keeps every prompt. At
        least two states are kept, to resume the run (KEEP_CHECKPOINTS).
      best_metric: The prompt with the best value of this metric, or of the validation loss,
        `"loss"`, is kept as `best_prompt.npy`; None keeps no best prompt (BEST_METRIC).
      best_is_lowest: True if the lowest value of `best_metric` is the best. None means True for the
        loss, and False for other metrics (BEST_IS_LOWEST).
      eval_loss: True also evaluates the loss per target token, as the metric `loss` (EVAL_LOSS). If
        `best_metric` is the loss, it is always evaluated.
      early_stopping: The run ends after this many evaluations in a row without a better value of
        `best_metric`; None takes all steps (EARLY_STOPPING).
      random_seed: Determines initial values, order and dropout; None draws a seed (RANDOM_SEED).
      train_split: The split to train on.
      eval_split: The split to evaluate on.
      shuffle: False takes the examples in the files' order (SHUFFLE).
      pack: Must be False: prompt tuning does not support packed examples (PACK).
      allow_changes: Names of bindings that may differ when the run is resumed; the prompt's
        provenance lists these changes (ALLOW_CHANGES).
      record_settings: False leaves gin values and paths out of the provenance (RECORD_SETTINGS).
    """

    checkpoint_path: str = _set_by("INITIAL_CHECKPOINT_PATH")
    batch_size: int = _set_by("BATCH_SIZE", default=128)
    model_dir: str = _set_by("MODEL_DIR")
    optimizer: optax.GradientTransformation
    total_steps: int | None = _set_by("TRAIN_STEPS", default=None)
    relative_steps: int | None = _set_by("TRAIN_STEPS_RELATIVE", default=None)
    num_microbatches: int | None = _set_by("NUM_MICROBATCHES", default=None)
    eval_period: int = _set_by("EVAL_PERIOD", default=1000)
    save_period: int = _set_by("SAVE_PERIOD", default=1000)
    keep_checkpoints: int | None = _set_by("KEEP_CHECKPOINTS", default=None)
    best_metric: str | None = _set_by("BEST_METRIC", default=None)
    best_is_lowest: bool | None = _set_by("BEST_IS_LOWEST", default=None)
    eval_loss: bool = _set_by("EVAL_LOSS", default=False)
    early_stopping: int | None = _set_by("EARLY_STOPPING", default=None)
    random_seed: int | None = _set_by("RANDOM_SEED", default=None)
    train_split: str = _set_by("train_split", default="train")
    eval_split: str = _set_by("eval_split", default="validation")
    shuffle: bool = _set_by("SHUFFLE", default=True)
    pack: bool = _set_by("PACK", default=False)
    allow_changes: Sequence[str] = _set_by("ALLOW_CHANGES", default=())
    record_settings: bool = _set_by("RECORD_SETTINGS", default=True)

    def __post_init__(self) -> None:
        """Checks each field against the table, and that examples are not packed."""
        super().__post_init__()
        if self.pack:
            raise InputError("PACK is True, and prompt tuning does not support packed examples")
        if self.early_stopping is not None and self.best_metric is None:
            raise InputError(
                f"EARLY_STOPPING is {self.early_stopping}, and BEST_METRIC is None: name the "
                "metric, such as BEST_METRIC = 'loss'"
            )

    @property
    def evaluates_loss(self) -> bool:
        """True if evaluations need the validation loss."""
        return self.eval_loss or self._best_is_loss

    @property
    def lowest_is_best(self) -> bool:
        """True if a lower value of `best_metric` is better."""
        return self._best_is_loss if self.best_is_lowest is None else self.best_is_lowest

    @property
    def _best_is_loss(self) -> bool:
        # A task in a mixture has TASK/loss.
        return self.best_metric is not None and self.best_metric.rpartition("/")[2] == "loss"

    def last_step(self, first: int) -> int:
        """Returns the step to stop at, for a model of step `first`.

        Raises:
          InputError: If the model's step is higher, or no option sets it.
        """
        last = self.total_steps if self.relative_steps is None else first + self.relative_steps
        if last is None or last < first:
            raise InputError(
                f"TRAIN_STEPS is {last!r}, expected a whole number of at least {first}: the step "
                f"to stop at, counted from the loaded model's step {first}"
            )
        return last


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnsweringOptions(Options):
    """Options of `eval` and `infer`, in addition to `Options`.

    Attributes:
      prompt_files: Several plain prompts by name, instead of one prompt (PROMPT_FILES).
      prompt_column: The column of each example that names its prompt. With None, all prompts answer
        every example (PROMPT_COLUMN).
    """

    prompt_files: Mapping[str, str] | None = _set_by("PROMPT_FILES", default=None)
    prompt_column: str | None = _set_by("PROMPT_COLUMN", default=None)

    def __post_init__(self) -> None:
        """Checks each field against the table, and that a column names one of several prompts."""
        super().__post_init__()
        if self.prompt_column is not None and self.prompt_files is None:
            raise InputError(
                f"PROMPT_COLUMN is {self.prompt_column!r}, and PROMPT_FILES is None; give the "
                "prompts that the column names: PROMPT_FILES = {'a': 'a.npy', 'b': 'b.npy'}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions(AnsweringOptions):
    """Options of an evaluation, in addition to `AnsweringOptions`.

    Attributes:
      output_dir: The output directory (EVAL_OUTPUT_DIR).
      prompt_file: The file of the prompt, whose step hooks get. With None, they get the step of the
        frozen model (PROMPT_FILE).
      split: The split (EVAL_SPLIT).
    """

    output_dir: str = _set_by("EVAL_OUTPUT_DIR")
    prompt_file: str | None = _set_by("PROMPT_FILE", default=None)
    split: str = _set_by("EVAL_SPLIT", default="test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceOptions(AnsweringOptions):
    """Options of inference, in addition to `AnsweringOptions`.

    `mixture_or_task_name` is the task whose template to use, or None.

    Attributes:
      output_dir: The output directory (INFER_OUTPUT_DIR).
      input_file: The file to read (INFER_INPUT_FILE).
      num_answers: Number of answers to write for each text, with their scores (NUM_ANSWERS).
    """

    output_dir: str = _set_by("INFER_OUTPUT_DIR")
    input_file: str = _set_by("INFER_INPUT_FILE")
    num_answers: int = _set_by("NUM_ANSWERS", default=1)

    def __post_init__(self) -> None:
        """Checks each field against the table, and that an ensemble gives one answer."""
        super().__post_init__()
        votes = self.prompt_files is not None and self.prompt_column is None
        if votes and self.num_answers > 1:
            raise InputError(
                f"NUM_ANSWERS is {self.num_answers}, and the prompts in PROMPT_FILES vote on one "
                "answer; set NUM_ANSWERS = 1, or name the prompt of each text with PROMPT_COLUMN"
            )
