"""Runs T5X's scripts as the command `prompt-tuning … --engine t5x`.

T5X's own `main` parses the flags and the gin files, and calls the function that they configure.
This module does the same, with two differences. The core parses the gin files, so files
may use plugins' bare names, and each error is one line. And the run is checked before it uses
devices.
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
      module: The script's module.
      function: The function that it calls, configured by gin.
      runs_file: Our gin file for the script.
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
      flags: The user's flags. `extra` holds flags of T5X, absl and JAX.

    Raises:
      PromptTuningError: If T5X or Flaxformer is missing or of another version, or some input
        cannot be used.
    """
    requirements.check_installed()
    script = _SCRIPTS[command]
    # T5X reads data with TensorFlow, which prints many lines when it starts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module = requirements.import_module(script.module)
    requirements.check_names()
    options = _parse(command, flags.extra)
    # T5X's gin files refer to the script as `__main__`, the name of a running script.
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
    """Makes the local paths in gin's macros absolute: Orbax refuses relative ones."""
    import gin

    for name in _DIRECTORIES:
        try:
            path = gin.query_parameter(_macro(name))
        except ValueError:  # The files of this run have no such macro.
            continue
        if isinstance(path, str) and "://" not in path:
            gin.bind_parameter(_macro(name), os.path.abspath(os.path.expanduser(path)))


def _parse(command: str, arguments: Sequence[str]) -> Any:
    """Parses the flags of T5X's scripts (except gin's flags), of absl and of JAX."""
    from absl import flags, logging

    if "tfds_data_dir" not in flags.FLAGS:
        _define_flags()
    for flag in flags.FLAGS.get_flags_for_module(__name__):
        flag.unparse()  # This process may have run another command.
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


def _define_flags() -> None:
    from absl import flags

    flags.DEFINE_string("tfds_data_dir", None, "Where TensorFlow Datasets keeps its data.")
    flags.DEFINE_integer("shard_id", None, "Number of the shard of the task to infer.")
    flags.DEFINE_list("seqio_additional_cache_dirs", [], "Where cached tasks are.")
    flags.DEFINE_boolean("multiprocess_gpu", False, "True if processes with GPUs form one system.")
    flags.DEFINE_string("coordinator_address", None, "IP address:port of the first process.")
    flags.DEFINE_integer("process_count", None, "Number of processes.")
    flags.DEFINE_integer("process_index", None, "Index of this process.")
    flags.DEFINE_integer("initialization_timeout", None, "Seconds to wait for the other processes.")


def _start(options: Any) -> None:
    """Prepares JAX and TensorFlow as T5X's scripts do before they call their function."""
    import jax
    import seqio
    import tensorflow as tf

    # Leave the accelerators to JAX.
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
    """Calls our check of the values in gin, if our runs file has configured it."""
    import gin

    preflight = importlib.import_module("prompt_tuning_engine_t5x.preflight")
    check = preflight.check_training if command == "train" else preflight.check_inference
    try:
        configured = gin.get_configurable(check)
    except (KeyError, ValueError):
        return  # With T5X's own runs file, the checkpoint contains the prompt.
    configured()
