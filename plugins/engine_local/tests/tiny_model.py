"""The tiny model of the golden arrays, with its vocabulary and a prompt."""

from __future__ import annotations

from typing import Any

import golden_data
import jax.numpy as jnp

from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_prompt_basic import PromptBasic

CONFIG = T5Config(
    num_embeddings=64,
    emb_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


def make_model(place: str = "prefix", **settings: Any) -> EncoderDecoderModel:
    """Makes the model with a prompt of 5 zeros that stands at `place`."""
    vocabulary = SentencePieceVocabulary(golden_data.VOCABULARY, extra_ids=38)
    return EncoderDecoderModel(
        CONFIG,
        vocabulary,
        lambda: PromptBasic(
            length=5, prompt_init=lambda rng, shape: jnp.zeros(shape), combine=place
        ),
        **settings,
    )
