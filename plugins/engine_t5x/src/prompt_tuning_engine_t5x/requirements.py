"""Checks that T5X and Flaxformer are installed, in versions with the names that we use."""

from __future__ import annotations

import importlib
from types import ModuleType

from prompt_tuning_core import gin_config
from prompt_tuning_core.errors import InputError, one_line

TESTED = {"t5x": "cc342d4", "flaxformer": "399ea3a"}
"""The commits that the tests ran with."""

_INSTRUCTIONS = {
    "t5x": "https://github.com/google-research/t5x",
    "flaxformer": "https://github.com/google/flaxformer",
}

# The names that we call or subclass; other versions may lack them.
_NAMES = (
    "t5x.checkpoints.LazyArray",
    "t5x.checkpoints.OrbaxCheckpointManagerInterface",
    "t5x.models.DecoderOnlyModel",
    "t5x.models.EncoderDecoderModel",
    "t5x.optimizers.MultiOptimizer",
    "t5x.partitioning.standard_logical_axis_rules",
    "t5x.trainer.BaseAction",
    "t5x.utils.RestoreCheckpointConfig.checkpoint_manager_cls",
    "t5x.utils.SaveCheckpointConfig.checkpoint_manager_cls",
    "flaxformer.architectures.t5.t5_architecture.Decoder.decode_from_continuous_inputs",
    "flaxformer.architectures.t5.t5_architecture.DecoderOnly",
    "flaxformer.architectures.t5.t5_architecture.Encoder.embed_and_combine_inputs",
    "flaxformer.architectures.t5.t5_architecture.Encoder.encode_from_continuous_inputs",
    "flaxformer.architectures.t5.t5_architecture.EncoderDecoder.encode",
    "flaxformer.components.attention.dense_attention.make_attention_mask",
)


def check_installed() -> None:
    """Checks that T5X and Flaxformer can be found, without importing them.

    Raises:
      InputError: If one of them cannot be found.
    """
    for name in TESTED:
        try:
            gin_config.find_module(name)
        except InputError:
            raise InputError(
                f"--engine t5x needs {name}, which is not installed and not on PyPI; install it by "
                f"its own instructions ({_INSTRUCTIONS[name]}), see also docs/t5x.md"
            ) from None


def import_module(name: str) -> ModuleType:
    """Imports a module of T5X or Flaxformer.

    Raises:
      InputError: If it, or something that it imports, fails to import.
    """
    try:
        return importlib.import_module(name)
    except Exception as e:  # Its imports may raise anything.
        project = name.partition(".")[0]
        raise InputError(
            f"{name} cannot be imported: {one_line(e)}; install what {project} needs by its own "
            f"instructions ({_INSTRUCTIONS[project]}), see also docs/t5x.md"
        ) from e


def check_names() -> None:
    """Imports the names that we use from T5X and Flaxformer.

    Raises:
      InputError: If one of them is missing.
    """
    for path in _NAMES:
        parts = path.split(".")
        # A lower-case name may be a module, or a function in one.
        count = next((i for i, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
        found: object = import_module(".".join(parts[:count]))
        for part in parts[count:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, part) and part not in fields:
                raise InputError(
                    f"{parts[0]} has no {path}; this version of the engine was tested with "
                    f"{parts[0]} at {TESTED[parts[0]]} ({_INSTRUCTIONS[parts[0]]})"
                )
            found = getattr(found, part, None)
