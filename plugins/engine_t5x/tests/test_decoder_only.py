"""A decoder-only model with a prompt gives the reference's numbers, through our T5X model."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import unflatten_dict
from golden_arrays import WARNINGS, assert_close, golden, make_prompt

import variants
from prompt_tuning_core.errors import InputError

pytestmark = [pytest.mark.t5x, *WARNINGS]

make_decoder_prompt = functools.partial(make_prompt, sides=("decoder",))


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def t5x():
    from t5x import decoding, models

    from prompt_tuning_engine_t5x.decoder_only_model import PromptDecoderOnlyModel

    return SimpleNamespace(decoding=decoding, models=models, Prompted=PromptDecoderOnlyModel)


@pytest.fixture(scope="module")
def flaxformer_models():
    from prompt_tuning_testing import flaxformer_models

    return flaxformer_models


@pytest.fixture
def make_model(t5x, flaxformer_models):
    """Makes the T5X model of a language model that decodes greedily."""

    def make(prompt_factory=make_decoder_prompt, bidirectional=True, topk=1):
        kind = t5x.Prompted if prompt_factory else t5x.models.DecoderOnlyModel
        return kind(
            flaxformer_models.decoder_only(prompt_factory),
            SimpleNamespace(eos_id=1, vocab_size=64),
            None,
            decode_fn=functools.partial(t5x.decoding.temperature_sample, topk=topk),
            inputs_bidirectional_attention=bidirectional,
        )

    return make


@pytest.fixture(scope="module")
def expected():
    return golden("decoder_only_prefix_lm")


@pytest.fixture
def batch(expected):
    return {name: array for name, array in expected.items() if name.startswith("decoder_")}


@pytest.fixture
def params(expected):
    named = {name.removeprefix("param:"): array for name, array in expected.items()}
    return unflatten_dict({n: named[n] for n in named if n.startswith("decoder/")}, sep="/")


def test_logits_scores_loss_and_gradient(make_model, expected, batch, params):
    model = make_model()

    @jax.jit
    def outputs(params, batch):
        loss, gradient = jax.value_and_grad(lambda p: model.loss_fn(p, batch, None)[0])(params)
        gradient = gradient["decoder"]["prompt"]["prompt"]["prompt"]
        # T5X hands out what it sows beside the scores: another path through the logits.
        scores, _ = model.score_batch(params, batch, return_intermediates=True)
        return model._compute_logits(params, batch), scores, loss, gradient

    logits, scores, loss, gradient = outputs(params, batch)
    assert_close(logits, expected["prompt_logits"])
    assert_close(scores, expected["prompt_score_batch"])
    assert_close(loss, expected["prompt_loss"])
    assert_close(gradient, expected["prompt_grad"])


def test_the_plain_model_is_the_references(make_model, expected, batch, params):
    del params["decoder"]["prompt"]
    logits = make_model(None)._compute_logits(params, batch)
    assert_close(logits, expected["noprompt_logits"])


def test_mask_follows_from_the_prompt_module(make_model, expected, batch, params):
    masks = []

    def keep(call, arguments, keywords, context):
        if context.method_name == "decode_from_continuous_inputs":
            masks.append(keywords["decoder_mask"])
        return call(*arguments, **keywords)

    with nn.intercept_methods(keep):
        make_model()._compute_logits(params, batch)
    np.testing.assert_array_equal(masks[0], expected["prompt_decoder_mask"])


def test_greedy_tokens(make_model, expected, batch, params):
    tokens, _ = jax.jit(make_model().predict_batch_with_aux)(params, batch)
    np.testing.assert_array_equal(tokens, expected["prompt_greedy_tokens"])


def drawn(model):
    """Returns values for the prompt that are nobody's initial ones."""
    shapes = dict.fromkeys(("decoder_input_tokens", "decoder_target_tokens"), (1, 2))
    made = model.get_initial_variables(jax.random.key(0), shapes)
    leaves, tree = jax.tree.flatten(unfreeze(made["params"])["decoder"]["prompt"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize("variant", ["golden", "deep", "prefix", "IA3", "LSTM", "stranger"])
def test_decoding_agrees_with_the_logits_of_what_it_decoded(make_model, batch, params, variant):
    # Causal attention throughout, so that nothing decoded changes what came before.
    factory = make_decoder_prompt
    if variant != "golden":
        factory = variants.factory(variant, sides=("decoder",))
    model = make_model(factory, bidirectional=False)
    if variant != "golden":
        params["decoder"]["prompt"] = drawn(model)
    tokens, aux = jax.jit(
        functools.partial(model.predict_batch_with_aux, num_decodes=2, return_all_decodes=True)
    )(params, batch)
    assert tokens.shape == (3, 2, 12)
    assert aux["scores"].shape == (3, 2)
    np.testing.assert_array_equal(tokens[:, 0], tokens[:, 1])
    known = batch["decoder_causal_attention"].sum(axis=1) - 1
    targets = np.where(
        np.arange(12) < known[:, None],
        batch["decoder_target_tokens"],
        np.stack([np.roll(row, n) for row, n in zip(tokens[:, 0], known, strict=True)]),
    )
    whole = {
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    }
    best = model._compute_logits(params, whole).argmax(axis=-1)
    decoded = (np.arange(12) >= known[:, None]) & (targets > 0)
    assert decoded.sum() > 10
    np.testing.assert_array_equal(best[decoded], targets[decoded])


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            make_prompt,
            r"sides is \('encoder',\), expected a tuple of 'decoder', the stacks of this model",
        ),
        (
            functools.partial(make_decoder_prompt, combine="suffix"),
            "a decoder in T5X needs its prompt in front of the sequence and reads all of its",
        ),
        (
            functools.partial(make_decoder_prompt, combine="prefix_after_bos"),
            "a decoder in T5X needs its prompt in front of the sequence and reads all of its",
        ),
    ],
)
def test_a_prompt_that_the_decoder_cannot_use_is_refused(
    make_model, batch, params, factory, message
):
    with pytest.raises(InputError, match=message):
        make_model(factory)._compute_logits(params, batch)


def test_packed_examples_are_refused(make_model, batch, params):
    batch["decoder_segment_ids"] = np.ones_like(batch["decoder_input_tokens"])
    with pytest.raises(InputError, match="does not support packed examples; set PACK = False"):
        make_model().loss_fn(params, batch, None)


def test_a_module_without_a_prompt_is_refused(t5x, flaxformer_models):
    from prompt_tuning_core.integrations.flaxformer import PromptDecoderOnly

    plain = flaxformer_models.decoder_only()
    with pytest.raises(InputError, match="module is a DecoderOnly, expected a PromptDecoderOnly"):
        t5x.Prompted(plain, None, None)
    module = PromptDecoderOnly(decoder_factory=plain.decoder_factory)
    tokens = np.ones((1, 2), np.int32)
    with pytest.raises(InputError, match="decoder is a Decoder, expected a PromptDecoder"):
        module.init(jax.random.key(0), tokens, tokens)
