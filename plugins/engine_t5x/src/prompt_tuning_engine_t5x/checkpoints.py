"""Saves and restores T5X's checkpoints of a frozen model with a prompt; writes prompt files.

T5X itself saves and restores. This module has the functions and the class to configure it with.

- `frozen_parameters` restores the frozen model from a checkpoint: every parameter, and no prompt.
- `prompt_files` writes the prompt at each save, for all forms of T5X's checkpoints.
- `PromptCheckpointManager` saves the prompt without the frozen model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import linen as nn
from flax import traverse_util
from t5x import checkpoints, state_utils

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, close
from prompt_tuning_core.prompts import PromptFactory
from prompt_tuning_engine_t5x.prompt_parameters import ModelPrompts, is_prompts
from prompt_tuning_files import module_files, provenance
from prompt_tuning_files import prompt_files as files

if TYPE_CHECKING:
    import seqio
    from t5x import train_state

State = Mapping[str, Any]
"""A training state as T5X stores it: `target` (parameters) and `state` (step, optimizer)."""

_PARAMETERS = "target/"
_STEP = "state/step"
_OPTIMIZER = "state/param_states/"


def frozen_parameters(prompt_factory: PromptFactory) -> Callable[..., State]:
    """Makes the function that takes only the frozen model from a checkpoint.

    Use it for `utils.RestoreCheckpointConfig.state_transformation_fns`, with `fallback_to_scratch`.
    T5X then initializes all that the function leaves out: the prompt, even if the checkpoint has
    one, and its optimizer's state. A run that resumes from its own checkpoint restores all of
    these.

    Args:
      prompt_factory: Makes the prompt module (PROMPT); not used: its parameters are known by name.

    Returns:
      A `t5x.checkpoints.RestoreStateTransformationFn`. It raises `InputError` if the checkpoint
      lacks a parameter of the frozen model.
    """
    del prompt_factory

    def transform(checkpoint: State, model: State, *, is_resuming: bool = False) -> State:
        if is_resuming:
            return checkpoint
        saved, expected = _flat(checkpoint), _flat(model)
        frozen = [
            name
            for name in expected
            if name.startswith(_PARAMETERS) and not is_prompts(name.removeprefix(_PARAMETERS))
        ]
        check_complete(frozen, saved)
        kept = [*frozen, _STEP] if _STEP in saved else frozen
        logging.info("%d parameters are the checkpoint's; the prompt is initialized.", len(frozen))
        return _nested({name: saved[name] for name in kept})

    return transform


def check_complete(expected: Sequence[str], found: Sequence[str] | Mapping[str, Any]) -> None:
    """Checks that a checkpoint holds each parameter of the frozen model.

    Raises:
      InputError: If a parameter is missing; T5X would give it random values.
    """
    missing = [name for name in expected if name not in found]
    if missing:
        first = missing[0].removeprefix(_PARAMETERS)
        names = [name.removeprefix(_PARAMETERS) for name in found]
        raise InputError(
            f"the checkpoint lacks {len(missing)} of the frozen model's {len(expected)} "
            f"parameters, the first is {first!r}{close(first, names)}; is it a checkpoint of this "
            "model and size?"
        )


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The facts about a run in its gin config, for the provenance of its prompts.

    Attributes:
      initial_checkpoint_path: The frozen model (INITIAL_CHECKPOINT_PATH).
      mixture_or_task_name: The task (MIXTURE_OR_TASK_NAME).
      mixture_or_task_module: The task's plugin or module (MIXTURE_OR_TASK_MODULE).
      task_feature_lengths: The lengths to which texts are cut (TASK_FEATURE_LENGTHS).
      vocabulary: The vocabulary (VOCABULARY).
      random_seed: The seed; None if T5X draws one (RANDOM_SEED).
      record_settings: False leaves gin values and paths out of the provenance (RECORD_SETTINGS).
    """

    initial_checkpoint_path: str | None = None
    mixture_or_task_name: str | None = None
    mixture_or_task_module: str | None = None
    task_feature_lengths: Mapping[str, int] | None = None
    vocabulary: seqio.Vocabulary | None = None
    random_seed: int | None = None
    record_settings: bool = True

    def collect(self) -> dict[str, Any]:
        """Returns these facts, and the versions and gin bindings of the run, for a JSON file."""
        facts = {
            "model": {"path": self.initial_checkpoint_path},
            "vocabulary": _vocabulary_facts(self.vocabulary),
            "task": {
                "name": self.mixture_or_task_name,
                "module": self.mixture_or_task_module,
                "feature_lengths": dict(self.task_feature_lengths or {}),
            },
            "seed": self.random_seed,
            **provenance.facts(("prompt-tuning-engine-t5x", *_t5x_distributions())),
        }
        return facts if self.record_settings else provenance.without_settings(facts)


