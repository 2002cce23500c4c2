"""Reads the `config.json` of a T5: its sizes and its variant."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files.strict_json import read_object

FILE_NAME = "config.json"

_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
# Default values of T5; `_of_model_type` has the defaults of one model type.
_OPTIONAL: Mapping[str, Any] = {
    "architectures": None,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": None,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": None,
}
_ARCHITECTURES = {
    "T5ForConditionalGeneration": "t5",
    "T5WithLMHeadModel": "t5",  # The name in the first releases of Transformers.
    "MT5ForConditionalGeneration": "mt5",
}
_FEED_FORWARD = {"t5": "relu", "mt5": "gated-gelu"}
# Settings that are fixed in the network of T5.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (True,),
    "layer_norm_epsilon": (1e-6,),
    "pad_token_id": (0,),
    "decoder_start_token_id": (0, None),
}


@dataclasses.dataclass(frozen=True)
class T5FileConfig:
    """The content of a T5's `config.json`.

    Attributes:
      vocab_size: Rows of the embedding table.
      d_model: Width of the model.
      d_kv: Width of a head.
      d_ff: Hidden width of the feed-forward blocks.
      num_layers: Layers of the encoder.
      num_decoder_layers: Layers of the decoder.
      num_heads: Attention heads.
      num_buckets: Buckets of the relative position biases.
      max_distance: Positions at this distance or farther share the last bucket.
      gated: True for gated-GELU feed-forward blocks (T5 1.1), False for ReLU (1.0).
      scaled_logits: True if the output layer is the embedding table and the decoder's output is
        multiplied by `d_model ** -0.5` before it (T5 1.0).
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    num_buckets: int
    max_distance: int
    gated: bool
    scaled_logits: bool


def read_config(folder: Path) -> T5FileConfig:
    """Reads and checks the `config.json` of a T5 encoder-decoder.

    Raises:
      InputError: If it is missing or damaged, or describes another architecture, or a T5 with a
        setting that the network of T5 1.0 and 1.1 does not have.
    """
    name = f"model {folder / FILE_NAME}"
    found = read_object(folder / FILE_NAME, name)
    model_type = _model_type(found, name)
    for key in _SIZES:
        if key not in found:
            raise InputError(f"{name}: has no {key!r}{nearest(key, found)}")
    values = {**_OPTIONAL, **found}
    _check_spelling(found, name)
    for key, allowed in _FIXED.items():
        if values[key] not in allowed:
            raise InputError(
                f"{name}: {key} is {values[key]!r}, and of T5 only {allowed[0]!r} is supported"
            )
    feed_forward = values["feed_forward_proj"]
    if feed_forward is None:
        feed_forward = _FEED_FORWARD[model_type]
    if feed_forward not in ("gated-gelu", "relu"):
        raise InputError(
            f"{name}: feed_forward_proj is {feed_forward!r}, expected 'gated-gelu' (T5 1.1, mT5) "
            "or 'relu' (T5 1.0)"
        )
    num_decoder_layers = values["num_decoder_layers"]
    return T5FileConfig(
        **{key: _size(found[key], key, name) for key in _SIZES},
        num_decoder_layers=_size(
            found["num_layers"] if num_decoder_layers is None else num_decoder_layers,
            "num_decoder_layers",
            name,
        ),
        num_buckets=_size(
            values["relative_attention_num_buckets"], "relative_attention_num_buckets", name
        ),
        max_distance=_size(
            values["relative_attention_max_distance"], "relative_attention_max_distance", name
        ),
        gated=feed_forward == "gated-gelu",
        scaled_logits=_scaled_logits(values, model_type, name),
    )


def _model_type(found: Mapping[str, Any], name: str) -> str:
    """Returns "t5" or "mt5"."""
    architectures = found.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        raise InputError(f"{name}: architectures is {architectures!r}, expected a list of names")
    others = [architecture for architecture in architectures if architecture not in _ARCHITECTURES]
    if not others and "model_type" not in found:
        raise InputError(f"{name}: has no 'model_type'{nearest('model_type', found)}")
    model_type = found.get("model_type")
    if others or model_type not in _FEED_FORWARD:
        raise InputError(
            f"{name}: a model of another architecture "
            f"({', '.join(map(repr, others or [model_type]))}), expected "
            "T5ForConditionalGeneration or MT5ForConditionalGeneration"
        )
    if any(_ARCHITECTURES[architecture] != model_type for architecture in architectures):
        raise InputError(
            f"{name}: model_type is {model_type!r}, and architectures is {architectures}"
        )
    return str(model_type)


def _check_spelling(found: Mapping[str, Any], name: str) -> None:
    """Refuses a misspelt key: otherwise its default would be used."""
    strange = [key for key in found if key not in _OPTIONAL and key not in _SIZES]
    for key in _OPTIONAL:
        if key not in found and (close := difflib.get_close_matches(key, strange, cutoff=0.9)):
            raise InputError(f"{name}: unknown key {close[0]!r}; did you mean {key!r}?")


def _size(value: Any, key: str, name: str) -> int:
    # The names of a layer's dozen tensors are made before the tensors in the file are counted.
    most = 10_000 if key.endswith("layers") else 10**9
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{name}: {key} is {value!r}, expected a whole number from 1 to {most}")
    return value


def _scaled_logits(values: Mapping[str, Any], model_type: str, name: str) -> bool:
    for key in ("tie_word_embeddings", "scale_decoder_outputs"):
        if not isinstance(values[key], bool | None):
            raise InputError(f"{name}: {key} is {values[key]!r}, expected true or false")
    if model_type == "mt5":
        return False
    # Transformers 5 has a key for this; in older versions, tied weights mean T5 1.0.
    scaled = values["scale_decoder_outputs"]
    return bool(values["tie_word_embeddings"] is not False if scaled is None else scaled)
