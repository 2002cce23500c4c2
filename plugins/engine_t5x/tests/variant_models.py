"""The tiny T5 with each prompt variant, in both engines; imports T5X and Flaxformer."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import freeze, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_arrays import golden
from t5x import adafactor, decoding, models, train_state, trainer

import variants
from prompt_tuning_engine_local.model import optimizers
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_t5x import prompt_model, prompt_optimizer
from prompt_tuning_testing import flaxformer_models
from variants import ROWS, batch_of

INPUTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
VOCABULARY = SimpleNamespace(vocab_size=64, eos_id=1)
CONFIG = T5Config(64, 32, 4, 8, 64, 2, 2)


def local_model(variant):
    return EncoderDecoderModel(CONFIG, VOCABULARY, variants.factory(variant))


def drawn(variant):
    """Returns values for a variant's parameters that are nobody's initial ones."""
    prompt = local_model(variant).init_prompt(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), len(prompt))
    return {
        name: leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for key, (name, leaf) in zip(keys, prompt.items(), strict=True)
    }


def t5x_model(variant, optimizer=None, decode_fn=None, **settings):
    """Makes T5X's model of the tiny T5 with a variant, as our gin files make it."""
    module = flaxformer_models.encoder_decoder(variants.factory(variant), **settings)
    decode_fn = decode_fn or functools.partial(decoding.temperature_sample, topk=1)
    return prompt_model.prompted(
        models.EncoderDecoderModel(module, VOCABULARY, VOCABULARY, optimizer, decode_fn=decode_fn)
    )


def nested(prompt):
    return unflatten_dict({**golden("tiny_params"), **prompt}, sep="/")


def initial(model, rng=0):
    shapes = dict.fromkeys(INPUTS, (2, 3))
    return model.get_initial_variables(jax.random.key(rng), shapes, dict.fromkeys(INPUTS, np.int32))


def optimizer(variant, factors=()):
    own = adafactor.Adafactor(
        decay_rate=0.8, multiply_by_parameter_scale=False, weight_decay_rate=1e-5
    )
    return prompt_optimizer.prompt_only(own, variants.factory(variant), factors)


def t5x_state(model, prompt):
    variables = jax.eval_shape(lambda: initial(model))
    own = freeze({"params": nested(prompt), "params_axes": variables["params_axes"]})
    return train_state.FlaxOptimTrainState.create(model.optimizer_def, own)


def local_logits(variant, prompt, batch):
    network = local_model(variant).network
    return jax.jit(network.apply)({"params": nested(prompt)}, *(batch[name] for name in INPUTS))


def step(model, state, batch, microbatches=None):
    """Takes a step with T5X's trainer; returns the state, and metrics."""
    rng = None if microbatches is None else jax.random.key(0)
    grads, metrics, _ = trainer.accumulate_grads_microbatched(
        model, state, batch, rng, microbatches
    )
    return state.apply_gradient(grads, learning_rate=0.3), metrics


def t5x_steps(variant, prompt, steps, microbatches=None, factors=(), batch=None):
    """Trains with T5X's trainer; returns the state, and the metrics of the last step."""
    model = t5x_model(variant, optimizer(variant, factors))
    taken = jax.jit(functools.partial(step, model, microbatches=microbatches))
    state, batch = t5x_state(model, prompt), batch or batch_of([*ROWS, ROWS[0]])
    for _ in range(steps):
        state, metrics = taken(state, batch)
    return state, metrics


def local_steps(variant, prompt, steps, factors=()):
    """Trains with the embedded engine's loss and optimizer; returns the parameters."""
    model = local_model(variant)
    transformation = optimizers.adafactor(learning_rate_factors=factors)
    trained, fixed = model.split(prompt)
    state, batch = transformation.init(trained), batch_of([*ROWS, ROWS[0]])

    @jax.jit
    def step(trained, state):
        gradients = jax.grad(
            lambda t: model.loss({**fixed, **t}, golden("tiny_params"), batch, None)[0]
        )(trained)
        updates, state = transformation.update(gradients, state, trained)
        return jax.tree.map(jnp.add, trained, updates), state

    for _ in range(steps):
        trained, state = step(trained, state)
    return {**trained, **fixed}


def prompt_in(state):
    flat = flatten_dict(unfreeze(state.params), sep="/")
    return {name: leaf for name, leaf in flat.items() if "/prompt/" in name}


def distances(found, expected):
    """Returns how far each array is from the expected one, in parts of its norm.

    Adafactor divides by the size of a gradient, so that single entries, whose gradient is close to
    0, carry its rounding into the prompt.
    """
    assert found.keys() == expected.keys()
    return {
        name: np.linalg.norm(found[name] - leaf) / np.linalg.norm(leaf)
        for name, leaf in expected.items()
    }


def nearly(prompt):
    """Returns values that differ in the last bit or so."""
    signs = jax.random.rademacher(jax.random.key(4), (64,), np.float32)
    return {
        name: leaf * (1 + 1e-7 * jnp.resize(signs, leaf.shape)) for name, leaf in prompt.items()
    }
