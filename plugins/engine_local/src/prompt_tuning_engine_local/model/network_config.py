"""Sizes and numerics of a T5 model."""

from __future__ import annotations

import dataclasses

from prompt_tuning_core.errors import InputError

_ACTIVATIONS = ("gated-gelu", "relu")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and numerics of a T5 model; the names of T5X's macros are given in brackets.

    The defaults describe T5 1.1. T5 1.0 has `activation` "relu" and `logits_via_embedding`.

    Attributes:
      num_embeddings: Rows of the embedding table, V (NUM_EMBEDDINGS).
      emb_dim: Width of the model, H (EMBED_DIM).
      num_heads: Attention heads (NUM_HEADS).
      head_dim: Width of a head (HEAD_DIM).
      mlp_dim: Hidden width of the feed-forward blocks (MLP_DIM).
      num_encoder_layers: Layers of the encoder (NUM_ENCODER_LAYERS).
      num_decoder_layers: Layers of the decoder (NUM_DECODER_LAYERS).
      dropout_rate: Dropout while training (DROPOUT_RATE).
      dtype: Dtype of activations, "float32" or "bfloat16" (ACTIVATION_DTYPE).
      relpos_buckets: Buckets of the relative position biases.
      relpos_max_distance: Positions at this distance or farther share the last bucket.
      embedding_std: Standard deviation of a newly initialised embedding table.
      activation: Activation of the feed-forward blocks, "gated-gelu" or "relu".
      logits_via_embedding: True uses the embedding table, times `emb_dim ** -0.5`, as the output
        layer; False gives the output layer its own matrix.

    Raises:
      InputError: If `activation` is neither.
    """

    num_embeddings: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    dropout_rate: float = 0.0
    dtype: str = "float32"
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    embedding_std: float = 1.0
    activation: str = "gated-gelu"
    logits_via_embedding: bool = False

    def __post_init__(self) -> None:
        """Checks `activation`."""
        if self.activation not in _ACTIVATIONS:
            raise InputError(
                f"T5Config.activation is {self.activation!r}, expected one of "
                f"{', '.join(map(repr, _ACTIVATIONS))}"
            )
