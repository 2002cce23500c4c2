"""Every prompt variant in Flaxformer and T5X does what it does in the embedded engine."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_arrays import WARNINGS, assert_close, golden

import variants
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_engine_local.model import optimizers
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from variants import ROWS, VARIANTS, batch_of

pytestmark = [
    pytest.mark.t5x,
    pytest.mark.filterwarnings("ignore:`flax.traverse_util.Traversal`:DeprecationWarning"),
    *WARNINGS,
]

INPUTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
LENGTH = batch_of(ROWS)["decoder_target_tokens"].shape[1]
VOCABULARY = SimpleNamespace(vocab_size=64, eos_id=1)
CONFIG = T5Config(64, 32, 4, 8, 64, 2, 2)
IN_LAYERS = ("deep, added on both sides", "prefix", "IA3", "stranger")


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def t5x():
    from t5x import adafactor, decoding, models, train_state, trainer

    from prompt_tuning_engine_t5x import prompt_model, prompt_optimizer

    return SimpleNamespace(
        adafactor=adafactor,
        decoding=decoding,
        models=models,
        prompt_model=prompt_model,
        prompt_optimizer=prompt_optimizer,
        train_state=train_state,
        trainer=trainer,
    )


@pytest.fixture(scope="module", params=[*VARIANTS, "stranger"])
def variant(request):
    return request.param


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


@pytest.fixture(scope="module")
def prompt(variant):
    return drawn(variant)


def t5x_model(t5x, variant, optimizer=None, decode_fn=None, **settings):
    """Makes T5X's model of the tiny T5 with a variant, as our gin files make it."""
    import flaxformer_models

    module = flaxformer_models.encoder_decoder(variants.factory(variant), **settings)
    decode_fn = decode_fn or functools.partial(t5x.decoding.temperature_sample, topk=1)
    return t5x.prompt_model.prompted(
        t5x.models.EncoderDecoderModel(
            module, VOCABULARY, VOCABULARY, optimizer, decode_fn=decode_fn
        )
    )


def nested(prompt):
    return unflatten_dict({**golden("tiny_params"), **prompt}, sep="/")


def initial(model, rng=0):
    shapes = dict.fromkeys(INPUTS, (2, 3))
    return model.get_initial_variables(jax.random.key(rng), shapes, dict.fromkeys(INPUTS, np.int32))


def test_both_engines_have_the_same_parameters(t5x, variant, prompt):
    made = jax.eval_shape(lambda: initial(t5x_model(t5x, variant)))
    found = flatten_dict(unfreeze(made["params"]), sep="/")
    expected = flatten_dict(nested(prompt), sep="/")
    assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in expected.items()}
    axes = flatten_dict(unfreeze(made["params_axes"]), sep="/")
    for name in prompt:
        names = axes[f"{name}_axes"].names
        assert len(set(names)) == len(names) == prompt[name].ndim
        assert all(name.startswith("prompt") for name in names)


def logits_of(model, params, batch):
    return jax.jit(model._compute_logits)(params, batch)


def local_logits(variant, prompt, batch):
    network = local_model(variant).network
    return jax.jit(network.apply)({"params": nested(prompt)}, *(batch[name] for name in INPUTS))


def test_both_engines_have_the_same_logits(t5x, variant, prompt):
    batch = batch_of(ROWS)
    found = logits_of(t5x_model(t5x, variant), nested(prompt), batch)
    assert_close(found, local_logits(variant, prompt, batch))


@pytest.mark.parametrize("remat", ["full", "minimal"])
@pytest.mark.parametrize("variant", IN_LAYERS)
def test_layers_that_are_computed_again_change_nothing(t5x, variant, remat):
    batch, prompt = batch_of(ROWS), drawn(variant)

    def loss(prompt, **settings):
        return t5x_model(t5x, variant, **settings).loss_fn(nested(prompt), batch, None)[0]

    expected = jax.jit(jax.grad(loss))(prompt)
    found = jax.jit(jax.grad(functools.partial(loss, layer_remat=remat)))(prompt)
    for name, gradient in expected.items():
        np.testing.assert_allclose(
            found[name], gradient, rtol=0, atol=1e-5 * np.abs(gradient).max(), err_msg=name
        )


def test_both_engines_give_the_same_greedy_answers(t5x, variant, prompt):
    batch, params = batch_of(ROWS), nested(prompt)
    tokens, _ = jax.jit(t5x_model(t5x, variant).predict_batch_with_aux)(params, batch)
    expected = local_model(variant).generate(
        prompt, golden("tiny_params"), batch["encoder_input_tokens"], LENGTH
    )
    np.testing.assert_array_equal(tokens, expected)


def test_beam_search_scores_what_it_finds(t5x, variant, prompt):
    batch, params = batch_of(ROWS), nested(prompt)
    search = functools.partial(t5x.decoding.beam_search, alpha=0.0)
    model = t5x_model(t5x, variant, decode_fn=search)
    predict = functools.partial(
        model.predict_batch_with_aux, num_decodes=2, return_all_decodes=True
    )
    tokens, aux = jax.jit(predict)(params, batch)
    score = jax.jit(model.score_batch)
    for beam in range(2):
        targets = np.asarray(tokens[:, beam])
        whole = {
            **batch,
            "decoder_target_tokens": targets,
            "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            "decoder_loss_weights": (targets > 0).astype(np.float32),
        }
        filled = np.asarray(aux["scores"][:, beam]) > -1e6  # Beams may end with no answer.
        assert filled.all() or beam == 0  # The last is the best.
        np.testing.assert_allclose(
            aux["scores"][filled, beam], score(params, whole)[filled], atol=1e-3
        )


