"""Flaxformer's encoder-decoder with a prompt gives the reference's numbers, through T5X's model."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from golden_arrays import (
    WARNINGS,
    assert_close,
    encoder_decoder_params,
    golden,
    make_prompt,
)

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_prompt_basic import PromptBasic

pytestmark = [pytest.mark.t5x, *WARNINGS]

INPUTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
BATCH = (*INPUTS, "decoder_loss_weights")
KINDS = {"prompt": make_prompt, "noprompt": None}


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def t5x():
    from t5x import decoding, models

    return SimpleNamespace(decoding=decoding, models=models)


@pytest.fixture(scope="module")
def flaxformer_models():
    from prompt_tuning_testing import flaxformer_models

    return flaxformer_models


@pytest.fixture
def make_model(t5x, flaxformer_models):
    """Makes T5X's model of the tiny T5."""

    def make(prompt_factory=make_prompt, one_hot=True, dropout_rate=0.0, **settings):
        module = flaxformer_models.encoder_decoder(prompt_factory, one_hot, dropout_rate)
        vocabulary = SimpleNamespace(eos_id=1, vocab_size=64)
        return t5x.models.EncoderDecoderModel(module, vocabulary, vocabulary, None, **settings)

    return make


def batch_of(forward, names=BATCH):
    return {name: forward[name] for name in names}


def logits_of(module, params, batch):
    return jax.jit(functools.partial(module.apply, enable_dropout=False))(
        {"params": params}, *(batch[name] for name in INPUTS)
    )


def test_the_parameter_has_the_references_name_shape_and_axes(make_model):
    shapes = dict.fromkeys(INPUTS, (2, 3))
    model = make_model()
    made = jax.eval_shape(
        lambda rng: model.get_initial_variables(rng, shapes, dict.fromkeys(INPUTS, np.int32)),
        jax.random.key(0),
    )
    expected = flatten_dict(encoder_decoder_params(with_prompt=True), sep="/")
    found = flatten_dict(made["params"].unfreeze(), sep="/")
    assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in expected.items()}
    axes = made["params_axes"]["encoder"]["prompt"]["prompt"]["prompt_axes"]
    assert axes.names == ("prompt", "prompt_embed")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_prompt_is_float32_whatever_the_initializer_returns(make_model, dtype):
    def initializer(rng, shape):
        return jax.numpy.full(shape, 0.1, dtype)

    model = make_model(functools.partial(PromptBasic, length=5, prompt_init=initializer))
    shapes = dict.fromkeys(INPUTS, (2, 3))
    made = model.get_initial_variables(jax.random.key(0), shapes, dict.fromkeys(INPUTS, np.int32))
    prompt = made["params"]["encoder"]["prompt"]["prompt"]["prompt"]
    expected = initializer(None, (5, 32)).astype(np.float32)
    assert prompt.dtype == np.float32
    np.testing.assert_array_equal(prompt, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["forward_short", "forward_long"])
def test_logits_encoder_outputs_and_scores(make_model, file, kind):
    forward = golden(file)
    model = make_model(KINDS[kind])
    params = encoder_decoder_params(KINDS[kind] is not None)

    @jax.jit
    def outputs(batch):
        encoded = model.module.apply(
            {"params": params}, batch[INPUTS[0]], enable_dropout=False, method="encode"
        )
        return model._compute_logits(params, batch), encoded, model.score_batch(params, batch)

    logits, encoded, scores = outputs(batch_of(forward))
    assert_close(logits, forward[f"{kind}_logits"])
    assert_close(encoded, forward[f"{kind}_encoded"])
    assert_close(scores, forward[f"{kind}_score_batch"])


def test_masks_follow_from_the_prompt_module(make_model):
    forward = golden("forward_short")
    masks = {}

    def keep(call, arguments, keywords, context):
        if context.method_name == "encode_from_continuous_inputs":
            masks.update(keywords)
        return call(*arguments, **keywords)

    with nn.intercept_methods(keep):
        make_model().module.apply(
            {"params": encoder_decoder_params(with_prompt=True)},
            forward["encoder_input_tokens"],
            enable_dropout=False,
            method="encode",
        )
    real = forward["encoder_tokens_with_fake_prompt"] > 0
    np.testing.assert_array_equal(masks["encoder_mask"], forward["encoder_mask_with_prompt"])
    np.testing.assert_array_equal(masks["logit_mask"], real[..., None])


