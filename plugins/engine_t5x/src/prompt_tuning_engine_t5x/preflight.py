"""Checks a run of `prompt-tuning … --engine t5x` before it uses devices.

The runs files configure these functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.core
import jax
import numpy as np
from etils import epath
from flax import traverse_util
from t5x import models

from prompt_tuning_core import parameters
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptFactory, described
from prompt_tuning_engine_t5x import checkpoints
from prompt_tuning_engine_t5x.prompt_parameters import ModelPrompts, is_prompts
from prompt_tuning_files import formats, module_files
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

# Forms of models that T5X reads.
_T5X_FORMATS = ("t5x_legacy", "t5x_orbax")


def check_training(
    model: models.BaseTransformerModel,
    prompt_factory: PromptFactory,
    checkpoint_path: str,
    model_dir: str,
    total_steps: int | None,
    relative_steps: int | None,
    eval_period: int,
    save_period: int,
) -> None:
    """Checks a training run.

    Args:
      model: T5X's model (MODEL).
      prompt_factory: Makes the prompt module (PROMPT).
      checkpoint_path: The frozen model (INITIAL_CHECKPOINT_PATH).
      model_dir: The output directory (MODEL_DIR).
      total_steps: The step to stop at (TRAIN_STEPS).
      relative_steps: The number of steps to take (TRAIN_STEPS_RELATIVE).
      eval_period: Steps between evaluations (EVAL_PERIOD).
      save_period: Steps between saves (SAVE_PERIOD).

    Raises:
      InputError: If something cannot be used.
    """
    if not total_steps and not relative_steps:
        raise InputError("neither TRAIN_STEPS nor TRAIN_STEPS_RELATIVE is set; set one of them")
    longer, shorter = max(eval_period, save_period), min(eval_period, save_period)
    if shorter < 1 or longer % shorter:
        raise InputError(
            f"EVAL_PERIOD is {eval_period} and SAVE_PERIOD {save_period}; T5X needs one to be a "
            "multiple of the other"
        )
    # A resumed run reads its own checkpoint, which contains the frozen model.
    if not any(epath.Path(model_dir).glob("checkpoint_*")):
        _check_model(model, prompt_factory, checkpoint_path)
    _check_can_be_saved(model)


def check_inference(
    model: models.BaseTransformerModel, prompt_factory: PromptFactory, checkpoint_path: str
) -> None:
    """Checks an evaluation or inference; for arguments and errors, see `check_training`."""
    _check_model(model, prompt_factory, checkpoint_path)


def _check_model(
    model: models.BaseTransformerModel, prompt_factory: PromptFactory, checkpoint_path: str
) -> None:
    """Checks that the prompt can be initialized, and that the checkpoint is complete."""
    _check_vocabulary(model.input_vocabulary)
    shapes = _shapes(model)
    _check_prompt(model, shapes)
    expected = {name: leaf.shape for name, leaf in shapes.items() if not is_prompts(name)}
    located = formats.locate_model(checkpoint_path)
    if located.form not in _T5X_FORMATS:
        raise InputError(
            f"model {checkpoint_path} is of the form {located.form}, and T5X reads its own "
            f"checkpoints ({', '.join(_T5X_FORMATS)}); use --engine local for it"
        )
    found = formats.open_model(checkpoint_path).variables
    checkpoints.check_complete(list(expected), found)
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise InputError(
                f"model {checkpoint_path}: the parameter {name!r} has the shape "
                f"{found[name].shape}, and the model described in gin has {shape}; is it a model "
                "of this size?"
            )


def _check_vocabulary(vocabulary: Any) -> None:
    """Checks the vocabulary, if it is a file on this machine, before seqio reads it."""
    path = getattr(vocabulary, "sentencepiece_model_file", None)
    if not path or "://" in str(path):
        return
    path = epath.Path(path)
    if path.is_dir() or path.suffix == ".json":
        raise InputError(
            f"VOCABULARY_FILE {path}: T5X reads the SentencePiece model itself; give the path of "
            "the spiece.model or sentencepiece.model, or use --engine local"
        )
    found = SentencePieceVocabulary(path, extra_ids=0)
    wanted = int(vocabulary.extra_ids)
    pieces = {piece.removeprefix("▁") for piece in found.pieces}
    twice = pieces.intersection(f"<extra_id_{number}>" for number in range(wanted))
    if twice:
        raise InputError(
            f"VOCABULARY_FILE {path}: VOCABULARY_EXTRA_IDS is {wanted}, and {len(twice)} of these "
            "extra ids are in the file, where seqio cannot add them again; set "
            "VOCABULARY_EXTRA_IDS to 0"
        )


def _check_prompt(
    model: models.BaseTransformerModel, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
    """Checks the parameters of the prompt modules, and what their points return."""
    dtype = model.module.dtype
    for side, prompt in ModelPrompts(model.module).by_side.items():
        start = f"{side}/prompt/"
        own = {n.removeprefix(start): leaf for n, leaf in shapes.items() if n.startswith(start)}
        for name, leaf in own.items():
            if leaf.dtype != np.float32:
                raise InputError(
                    f"{described(prompt)}: parameter {name!r} is {leaf.dtype}, expected float32"
                )
        parameters.check_points(prompt, own, dtype)


def _check_can_be_saved(model: models.BaseTransformerModel) -> None:
    """Refuses to train a prompt module with a field or a matrix that no prompt file can hold."""
    prompts = ModelPrompts(model.module)
    arrays = {name: leaf for name, leaf in _shapes(model).items() if is_prompts(name)}
    jax.eval_shape(prompts.matrix, traverse_util.unflatten_dict(arrays, sep="/"))
    module_files.describe(prompts.module)


def _shapes(model: models.BaseTransformerModel) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shape and dtype of each parameter; calls initializers, but computes nothing."""
    lengths = dict.fromkeys(model.FEATURE_CONVERTER_CLS.MODEL_FEATURES, (1, 1))

    def initialize() -> Any:
        return model.get_initial_variables(
            jax.random.PRNGKey(0), lengths, dict.fromkeys(lengths, np.int32)
        )

    params = jax.eval_shape(lambda: initialize()["params"])
    return traverse_util.flatten_dict(flax.core.unfreeze(params), sep="/")
