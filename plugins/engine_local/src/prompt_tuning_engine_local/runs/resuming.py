"""Checks that MODEL_DIR holds the same run before resuming it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import provenance

# These may change when a run resumes, since no step depends on them: the last step, the reports,
# the files to keep, and paths (the model is compared by its checksum).
_CHANGEABLE = {
    "total_steps", "relative_steps", "eval_period", "save_period", "keep_checkpoints",
    "best_metric", "hooks", "model_dir", "checkpoint_path", "initial_checkpoint_path",
    "vocabulary_file", "num_devices",
}  # fmt: skip
_CHANGEABLE |= {name.upper() for name in _CHANGEABLE} | {"TRAIN_STEPS", "TRAIN_STEPS_RELATIVE"}


def check_same_run(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to resume another run.

    Args:
      directory: The run's directory.
      old: The facts of the run there (`run_facts.describe_run`).
      new: The facts of the run asked for.

    Raises:
      InputError: If the facts differ; names the first difference.
    """
    found, asked = _comparable(old), _comparable(new)
    for name in [*found, *(name for name in asked if name not in found)]:
        if found.get(name) != asked.get(name):
            raise InputError(
                f"MODEL_DIR {directory} holds another run: there {name} is "
                f"{found.get(name, 'not set')}, and here {asked.get(name, 'not set')}; give "
                "another directory, or the same value"
            )


def _comparable(facts: Mapping[str, Any]) -> dict[str, str]:
    plugins = {
        f"the distribution of plugin {plugin['name']}": " ".join(
            (plugin["distribution"], plugin["version"])
        )
        for plugin in facts["plugins"]
        if plugin["kind"] != "hooks"
    }
    bindings = {
        name: value
        for name, value in provenance.bindings(facts["config"]).items()
        if name.rpartition(".")[2] not in _CHANGEABLE
    }
    # Settings of the user come first: they explain more than a checksum.
    return {
        **bindings,
        **plugins,
        "the checksum of the model": facts["model"]["sha256"],
        "the checksum of the vocabulary": facts["vocabulary"]["sha256"],
        "the checksum of the training examples": facts["task"]["training_examples_sha256"],
    }