def optimizer(t5x, variant, factors=()):
    adafactor = t5x.adafactor.Adafactor(
        decay_rate=0.8, multiply_by_parameter_scale=False, weight_decay_rate=1e-5
    )
    return t5x.prompt_optimizer.prompt_only(adafactor, variants.factory(variant), factors)


def t5x_state(t5x, model, prompt):
    variables = jax.eval_shape(lambda: initial(model))
    return t5x.train_state.FlaxOptimTrainState.create(
        model.optimizer_def,
        {"params": nested(prompt), "params_axes": variables["params_axes"]},
    )


def t5x_steps(t5x, variant, prompt, steps, microbatches=None, factors=()):
    """Trains with T5X's trainer; returns the state, and the metrics of the last step."""
    model = t5x_model(t5x, variant, optimizer(t5x, variant, factors))

    @jax.jit
    def step(state, batch):
        grads, metrics, _ = t5x.trainer.accumulate_grads_microbatched(
            model, state, batch, None if microbatches is None else jax.random.key(0), microbatches
        )
        return state.apply_gradient(grads, learning_rate=0.3), metrics

    state, batch = t5x_state(t5x, model, prompt), batch_of([*ROWS, ROWS[0]])
    for _ in range(steps):
        state, metrics = step(state, batch)
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


def assert_same(found, expected):
    assert max(distances(found, expected).values()) < 1e-5


def rounding(variant, prompt, steps, expected):
    """Returns how far steps carry a change of the last bit or so of the initial values."""
    signs = jax.random.rademacher(jax.random.key(4), (64,), np.float32)
    near = {
        name: leaf * (1 + 1e-7 * jnp.resize(signs, leaf.shape)) for name, leaf in prompt.items()
    }
    return max(distances(local_steps(variant, near, steps), expected).values())


def test_both_engines_take_the_same_steps(t5x, variant, prompt):
    state, metrics = t5x_steps(t5x, variant, prompt, 4)
    expected = local_steps(variant, prompt, 4)
    found = max(distances(prompt_in(state), expected).values())
    # The steps of some variants multiply rounding: more than 1e-5 must be no more than that.
    assert found < 1e-5 or found < 3 * rounding(variant, prompt, 4, expected)
    frozen = flatten_dict(unfreeze(state.params), sep="/")
    for name, leaf in golden("tiny_params").items():
        np.testing.assert_array_equal(frozen[name], leaf)
    trained, _ = local_model(variant).split(prompt)
    states = flatten_dict(state.state_dict()["state"]["param_states"], sep="/")
    assert {name.rpartition("/")[0] for name in states} == set(trained)
    reported = local_model(variant).report(prompt)
    assert reported.keys() <= metrics.keys()
    assert ("penalty" in metrics) == (variant in ("wayward", "stranger"))


def test_a_penalty_counts_once_whatever_the_microbatches(t5x):
    prompt = drawn("wayward")
    whole, metrics = t5x_steps(t5x, "wayward", prompt, 1)
    halves, of_halves = t5x_steps(t5x, "wayward", prompt, 1, microbatches=2)
    assert_same(prompt_in(halves), prompt_in(whole))
    for name in ("penalty", "encoder/distance"):
        np.testing.assert_allclose(of_halves[name].compute(), metrics[name].compute(), rtol=1e-6)


def test_parts_may_have_rates_of_their_own(t5x):
    factors = (("layers_0", 0.1), ("layers", 0.5))
    prompt = drawn("stranger")
    state, _ = t5x_steps(t5x, "stranger", prompt, 2, factors=factors)
    expected = local_steps("stranger", prompt, 2, factors)
    assert_same(prompt_in(state), expected)
    unscaled = local_steps("stranger", prompt, 2)
    name = "encoder/prompt/layers_0/bias"
    moved, whole = (np.abs(found[name] - prompt[name]).max() for found in (expected, unscaled))
    assert moved < 0.5 * whole


@pytest.mark.parametrize("factors", [(("no_such", 0.1),), (("(", 0.1),), ("up", 0.1)])
def test_rates_of_no_parameter_are_refused(t5x, factors):
    with pytest.raises(InputError, match="learning_rate_factors"):
        t5x_state(
            t5x,
            t5x_model(t5x, "basic", optimizer(t5x, "basic", factors)),
            drawn("basic"),
        )
    with pytest.raises(InputError, match="learning_rate_factors"):
        local_steps("basic", drawn("basic"), 1, factors)


def test_a_penalty_needs_an_optimizer_that_knows_of_it(t5x):
    with pytest.raises(InputError, match="has a penalty, and the optimizer is a Adafactor"):
        t5x_model(t5x, "wayward", t5x.adafactor.Adafactor(0.3))


class Noisy(PromptModule):
    """Adds noise to the layers' input, in training only."""

    def layer(self, layer, hidden, state):
        if self.has_rng("dropout"):
            hidden += jax.random.normal(self.make_rng("dropout"), hidden.shape, hidden.dtype)
        return hidden


@pytest.mark.parametrize("remat", ["legacy", "full"])
def test_randomness_is_on_in_training_only(t5x, remat):
    import flaxformer_models

    module = flaxformer_models.encoder_decoder(lambda: Noisy(length=1), layer_remat=remat)
    model = t5x.prompt_model.PromptEncoderDecoderModel(module, VOCABULARY, VOCABULARY, None)
    batch, params = batch_of(ROWS), nested({})
    quiet, again, loud = (
        jax.jit(model.loss_fn)(params, batch, rng)[0] for rng in (None, None, jax.random.key(0))
    )
    assert quiet == again
    assert abs(loud - quiet) > 1e-3