@pytest.mark.parametrize(
    ("file", "settings", "loss", "gradient"),
    [
        ("forward_short", {}, "prompt_loss", "prompt_grad"),
        ("forward_long", {}, "prompt_loss", "prompt_grad"),
        (
            "forward_short",
            {"z_loss": 1e-4},
            "prompt_loss_zloss1e-4",
            "prompt_grad_zloss1e-4",
        ),
        (
            "forward_short",
            {"z_loss": 1e-4, "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"},
            "prompt_loss_zloss1e-4_per_token",
            None,
        ),
        ("forward_short", {"label_smoothing": 0.1}, "prompt_loss_labelsmoothing0.1", None),
    ],
)
def test_losses_and_the_gradient_of_the_prompt(make_model, file, settings, loss, gradient):
    forward = golden(file)
    model = make_model(**settings)
    params = encoder_decoder_params(with_prompt=True)
    prompt = params["encoder"].pop("prompt")

    def loss_of(prompt, batch):
        encoder = {**params["encoder"], "prompt": prompt}
        return model.loss_fn({**params, "encoder": encoder}, batch, None)[0]

    take = loss_of if gradient is None else jax.value_and_grad(loss_of)
    found = jax.jit(take)(prompt, batch_of(forward))
    if gradient is not None:
        found, gradients = found
        assert_close(gradients["prompt"]["prompt"], forward[gradient])
    assert_close(found, forward[loss])


@pytest.mark.parametrize("how", ["greedy", "beam1", "beam4"])
def test_decoded_tokens_and_their_scores(t5x, make_model, how):
    forward = golden("forward_short")
    decode_fn, num_decodes = {
        "greedy": (functools.partial(t5x.decoding.temperature_sample, topk=1), 1),
        "beam1": (t5x.decoding.beam_search, 1),
        "beam4": (functools.partial(t5x.decoding.beam_search, alpha=0.6), 4),
    }[how]
    predict = functools.partial(
        make_model(decode_fn=decode_fn).predict_batch_with_aux,
        num_decodes=num_decodes,
        return_all_decodes=True,
    )
    tokens, aux = jax.jit(predict)(encoder_decoder_params(with_prompt=True), batch_of(forward))
    name = f"prompt_{how}"
    if num_decodes > 1:
        np.testing.assert_array_equal(tokens, forward[f"{name}_all_tokens"])
        assert_close(aux["scores"], forward[f"{name}_all_scores"])
        name = f"{name}_best"
    # The last is the best.
    np.testing.assert_array_equal(tokens[:, -1], forward[f"{name}_tokens"])
    np.testing.assert_allclose(aux["scores"][:, -1], forward[f"{name}_scores"], atol=1e-4)


def test_t5x_prefills_the_decoders_cache(t5x, make_model):
    # T5X does so only where the signature of the module's `decode` names `prefill`.
    prefilled = []

    def keep(call, arguments, keywords, context):
        if context.method_name == "decode":
            prefilled.append(keywords.get("prefill", False))
        return call(*arguments, **keywords)

    model = make_model(decode_fn=functools.partial(t5x.decoding.temperature_sample, topk=1))
    with nn.intercept_methods(keep):
        jax.eval_shape(
            model.predict_batch_with_aux,
            encoder_decoder_params(with_prompt=True),
            batch_of(golden("forward_short")),
        )
    assert True in prefilled


def test_embedding_by_gather_gives_what_one_hot_gives(flaxformer_models):
    batch = batch_of(golden("forward_short"))
    params = encoder_decoder_params(with_prompt=True)
    one_hot, gathered = (
        logits_of(flaxformer_models.encoder_decoder(make_prompt, one_hot), params, batch)
        for one_hot in (True, False)
    )
    assert_close(gathered, one_hot, scale=1e-6)


