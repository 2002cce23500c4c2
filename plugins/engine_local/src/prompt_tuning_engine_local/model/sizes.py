"""Derives the sizes of a network from the variables of a model on disk, without gin."""

from __future__ import annotations

import os
from collections.abc import Mapping

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_files import formats, model_sizes
from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.formats import Variable

_RELATIVE_POSITIONS = "encoder/relpos_bias/rel_embedding"
_QUERY = "encoder/layers_0/attention/query/kernel"
_GATED = "encoder/layers_0/mlp/wi_0/kernel"
_NOT_GATED = "encoder/layers_0/mlp/wi/kernel"


def config_of_checkpoint(
    checkpoint_path: str | os.PathLike[str], dropout_rate: float = 0.0, dtype: str = "float32"
) -> T5Config:
    """Returns the configuration of the model in a checkpoint; reads only its index.

    Args:
      checkpoint_path: A model of any installed form (INITIAL_CHECKPOINT_PATH; CHECKPOINT_PATH in
        `eval` and `infer`).
      dropout_rate: Dropout while training (DROPOUT_RATE).
      dtype: Dtype of activations, "float32" or "bfloat16" (ACTIVATION_DTYPE).

    Raises:
      InputError: If there is no model, or it is no T5.
    """
    path = os.path.expanduser(checkpoint_path)
    return config_of(formats.open_model(path), str(path), dropout_rate, dtype)


def config_of(
    model: formats.ModelFile, name: str, dropout_rate: float = 0.0, dtype: str = "float32"
) -> T5Config:
    """Returns the configuration of a T5 whose index has been read.

    For example, the relative position biases have one row for each head. Without a matrix for the
    output layer, the embedding table is the output layer. No shape shows some settings; the model's
    form may describe these (`formats.DescribedModelFile`).

    Args:
      model: The model.
      name: Its name in errors: its path.
      dropout_rate: Dropout while training.
      dtype: Dtype of activations.

    Raises:
      InputError: If a variable that every T5 has is missing, or has an impossible shape.
    """
    variables = model.variables
    num_embeddings, emb_dim = _matrix(variables, EMBEDDING_VARIABLE, name)
    derived = model_sizes.derive(variables)
    num_heads, relpos_buckets = _matrix(variables, _RELATIVE_POSITIONS, name)
    _, joined = _matrix(variables, _QUERY, name)
    _, mlp_dim = _matrix(variables, _GATED if derived.mlp_gated else _NOT_GATED, name)
    if joined % num_heads:
        raise InputError(
            f"model {name}: {_QUERY} has {joined} columns, which {num_heads} heads (the rows of "
            f"{_RELATIVE_POSITIONS}) cannot share"
        )
    described = model.network if isinstance(model, formats.DescribedModelFile) else {}
    return T5Config(
        num_embeddings=num_embeddings,
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=joined // num_heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=derived.encoder_layers,
        num_decoder_layers=derived.decoder_layers,
        dropout_rate=dropout_rate,
        dtype=dtype,
        relpos_buckets=relpos_buckets,
        activation="gated-gelu" if derived.mlp_gated else "relu",
        logits_via_embedding=derived.logits_tied,
        relpos_max_distance=described.get("relpos_max_distance", 128),
    )


def _matrix(variables: Mapping[str, Variable], variable: str, name: str) -> tuple[int, int]:
    if variable not in variables:
        raise InputError(
            f"model {name}: has no variable {variable!r}, expected a T5 encoder-decoder"
            f"{nearest(variable, variables)}"
        )
    shape = variables[variable].shape
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"model {name}: {variable} has the shape {shape}, expected a matrix")
    return shape[0], shape[1]
