"""Runs T5X's scripts as the command `prompt-tuning … --engine t5x`.

T5X's own `main` does the same: parse flags, parse gin files, call the function that they configure.
Here the core parses the gin files, so that plugins go by their bare names and what is wrong is one
line, and what can be known before devices are taken is checked then.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from prompt_tuning_core import gin_config, registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_engine_t5x import requirements
from prompt_tuning_files import trained_prompts


@dataclasses.dataclass(frozen=True)
class _Script:
    """One of T5X's scripts.

    Attributes:
      module: Its name.
      function: What it calls, configured by gin.
      runs_file: Our gin file for it.
    """

    module: str
    function: str
    runs_file: str


_SCRIPTS = {
    "train": _Script("t5x.train", "train", "runs/prompt_finetune.gin"),
    "eval": _Script("t5x.eval", "evaluate", "runs/prompt_eval.gin"),
    "infer": _Script("t5x.infer", "infer", "runs/prompt_infer.gin"),
}

_DIRECTORIES = (
    "MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR",
    "INFER_OUTPUT_DIR",
)  # fmt: skip


def run(command: str, flags: RunFlags) -> None:
    """Runs a command.

    Args:
      command: "train", "eval" or "infer".
      flags: What the person wrote. Flags that are T5X's, absl's or JAX's stand in `extra`.

    Raises:
      PromptTuningError: If T5X or Flaxformer is missing or of another time, or something given
        cannot be used.
    """
    requirements.check_installed()
    script = _SCRIPTS[command]
    # TensorFlow, which T5X reads data with, is talkative while it starts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module = requirements.import_module(script.module)
    requirements.check_names()
    options = _parse(command, flags.extra)
    # T5X's gin files call the script by the name that a script has while it runs.
    sys.modules["__main__"] = module
    fill = trained_prompts.announce if command == "train" else trained_prompts.fill
    parsed = gin_config.parse(flags, engine="t5x", fill=fill)
    for note in parsed.notes:
        sys.stdout.write(f"{note}\n")
    import gin

    with gin.unlock_config():
        if parsed.hooks:
            gin.bind_parameter(_macro("HOOKS"), parsed.hooks)
        _make_absolute()
    target = getattr(module, script.function)
    try:
        configured = gin.get_configurable(target)
    except (KeyError, ValueError):
        raise InputError(
            f"no gin file configures {script.module}.{script.function}: add "
            f"--gin_file={script.runs_file}"
        ) from None
    _start(options)
    _check_before_devices(command)
    result = configured(**({} if options.shard_id is None else {"shard_id": options.shard_id}))
    import jax

    jax.effects_barrier()
    registry.process_registry().load_hooks(parsed.hooks).run_finished(run=result)


def _macro(name: str) -> str:
    return f"{name}/gin.macro.value"


def _make_absolute() -> None:
    """Makes the local paths in gin's macros absolute, which Orbax insists on."""
    import gin

    for name in _DIRECTORIES:
        try:
            path = gin.query_parameter(_macro(name))
        except ValueError:  # Not a macro of these files.
            continue
        if isinstance(path, str) and "://" not in path:
            gin.bind_parameter(_macro(name), os.path.abspath(os.path.expanduser(path)))


def _parse(command: str, arguments: Sequence[str]) -> Any:
    """Parses the flags that T5X's scripts have besides gin's, and absl's and JAX's own."""
    from absl import flags, logging

    flags.DEFINE_string("tfds_data_dir", None, "Where TensorFlow Datasets keeps its data.")
    flags.DEFINE_integer("shard_id", None, "Which shard of the task to infer.")
    flags.DEFINE_list("seqio_additional_cache_dirs", [], "Where cached tasks are.")
    flags.DEFINE_boolean("multiprocess_gpu", False, "Whether processes form one system.")
    flags.DEFINE_string("coordinator_address", None, "IP address:port of the first process.")
    flags.DEFINE_integer("process_count", None, "How many processes there are.")
    flags.DEFINE_integer("process_index", None, "Which of them this is.")
    flags.DEFINE_integer("initialization_timeout", None, "Seconds to wait for the others.")
    try:
        rest = flags.FLAGS(["prompt-tuning", *arguments])[1:]
    except flags.Error as e:
        raise InputError(f"{e}; see prompt-tuning {command} --help, and T5X's own flags") from e
    if rest:
        raise InputError(f"unknown argument {rest[0]!r}")
    if flags.FLAGS.shard_id is not None and command != "infer":
        raise InputError("--shard_id is a flag of prompt-tuning infer")
    logging.use_absl_handler()
    return flags.FLAGS


def _start(options: Any) -> None:
    """Does what T5X's scripts do before they call their function."""
    import jax
    import seqio
    import tensorflow as tf

    # JAX is to have the accelerators.
    tf.config.experimental.set_visible_devices([], "GPU")
    if options.multiprocess_gpu:
        timeout = options.initialization_timeout
        jax.distributed.initialize(
            options.coordinator_address,
            options.process_count,
            options.process_index,
            **({} if timeout is None else {"initialization_timeout": timeout}),
        )
    if options.tfds_data_dir:
        seqio.set_tfds_data_dir_override(options.tfds_data_dir)
    seqio.add_global_cache_dirs(options.seqio_additional_cache_dirs)


def _check_before_devices(command: str) -> None:
    """Calls our check of the values in gin, where our runs file has configured it."""
    import gin

    preflight = importlib.import_module("prompt_tuning_engine_t5x.preflight")
    check = preflight.check_training if command == "train" else preflight.check_inference
    try:
        configured = gin.get_configurable(check)
    except (KeyError, ValueError):
        return  # T5X's own runs file, for a checkpoint with the prompt in it.
    configured()