def prompt_files(
    model_dir: str, architecture: nn.Module, run_facts: RunFacts, hooks: Sequence[str] = ()
) -> Callable[[State, Any], tuple[State, Any]]:
    """Makes the function that writes the prompt whenever T5X saves a checkpoint.

    Use it for `utils.SaveCheckpointConfig.state_transformation_fns`. It writes the same files as
    the embedded engine: `prompt_STEP.npy` for a plain prompt, `[P, H]` float32,
    `prompt_STEP.safetensors` for a prompt module with other arrays, and `prompt_STEP.json`, the
    provenance. Only the first process writes. The files are directly in `model_dir`, where T5X's
    `keep` does not delete them.

    Args:
      model_dir: The output directory, local or in a bucket (MODEL_DIR).
      architecture: The Flaxformer module with the prompt (ARCHITECTURE).
      run_facts: The facts for the provenance.
      hooks: Names of the hooks plugins to call for each saved prompt (HOOKS).

    Returns:
      A `t5x.checkpoints.SaveStateTransformationFn`, which does not change the state.

    Raises:
      InputError: If no prompt file can hold the prompt module.
    """
    prompts = ModelPrompts(architecture)
    description = module_files.describe(prompts.module)
    hook = registry.process_registry().load_hooks(hooks)
    # Collected at the first save: then gin has called everything that the run uses.
    facts = functools.cache(lambda: {**run_facts.collect(), "prompt_module": description})

    def transform(state: State, infos: Any) -> tuple[State, Any]:
        if jax.process_index() == 0:
            flat = _flat(state)
            arrays = {
                name.removeprefix(_PARAMETERS): np.asarray(_value(value), np.float32)
                for name, value in flat.items()
                if is_prompts(name.removeprefix(_PARAMETERS))
            }
            found = prompts.matrix(_nested(arrays))
            matrix = None if found is None else np.asarray(found)
            step = int(_value(flat[_STEP]))
            if not any(epath.Path(model_dir).glob("prompt_*.json")):
                hook.prompt_initialized(prompt=matrix, parameters=arrays, provenance=facts())
            paths, written = _write(
                model_dir, step, arrays, matrix, description, {**facts(), "step": step}
            )
            hook.prompt_saved(paths=paths, provenance=written)
        return state, infos

    return transform


def manager_class(only_prompt: bool = False, use_orbax: bool = True) -> type[Any]:
    """Returns the class that saves and restores: T5X's own, or one without the frozen model.

    Use it for `checkpoint_manager_cls` of both `utils.SaveCheckpointConfig` and
    `utils.RestoreCheckpointConfig`, with the same arguments.

    Args:
      only_prompt: True saves only the prompt module's parameters (ONLY_PROMPT).
      use_orbax: True if T5X saves with Orbax (USE_ORBAX).

    Raises:
      InputError: If `only_prompt` is True and `use_orbax` is False.
    """
    if not only_prompt:
        return checkpoints.OrbaxCheckpointManagerInterface
    if not use_orbax:
        raise InputError(
            "ONLY_PROMPT is True and USE_ORBAX False, and T5X's own form of checkpoints always "
            "holds the model; set USE_ORBAX = True"
        )
    return PromptCheckpointManager


