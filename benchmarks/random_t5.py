"""A T5 1.1 of a given size with random weights, in the form of the local engine."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_engine_local.model import decoding
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_files.own_formats import MODEL_FILE
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_prompt_basic import PromptBasic
from shapes import FIRST_ID, HEAD_DIM, LAST_ID, NUM_EMBEDDINGS, SIZES


class NoVocabulary(SentencePieceVocabulary):
    """A vocabulary of ids without texts.

    Args:
      eos_id: The id that ends a sequence; -1 for none, so that decoding never ends early.
    """

    def __init__(self, eos_id: int = 1) -> None:
        super().__init__("no vocabulary", 0)
        self._eos_id = eos_id

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return NUM_EMBEDDINGS

    @property
    def eos_id(self) -> int:
        """The id that ends a sequence."""
        return self._eos_id


def make(
    arguments: argparse.Namespace,
    vocabulary: SentencePieceVocabulary | None = None,
    module: Callable[..., PromptModule] = PromptBasic,
) -> EncoderDecoderModel:
    """Returns the model that the flags of `shapes.add_shape_flags` describe, without weights.

    Args:
      arguments: The flags.
      vocabulary: The vocabulary; None for one without texts.
      module: The class of the prompt module.
    """
    size = SIZES[arguments.size]
    return EncoderDecoderModel(
        T5Config(
            num_embeddings=NUM_EMBEDDINGS,
            emb_dim=size.emb_dim,
            num_heads=size.num_heads,
            head_dim=HEAD_DIM,
            mlp_dim=size.mlp_dim,
            num_encoder_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            dropout_rate=arguments.dropout,
            dtype=arguments.dtype,
        ),
        vocabulary or NoVocabulary(),
        lambda: module(
            length=arguments.prompt_length, prompt_init=jax.nn.initializers.uniform(0.5)
        ),
    )


def answers(model: EncoderDecoderModel, beams: int = 1) -> Callable[..., jax.Array]:
    """Returns `model.generate` as a run uses it: jitted, with only the ids of the best answers.

    Args:
      model: The model.
      beams: The number of beams; 1 decodes greedily.
    """
    search = functools.partial(decoding.beam_search, num_decodes=beams)

    def ids(prompt: Params, frozen: Params, tokens: jax.Array, length: int) -> jax.Array:
        decode_fn = decoding.greedy if beams == 1 else search
        found = model.generate(prompt, frozen, tokens, length, decode_fn=decode_fn)
        return found.ids[:, 0]

    return jax.jit(ids, static_argnums=3)


def write(arguments: argparse.Namespace, folder: str | os.PathLike[str]) -> Path:
    """Writes a model file with random weights for the model of `arguments`; returns its path."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(leaf.shape[0]))
        if leaf.ndim > 1
        else np.ones(leaf.shape, np.float32)
        for name, leaf in make(arguments).frozen_parameters.items()
    }
    path = Path(folder) / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


def batch(rng: np.random.Generator, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns a training batch of random ids without padding; see `batching.make_batch`."""
    inputs = rng.integers(
        FIRST_ID, LAST_ID, (arguments.batch, arguments.input_length), dtype=np.int32
    )
    targets = rng.integers(
        FIRST_ID, LAST_ID, (arguments.batch, arguments.target_length), dtype=np.int32
    )
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }
