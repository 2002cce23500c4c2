"""Every prompt variant in Flaxformer and T5X does what it does in the embedded engine."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from flax.core import unfreeze
from flax.traverse_util import flatten_dict
from golden_arrays import WARNINGS, assert_close, golden

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule
from variants import ROWS, VARIANTS, batch_of

pytestmark = [
    pytest.mark.t5x,
    # T5X's MultiOptimizer is made of them.
    pytest.mark.filterwarnings("ignore:`flax.traverse_util.Traversal`:DeprecationWarning"),
    *WARNINGS,
]

LENGTH = batch_of(ROWS)["decoder_target_tokens"].shape[1]
IN_LAYERS = ("deep, added on both sides", "prefix", "IA3", "stranger")


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def engines():
    import variant_models  # Imports T5X.

    return variant_models


@pytest.fixture(scope="module", params=[*VARIANTS, "stranger"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def prompt(engines, variant):
    return engines.drawn(variant)


def test_both_engines_have_the_same_parameters(engines, variant, prompt):
    made = jax.eval_shape(lambda: engines.initial(engines.t5x_model(variant)))
    found = flatten_dict(unfreeze(made["params"]), sep="/")
    expected = flatten_dict(engines.nested(prompt), sep="/")
    assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in expected.items()}
    axes = flatten_dict(unfreeze(made["params_axes"]), sep="/")
    for name in prompt:
        names = axes[f"{name}_axes"].names
        assert len(set(names)) == len(names) == prompt[name].ndim
        assert all(name.startswith("prompt") for name in names)


def logits_of(model, params, batch):
    return jax.jit(model._compute_logits)(params, batch)


def test_both_engines_have_the_same_logits(engines, variant, prompt):
    batch = batch_of(ROWS)
    found = logits_of(engines.t5x_model(variant), engines.nested(prompt), batch)
    assert_close(found, engines.local_logits(variant, prompt, batch))


@pytest.mark.parametrize("remat", ["full", "minimal"])
@pytest.mark.parametrize("variant", IN_LAYERS)
def test_layers_that_are_computed_again_change_nothing(engines, variant, remat):
    batch, prompt = batch_of(ROWS), engines.drawn(variant)

    def loss(prompt, **settings):
        return engines.t5x_model(variant, **settings).loss_fn(engines.nested(prompt), batch, None)[
            0
        ]

    expected = jax.jit(jax.grad(loss))(prompt)
    found = jax.jit(jax.grad(functools.partial(loss, layer_remat=remat)))(prompt)
    for name, gradient in expected.items():
        np.testing.assert_allclose(
            found[name], gradient, rtol=0, atol=1e-5 * np.abs(gradient).max(), err_msg=name
        )


def test_both_engines_give_the_same_greedy_answers(engines, variant, prompt):
    batch, params = batch_of(ROWS), engines.nested(prompt)
    tokens, _ = jax.jit(engines.t5x_model(variant).predict_batch_with_aux)(params, batch)
    expected = engines.local_model(variant).best_ids(
        prompt, golden("tiny_params"), batch["encoder_input_tokens"], LENGTH
    )
    np.testing.assert_array_equal(tokens, expected)


def test_beam_search_scores_what_it_finds(engines, variant, prompt):
    batch, params = batch_of(ROWS), engines.nested(prompt)
    search = functools.partial(engines.decoding.beam_search, alpha=0.0)
    model = engines.t5x_model(variant, decode_fn=search)
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


def assert_same(engines, found, expected):
    assert max(engines.distances(found, expected).values()) < 1e-5


def test_both_engines_take_the_same_steps(engines, variant, prompt):
    state, metrics = engines.t5x_steps(variant, prompt, 4)
    expected = engines.local_steps(variant, prompt, 4)
    found = max(engines.distances(engines.prompt_in(state), expected).values())
    # The steps of some variants multiply rounding: more than 1e-5 must be no more than that.
    if found >= 1e-5:
        near = engines.local_steps(variant, engines.nearly(prompt), 4)
        assert found < 3 * max(engines.distances(near, expected).values())
    frozen = flatten_dict(unfreeze(state.params), sep="/")
    for name, leaf in golden("tiny_params").items():
        np.testing.assert_array_equal(frozen[name], leaf)
    trained, _ = engines.local_model(variant).split(prompt)
    states = flatten_dict(state.state_dict()["state"]["param_states"], sep="/")
    assert {name.rpartition("/")[0] for name in states} == set(trained)
    reported = engines.local_model(variant).report(prompt)
    assert reported.keys() <= metrics.keys()
    assert ("penalty" in metrics) == (variant in ("wayward", "stranger"))


def test_a_penalty_counts_once_whatever_the_microbatches(engines):
    prompt = engines.drawn("wayward")
    whole, metrics = engines.t5x_steps("wayward", prompt, 1)
    halves, of_halves = engines.t5x_steps("wayward", prompt, 1, microbatches=2)
    assert_same(engines, engines.prompt_in(halves), engines.prompt_in(whole))
    for name in ("penalty", "encoder/distance"):
        np.testing.assert_allclose(of_halves[name].compute(), metrics[name].compute(), rtol=1e-6)


def test_parts_may_have_rates_of_their_own(engines):
    factors = (("layers_0", 0.1), ("layers", 0.5))
    prompt = engines.drawn("stranger")
    state, _ = engines.t5x_steps("stranger", prompt, 2, factors=factors)
    expected = engines.local_steps("stranger", prompt, 2, factors)
    assert_same(engines, engines.prompt_in(state), expected)
    unscaled = engines.local_steps("stranger", prompt, 2)
    name = "encoder/prompt/layers_0/bias"
    moved, whole = (np.abs(found[name] - prompt[name]).max() for found in (expected, unscaled))
    assert moved < 0.5 * whole


@pytest.mark.parametrize("factors", [(("no_such", 0.1),), (("(", 0.1),), ("up", 0.1)])
def test_rates_of_no_parameter_are_refused(engines, factors):
    with pytest.raises(InputError, match="learning_rate_factors"):
        engines.t5x_state(
            engines.t5x_model("basic", engines.optimizer("basic", factors)),
            engines.drawn("basic"),
        )
    with pytest.raises(InputError, match="learning_rate_factors"):
        engines.local_steps("basic", engines.drawn("basic"), 1, factors)


def test_a_penalty_needs_an_optimizer_that_knows_of_it(engines):
    with pytest.raises(InputError, match="has a penalty, and the optimizer is a Adafactor"):
        engines.t5x_model("wayward", engines.adafactor.Adafactor(0.3))


class Noisy(PromptModule):
    """Adds noise to the layers' input, in training only."""

    def layer(self, layer, hidden, state):
        if self.has_rng("dropout"):
            hidden += jax.random.normal(self.make_rng("dropout"), hidden.shape, hidden.dtype)
        return hidden


@pytest.mark.parametrize("remat", ["legacy", "full"])
def test_randomness_is_on_in_training_only(engines, remat):
    from prompt_tuning_testing import flaxformer_models

    module = flaxformer_models.encoder_decoder(lambda: Noisy(length=1), layer_remat=remat)
    model = engines.prompt_model.PromptEncoderDecoderModel(
        module, engines.VOCABULARY, engines.VOCABULARY, None
    )
    batch, params = batch_of(ROWS), engines.nested({})
    quiet, again, loud = (
        jax.jit(model.loss_fn)(params, batch, rng)[0] for rng in (None, None, jax.random.key(0))
    )
    assert quiet == again
    assert abs(loud - quiet) > 1e-3


@pytest.fixture(scope="module")
def layouts():
    """Returns the distance of each variant's prompt from one device's, by layout of devices."""
    here = Path(__file__).parent
    command = [sys.executable, str(here / "variant_layouts.py"), *VARIANTS, "stranger"]
    helpers = os.pathsep.join([str(here), *sys.path])
    devices = "--xla_force_host_platform_device_count=8"
    process = runs.run(command, here, XLA_FLAGS=devices, PYTHONPATH=helpers)
    return json.loads(process.stdout.splitlines()[-1])


def test_the_layout_of_devices_changes_nothing(layouts, variant):
    allowed = max(1e-5, 3 * layouts[variant]["rounding"])
    assert layouts[variant]["8x1"] < allowed
    assert layouts[variant]["2x4"] < allowed