class PromptCheckpointManager(checkpoints.OrbaxCheckpointManagerInterface):
    """Saves the prompt module's parameters, its optimizer's state and the step.

    A resumed run reads the frozen parameters from the initial checkpoint again. The checkpoints are
    in the folder `prompt_checkpoints` of the run's directory. Directly in the run's directory, T5X
    would read them as complete checkpoints.
    """

    def __init__(
        self, directory: str, train_state: train_state.TrainState, *args: Any, **kwargs: Any
    ) -> None:
        own = epath.Path(directory) / "prompt_checkpoints"
        own.mkdir(parents=True, exist_ok=True)
        super().__init__(os.fspath(own), train_state, *args, **kwargs)

    def save(
        self,
        train_state: train_state.TrainState,
        state_transformation_fns: Sequence[Callable[..., Any]] = (),
        force: bool = True,
    ) -> bool:
        """Saves a checkpoint; see T5X's class."""
        return super().save(train_state, (*state_transformation_fns, _only_prompt), force)

    def restore(
        self,
        step: int | None = None,
        path: str | None = None,
        fallback_state: State | None = None,
        state_transformation_fns: Sequence[Callable[..., Any]] = (),
        lazy_parameters: bool | None = False,
    ) -> train_state.TrainState:
        """Restores the model from `path`, and the prompt from the newest save, if any."""
        restored = super().restore(
            step, path, fallback_state, state_transformation_fns, lazy_parameters
        )
        newest = self.latest_step()
        if newest is None:
            return restored
        state = restored.state_dict()
        prompt, _ = _only_prompt(state, state)
        saved = self._manager.restore(
            newest,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    prompt, restore_args=ocp.checkpoint_utils.construct_restore_args(prompt)
                )
            ),
        )["state"]
        logging.info("Resuming from step %d; the frozen model comes from %s.", newest, path)
        return restored.restore_state(_nested({**_flat(state), **_flat(saved)}))


def _only_prompt(state: State, infos: Any) -> tuple[State, Any]:
    """Leaves out the parameters of the frozen model."""
    flat, flat_infos = _flat(state), _flat(infos)
    kept = [
        name
        for name in flat
        if not name.startswith(_PARAMETERS) or is_prompts(name.removeprefix(_PARAMETERS))
    ]
    return _nested({n: flat[n] for n in kept}), _nested({n: flat_infos[n] for n in kept})


def _flat(state: State) -> dict[str, Any]:
    # T5X's function: it does not flatten the description of a stored array.
    return state_utils.flatten_state_dict(state)


def _nested(flat: Mapping[str, Any]) -> State:
    return traverse_util.unflatten_dict(flat, sep="/")


def _value(array: Any) -> Any:
    """Returns the value of an array that T5X will save; the array may be lazy or on a device."""
    if isinstance(array, checkpoints.LazyArray):
        array = array.get()
    return array.addressable_data(0) if isinstance(array, jax.Array) else array


def _write(
    model_dir: str,
    step: int,
    arrays: Mapping[str, np.ndarray],
    matrix: np.ndarray | None,
    description: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> tuple[list[str], Mapping[str, Any]]:
    """Writes a prompt and its provenance; returns the prompt's files and the provenance."""
    name = files.name_at(step)
    if "://" not in model_dir:
        return _write_here(os.path.join(model_dir, name), arrays, matrix, description, facts)
    # A bucket writes an object completely or not at all.
    target = epath.Path(model_dir)
    with tempfile.TemporaryDirectory() as folder:
        paths, written = _write_here(os.path.join(folder, name), arrays, matrix, description, facts)
        provenance_file = Path(folder, name).with_suffix(".json")
        for path in [os.fspath(provenance_file), *paths]:
            (target / os.path.basename(path)).write_bytes(Path(path).read_bytes())
    return [os.fspath(target / os.path.basename(path)) for path in paths], written


def _write_here(
    path: str,
    arrays: Mapping[str, np.ndarray],
    matrix: np.ndarray | None,
    description: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> tuple[list[str], Mapping[str, Any]]:
    """Writes a prompt to a local file; see `_write`."""
    paths = [os.fspath(one) for one in module_files.save(path, arrays, matrix, description, facts)]
    return paths, json.loads(Path(path).with_suffix(".json").read_text())


def _vocabulary_facts(vocabulary: seqio.Vocabulary | None) -> dict[str, Any]:
    path = getattr(vocabulary, "sentencepiece_model_file", None)
    if vocabulary is None or path is None:
        return {}
    content = epath.Path(path).read_bytes()
    return {
        "path": path,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": vocabulary.vocab_size,
    }


def _t5x_distributions() -> list[str]:
    """Returns the installed distributions of T5X and its parts, without checkouts on the path."""
    names = ("t5x", "flaxformer", "seqio", "tensorflow")
    installed = {str(dist.name) for dist in importlib.metadata.distributions()}
    return [name for name in names if name in installed]