def test_the_prompt_passes_through_the_input_dropout(flaxformer_models):
    module = flaxformer_models.encoder_decoder(make_prompt, dropout_rate=0.5)
    params = encoder_decoder_params(with_prompt=True)
    tokens = golden("forward_short")["encoder_input_tokens"]
    embedded = module.apply(
        {"params": params},
        tokens,
        rngs={"dropout": jax.random.key(0)},
        method=lambda module, tokens: module.encoder.embed_and_combine_inputs(tokens),
    )
    # Dropout of T5 drops whole features of an example: the prompt's and the tokens' at once.
    kept = np.all(embedded != 0, axis=1, keepdims=True)
    assert 0.25 < kept.mean() < 0.75
    prompt = params["encoder"]["prompt"]["prompt"]["prompt"]
    without = np.concatenate(
        [
            np.broadcast_to(prompt, (len(tokens), *prompt.shape)),
            params["token_embedder"]["embedding"][tokens],
        ],
        axis=1,
    )
    np.testing.assert_allclose(embedded, np.where(kept, 2 * without, 0), rtol=1e-6)


@pytest.mark.parametrize("place", ["prefix_after_bos", "suffix"])
def test_a_prompt_stands_where_the_local_engine_has_it(flaxformer_models, place):
    from prompt_tuning_engine_local.model.network import T5, T5Config

    factory = functools.partial(make_prompt, combine=place)
    batch = batch_of(golden("forward_short"))
    params = encoder_decoder_params(with_prompt=True)
    local = T5(T5Config(64, 32, 4, 8, 64, 2, 2), factory)
    expected = jax.jit(local.apply)({"params": params}, *(batch[name] for name in INPUTS))
    module = flaxformer_models.encoder_decoder(factory)
    assert_close(logits_of(module, params, batch), expected)


@pytest.mark.parametrize("name", ["encoder_segment_ids", "decoder_segment_ids"])
def test_packed_examples_are_refused(make_model, name):
    batch = batch_of(golden("forward_short"))
    batch[name] = np.ones_like(batch[name.replace("segment_ids", "input_tokens")])
    with pytest.raises(InputError, match="does not support packed examples; set PACK = False"):
        make_model().loss_fn(encoder_decoder_params(with_prompt=True), batch, None)


class LayerPrompt(PromptModule):
    def layer(self, layer, hidden, state):
        return hidden


@pytest.mark.parametrize(
    ("factory", "settings", "message"),
    [
        (
            LayerPrompt,
            {"scan_layers": True},
            "LayerPrompt acts within the layers of the encoder, .* set scan_layers = False",
        ),
        (
            functools.partial(make_prompt, sides=("decoder",)),
            {"prompt_decoder": False},
            r"sides is \('decoder',\), and the decoder is a Decoder, expected a PromptDecoder",
        ),
        (functools.partial(nn.Dropout, 0.5), {}, "PROMPT makes a Dropout, expected a prompt mod"),
    ],
)
def test_a_prompt_that_a_model_cannot_use_is_refused(flaxformer_models, factory, settings, message):
    module = flaxformer_models.encoder_decoder(factory, **settings)
    tokens = np.ones((1, 2), np.int32)
    with pytest.raises(InputError, match=message):
        module.init(jax.random.key(0), tokens, tokens, tokens)


def test_stacks_that_do_not_belong_together_are_refused(flaxformer_models):
    from flaxformer.architectures.t5 import t5_architecture

    from prompt_tuning_core.integrations.flaxformer import PromptEncoderDecoder

    plain = flaxformer_models.encoder_decoder()
    prompted = flaxformer_models.encoder_decoder(make_prompt)
    unset = flaxformer_models.encoder_decoder(make_prompt)
    unset.encoder_factory.keywords["prompt_factory"] = None
    tokens = np.ones((1, 2), np.int32)
    for encoder, whole, message in (
        (plain, PromptEncoderDecoder, "encoder is a Encoder, expected a PromptEncoder"),
        (prompted, t5_architecture.EncoderDecoder, "use it as the encoder of PromptEncoderDec"),
        (unset, PromptEncoderDecoder, "PromptEncoder.prompt_factory is not set; set PROMPT"),
    ):
        module = whole(
            encoder_factory=encoder.encoder_factory,
            decoder_factory=encoder.decoder_factory,
            shared_token_embedder_factory=encoder.shared_token_embedder_factory,
        )
        with pytest.raises(InputError, match=message):
            module.init(jax.random.key(0), tokens, tokens, tokens)
