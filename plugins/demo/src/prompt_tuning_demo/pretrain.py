"""Pretrains the demo's frozen T5 from scratch: `python -m prompt_tuning_demo.pretrain OUT_DIR`.

A quarter of each batch is bare text with gaps to fill or an end to continue. So the model learns to
do this with a text that has no prefix. In the rest of the batch, a text prefix names a task: the
sentiment of a review (in several wordings), or the source of a sentence (a plot or a review). So
the model has the skill, but uses it only after such a prefix. A trained prompt has to learn to
replace the prefix.

The same recipe on the same machine makes the same files.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
import sentencepiece
from flax import traverse_util

from prompt_tuning_demo import reviews
from prompt_tuning_demo.examples import Batch, Examples, padded
from prompt_tuning_demo.prefixes import WORDINGS, Wording
from prompt_tuning_demo.recipe import EXTRA_IDS, Recipe
from prompt_tuning_demo.vocabulary import EOS_ID, WordEncoder, make_vocabulary
from prompt_tuning_engine_local.model import decoding
from prompt_tuning_engine_local.model.decoder import Cache
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network import T5, T5Config
from prompt_tuning_files.own_formats import MODEL_FILE

VOCABULARY_FILE = "spiece.model"
DESCRIPTION_FILE = "model.json"

Params = Any  # the network's parameter tree
Losses = tuple[jax.Array, jax.Array]  # of examples with a prefix, and of bare ones

_REPORT_PERIOD = 100
_VALIDATION_PERIOD = 500
_VALIDATION_LENGTH = 64
_ANSWER_LENGTH = 2  # one piece and the end


def pretraining_texts(corpus: reviews.Corpus) -> Iterator[str]:
    """Yields every text that the base and its vocabulary are trained on."""
    yield from reviews.training_texts(corpus)
    yield from reviews.plot_sentences(corpus, "train")
    yield from reviews.read_lexicon()


def network_config(recipe: Recipe, dropout_rate: float = 0.0) -> T5Config:
    """Returns the sizes of the network."""
    return T5Config(
        num_embeddings=recipe.pieces + EXTRA_IDS,
        emb_dim=recipe.emb_dim,
        num_heads=recipe.num_heads,
        head_dim=recipe.head_dim,
        mlp_dim=recipe.mlp_dim,
        num_encoder_layers=recipe.num_encoder_layers,
        num_decoder_layers=recipe.num_decoder_layers,
        dropout_rate=dropout_rate,
        embedding_std=recipe.embedding_std,
    )


def train(
    recipe: Recipe,
    batches: Iterator[Batch],
    report: Callable[[int, Losses, Params], None],
) -> Params:
    """Trains all parameters.

    Args:
      recipe: Sizes, optimizer and number of steps.
      batches: See `Examples.batches`.
      report: Called after each step with its number (from 1), its losses and the averaged
        parameters.

    Returns:
      The running average of the parameters.
    """
    optimizer = _optimizer(recipe)
    rng = jax.random.key(recipe.seed)
    tokens = jnp.ones((1, 1), jnp.int32)
    params = T5(network_config(recipe)).init(rng, tokens, tokens, tokens)["params"]
    averaged = jax.tree.map(jnp.copy, params)
    state = optimizer.init(params)
    step = _make_step(recipe, optimizer, rng)
    for number in range(recipe.steps):
        is_start = number < recipe.start_steps
        params, averaged, state, losses = step(
            params, averaged, state, number, next(batches), is_start=is_start
        )
        report(number + 1, losses, averaged)
    return averaged


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        decay_steps=recipe.steps,
        end_value=0.02 * recipe.learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, b2=0.98, weight_decay=recipe.weight_decay),
    )


def _make_step(
    recipe: Recipe, optimizer: optax.GradientTransformation, rng: jax.Array
) -> Callable[..., tuple[Params, Params, optax.OptState, Losses]]:
    """Makes the compiled step, which uses the bare examples only after the start of training."""

    @functools.partial(jax.jit, static_argnames="is_start", donate_argnums=(0, 1, 2))
    def step(
        params: Params,
        averaged: Params,
        state: optax.OptState,
        number: int,
        batch: Mapping[str, Any],  # a Batch as JAX's arrays
        is_start: bool,
    ) -> tuple[Params, Params, optax.OptState, Losses]:
        network = T5(network_config(recipe, 0.0 if is_start else recipe.dropout_rate))
        told_rng, bare_rng = jax.random.split(jax.random.fold_in(rng, number))

        def loss(params: Params) -> tuple[jax.Array, Losses]:
            told = _cross_entropy(
                network, params, batch["told_inputs"], batch["told_targets"], told_rng
            )
            if is_start:
                return told, (told, jnp.zeros_like(told))
            bare = _cross_entropy(
                network, params, batch["bare_inputs"], batch["bare_targets"], bare_rng
            )
            return told + recipe.bare_weight * bare, (told, bare)

        gradients, losses = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        # A plain mean at first, so that the initial values soon have no weight.
        decay = jnp.minimum(recipe.average, (1.0 + number) / (10.0 + number))
        averaged = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, averaged, params)
        return params, averaged, state, losses

    return step


class Validation:
    """Measures how often the model's answer is the label, on the validation split.

    Args:
      recipe: Sizes of the network.
      corpus: The reviews.
      encoder: The vocabulary.
    """

    def __init__(self, recipe: Recipe, corpus: reviews.Corpus, encoder: WordEncoder) -> None:
        self._network = T5(network_config(recipe))
        self._encoder = encoder
        self._reviews = corpus.reviews["validation"]
        self._texts = [encoder.ids(review.text) for review in self._reviews]

    def exact_match(self, params: Params, wording: Wording) -> float:
        """Returns the share of reviews for which greedy decoding yields the right answer."""
        told = self._encoder.ids(wording.prefix)
        inputs = padded([[*told, *ids, EOS_ID] for ids in self._texts], _VALIDATION_LENGTH)
        answers = {
            reviews.POSITIVE: [*self._encoder.ids(wording.positive), EOS_ID],
            reviews.NEGATIVE: [*self._encoder.ids(wording.negative), EOS_ID],
        }
        right = np.array([answers[review.label] for review in self._reviews])
        return float(np.mean(np.all(np.asarray(self._decode(params, inputs)) == right, axis=1)))

    @functools.partial(jax.jit, static_argnums=0)
    def _decode(self, params: Params, inputs: jax.Array) -> jax.Array:
        apply = functools.partial(self._network.apply, {"params": params})
        encoded = apply(inputs, method="encode")
        problem = decoding.Problem(
            lambda tokens, cache, at: apply(tokens, cache, at, encoded, method="decode_step"),
            apply(encoded, _ANSWER_LENGTH, method="start_cache"),
            Cache.spread,
            Cache.gather,
            inputs.shape[0],
            _ANSWER_LENGTH,
            EOS_ID,
        )
        return decoding.greedy(problem).ids[:, 0]


def pretrain(recipe: Recipe, out_dir: Path) -> None:
    """Makes the vocabulary and the model, reporting on the terminal.

    Args:
      recipe: All choices of the pretraining.
      out_dir: The folder that gets `spiece.model`, `model.safetensors` and `model.json`.

    Raises:
      InputError: If the data package is not installed, or another version of it is.
    """
    corpus = reviews.read_corpus()
    out_dir.mkdir(parents=True, exist_ok=True)
    model = make_vocabulary(list(pretraining_texts(corpus)), recipe.pieces)
    (out_dir / VOCABULARY_FILE).write_bytes(model)
    encoder = WordEncoder(sentencepiece.SentencePieceProcessor(model_proto=model))
    validation = Validation(recipe, corpus, encoder)
    # The model's answers to a bare review, without a prefix.
    untold = dataclasses.replace(WORDINGS[0], prefix="")
    began = time.monotonic()
    recent: list[Losses] = []
    found: dict[str, float] = {}

    def report(number: int, losses: Losses, averaged: Params) -> None:
        recent.append(losses)
        if number % _REPORT_PERIOD and number != recipe.steps:
            return
        told, bare = np.mean(recent, axis=0)
        recent.clear()
        line = f"step {number}: {time.monotonic() - began:.0f} s, loss {told:.3f} + {bare:.3f}"
        if number % _VALIDATION_PERIOD == 0 or number == recipe.steps:
            for wording in (*WORDINGS, untold):
                found[wording.prefix] = round(validation.exact_match(averaged, wording), 4)
            line += "".join(f", {prefix!r} {value:.3f}" for prefix, value in found.items())
        print(line, flush=True)

    params = train(recipe, Examples(recipe, corpus, encoder).batches(), report)
    arrays = {
        name: np.asarray(value)
        for name, value in traverse_util.flatten_dict(params, sep="/").items()
    }
    # Without a step, so that prompt tuning counts its steps from 0.
    safetensors.numpy.save_file(arrays, out_dir / MODEL_FILE)
    description = {
        "made_by": "python -m prompt_tuning_demo.pretrain",
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(value.size for value in arrays.values()),
        "data": f"{reviews.DISTRIBUTION}=={reviews.VERSION}",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("flax", "jax", "numpy", "optax", "sentencepiece")
        },
        "validation_exact_match_by_prefix": found,
    }
    (out_dir / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def _cross_entropy(
    network: T5, params: Params, inputs: jax.Array, targets: jax.Array, dropout_rng: jax.Array
) -> jax.Array:
    """Returns the mean loss per target id, without padding."""
    logits: Any = network.apply(
        {"params": params},
        inputs,
        jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
        targets,
        Dropout(network.config.dropout_rate, dropout_rng),
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.mean(losses, where=targets > 0)


def main() -> None:
    """Runs the recipe from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m prompt_tuning_demo.pretrain",
        description="Pretrains the demo's frozen T5 from scratch.",
    )
    parser.add_argument("out_dir", type=Path, help="the folder for the model and its vocabulary")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    pretrain(Recipe(steps=arguments.steps, seed=arguments.seed), arguments.out_dir)


if __name__ == "__main__":
    main()
