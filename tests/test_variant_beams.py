"""Beam search with prompt modules finds the best of all sequences, for each example of a batch."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import variants
from prompt_tuning_core.prompts import InputPrompt
from prompt_tuning_engine_local.model import decoding
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from variants import ROWS, batch_of

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

CONFIG = T5Config(
    num_embeddings=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24,
    num_encoder_layers=1, num_decoder_layers=1,
)  # fmt: skip
EOS, OTHERS, LENGTH, ALPHA = 1, (5, 9, 33), 3, 0.6


class Everywhere(InputPrompt):
    """A stranger's: each example has its own state, and its own prefixes in every attention."""

    sides: tuple[str, ...] = ("encoder", "decoder")

    def setup(self):
        self.prompt = self.parameter("prompt", self.prompt_init, (self.length, self.stack.width))

    def start(self, tokens):
        return {"scale": 1 + (tokens.sum(axis=1) % 7) / 7}

    def rows(self, tokens, embedded):
        del embedded
        return jnp.tile(self.prompt[None], (len(tokens), 1, 1))

    def prefix(self, layer, attention, state):
        del layer, attention
        keys = self.prompt.reshape(1, self.length, self.stack.heads, -1)
        keys = keys * state["scale"][:, None, None, None]
        return keys, -keys

    def activations(self, layer, site, x, state):
        del layer, site
        return x * state["scale"].reshape(-1, *[1] * (x.ndim - 1))


def make_model(variant):
    everywhere = functools.partial(Everywhere, 3, variants.normal)
    factory = everywhere if variant == "everywhere" else variants.factory(variant)
    return EncoderDecoderModel(CONFIG, SimpleNamespace(vocab_size=64, eos_id=EOS), factory)


def only_some_ids(logits):
    """Returns logits with which every id has a probability of 0 except EOS and the OTHERS."""
    allowed = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array([EOS, *OTHERS]))
    return jnp.where(allowed, logits, -jnp.inf)


def search(problem):
    """Searches with so many beams that 2 N are all candidates of the last step."""

    def step(tokens, cache, position):
        logits, cache = problem.step(tokens, cache, position)
        return only_some_ids(logits), cache

    limited = dataclasses.replace(problem, step=step)
    return decoding.beam_search(limited, num_decodes=18, alpha=ALPHA)


def ended_sequences():
    """Returns all 13 sequences that end, as int32 `[13, T]`."""
    found = [
        (*before, EOS) for n in range(LENGTH) for before in itertools.product(OTHERS, repeat=n)
    ]
    return np.array([[*ids, *[0] * (LENGTH - len(ids))] for ids in found], np.int32)


@pytest.mark.parametrize("variant", ["everywhere", "deep, added on both sides"])
def test_beams_are_the_best_of_all_sequences(variant):
    model = make_model(variant)
    rng = np.random.default_rng(1)
    frozen = {
        name: rng.normal(name.endswith("scale"), 0.25, leaf.shape).astype(leaf.dtype)
        for name, leaf in model.frozen_parameters.items()
    }
    prompt = model.init_prompt(jax.random.key(2))
    inputs = batch_of(ROWS)["encoder_input_tokens"]
    generate = jax.jit(functools.partial(model.generate, decode_fn=search), static_argnums=3)
    found = jax.device_get(generate(prompt, frozen, inputs, LENGTH))

    sequences = ended_sequences()
    variables = {"params": traverse_util.unflatten_dict({**frozen, **prompt}, sep="/")}
    targets = np.tile(sequences, (len(inputs), 1))
    logits = jax.jit(model.network.apply)(
        variables,
        np.repeat(inputs, len(sequences), axis=0),
        np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        targets,
    )
    each = jnp.take_along_axis(jax.nn.log_softmax(only_some_ids(logits)), targets[..., None], 2)
    sums = np.where(targets > 0, each[..., 0], 0).sum(axis=1)
    scores = sums / ((5 + (targets > 0).sum(axis=1)) / 6) ** ALPHA
    for example, of_one in enumerate(np.split(scores, len(inputs))):
        order = np.argsort(-of_one)
        np.testing.assert_array_equal(found.ids[example, :13], sequences[order])
        np.testing.assert_allclose(found.scores[example, :13], of_one[order], atol=2e-5)
        # Five places are left.
        assert not found.ids[example, 13:].any()
        assert (found.scores[example, 13:] == -np.inf).all()
