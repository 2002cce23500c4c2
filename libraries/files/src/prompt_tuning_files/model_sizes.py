"""The sizes of a model, derived from the names and shapes of its variables."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.formats import Variable


@dataclasses.dataclass(frozen=True)
class ModelSizes:
    """The sizes of a T5; None for a size that the variables do not show.

    Attributes:
      parameters: Number of parameters.
      size: Bytes of the stored parameters.
      dtypes: Number of parameters stored in each dtype.
      width: Width of the embeddings and between the layers.
      vocabulary_rows: Rows of the embedding table.
      encoder_layers: Number of layers of the encoder.
      decoder_layers: Number of layers of the decoder.
      heads: Number of heads of each attention.
      head_width: Width of each attention head.
      mlp_width: Width of the inner projections.
      mlp_gated: True if there are two inner projections and the first gates the second.
      logits_tied: True if the embedding table also makes the logits.
    """

    parameters: int
    size: int
    dtypes: Mapping[str, int]
    width: int | None
    vocabulary_rows: int | None
    encoder_layers: int
    decoder_layers: int
    heads: int | None
    head_width: int | None
    mlp_width: int | None
    mlp_gated: bool
    logits_tied: bool


def derive(variables: Mapping[str, Variable]) -> ModelSizes:
    """Returns the sizes of the model with these variables, which have Flaxformer's names."""
    dtypes: dict[str, int] = {}
    size = 0
    for variable in variables.values():
        count = math.prod(variable.shape)
        dtypes[variable.dtype] = dtypes.get(variable.dtype, 0) + count
        size += count * _bytes(variable.dtype)
    table = _shape(variables, re.escape(EMBEDDING_VARIABLE))
    # The kernels of attention do not show the number of heads; relative position biases do.
    heads = next(iter(_shape(variables, r".*/rel_embedding")), None)
    attention = math.prod(_shape(variables, r".*attention/query/kernel")[1:])
    inner = _shape(variables, r".*/mlp/wi(_0)?/kernel")
    return ModelSizes(
        parameters=sum(dtypes.values()),
        size=size,
        dtypes=dict(sorted(dtypes.items(), key=lambda item: -item[1])),
        width=table[1] if len(table) == 2 else None,
        vocabulary_rows=table[0] if len(table) == 2 else None,
        encoder_layers=_layers(variables, "encoder"),
        decoder_layers=_layers(variables, "decoder"),
        heads=heads,
        head_width=attention // heads if heads else None,
        mlp_width=math.prod(inner[1:]) if inner else None,
        mlp_gated=any("/mlp/wi_1/" in name for name in variables),
        logits_tied=not any("logits_dense/" in name for name in variables),
    )


def _shape(variables: Mapping[str, Variable], pattern: str) -> tuple[int, ...]:
    """Returns the shape of the first variable whose name has this pattern; () if none has."""
    return next((v.shape for name, v in variables.items() if re.fullmatch(pattern, name)), ())


def _layers(variables: Mapping[str, Variable], part: str) -> int:
    matches = (re.match(rf"{part}/layers_(\d+)/", name) for name in variables)
    return len({match[1] for match in matches if match})


def _bytes(dtype: str) -> int:
    # Numpy knows some names, such as bfloat16, only after jax has been imported.
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
