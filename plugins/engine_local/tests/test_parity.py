"""The network, the loss, the optimizer and decoding give the reference's numbers."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import adafactor_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import CONFIG

from prompt_tuning_core.combine import PLACES
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import in_stack
from prompt_tuning_engine_local.model import decoding, losses, optimizers
from prompt_tuning_engine_local.model.prompt_points import stack_of
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_prompt_basic import PromptBasic

INPUTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


def zeros(rng, shape):
    return jnp.zeros(shape)


def make_model(prompt_init=zeros, **settings):
    vocabulary = SimpleNamespace(vocab_size=64, eos_id=1)
    return EncoderDecoderModel(
        CONFIG, vocabulary, lambda: PromptBasic(length=5, prompt_init=prompt_init), **settings
    )


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def frozen(golden):
    return golden("tiny_params")


@pytest.fixture(scope="module")
def prompt(golden):
    return golden("tiny_prompt")


@pytest.fixture(params=["short", "long"])
def forward(request, golden):
    return golden(f"forward_{request.param}")


def apply(model, frozen, prompt, *arguments, **keywords):
    from flax.traverse_util import unflatten_dict

    network = model.bare_network if prompt is None else model.network
    params = unflatten_dict({**frozen, **(prompt or {})}, sep="/")
    return network.apply({"params": params}, *arguments, **keywords)


def assert_close(found, expected, scale=1e-4):
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * np.abs(expected).max())


def test_parameters_have_flaxformers_names_and_shapes(frozen, prompt):
    model = make_model()
    described = {name: leaf.shape for name, leaf in model.frozen_parameters.items()}
    assert described == {name: array.shape for name, array in frozen.items()}
    made = model.init_prompt(jax.random.key(0))
    assert {n: a.shape for n, a in made.items()} == {n: a.shape for n, a in prompt.items()}
    assert list(made) == ["encoder/prompt/prompt/prompt"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_the_prompt_is_float32_whatever_the_initializer_returns(dtype):
    model = make_model(prompt_init=lambda rng, shape: np.full(shape, 0.1, dtype))
    (prompt,) = model.init_prompt(jax.random.key(0)).values()
    assert prompt.dtype == np.float32
    np.testing.assert_array_equal(prompt, np.full((5, 32), 0.1, dtype).astype(np.float32))


def test_an_initializer_of_whole_numbers_is_refused():
    model = make_model(prompt_init=lambda rng, shape: np.ones(shape, np.int32))
    with pytest.raises(InputError, match=r"returned int32 .*expected floating numbers"):
        model.init_prompt(jax.random.key(0))


@pytest.mark.parametrize("kind", ["noprompt", "prompt"])
def test_logits_and_encoder_outputs(forward, frozen, prompt, kind):
    prompt = prompt if kind == "prompt" else None
    model = make_model()
    inputs = [forward[name] for name in INPUTS]
    assert_close(apply(model, frozen, prompt, *inputs), forward[f"{kind}_logits"])
    encoded = apply(model, frozen, prompt, inputs[0], method="encode")
    assert_close(encoded.values, forward[f"{kind}_encoded"])
    # Where the reference's outputs are exactly zero it saw padding.
    np.testing.assert_array_equal(encoded.real, np.any(forward[f"{kind}_encoded"] != 0, axis=-1))


def test_masks_come_from_the_prompt_module(golden):
    forward = golden("forward_short")
    module = in_stack(PromptBasic(length=5, prompt_init=zeros), stack_of(CONFIG, "encoder"))
    tokens = forward["encoder_input_tokens"]
    real = module.apply(
        {"params": {"prompt": {"prompt": np.zeros((5, 32))}}}, tokens, method="input_mask"
    )
    np.testing.assert_array_equal(real, forward["encoder_tokens_with_fake_prompt"] > 0)
    pairs = real[:, None, :, None] & real[:, None, None, :]
    np.testing.assert_array_equal(pairs, forward["encoder_mask_with_prompt"] > 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "prompt_loss"),
        ({"z_loss": 1e-4}, "prompt_loss_zloss1e-4"),
        (
            {"z_loss": 1e-4, "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"},
            "prompt_loss_zloss1e-4_per_token",
        ),
        ({"label_smoothing": 0.1}, "prompt_loss_labelsmoothing0.1"),
    ],
)
def test_losses(forward, frozen, prompt, settings, expected):
    batch = {name: forward[name] for name in (*INPUTS, "decoder_loss_weights")}
    loss, _ = make_model(**settings).loss(prompt, frozen, batch, None)
    assert_close(loss, forward[expected])


@pytest.mark.parametrize(
    ("file", "settings", "expected"),
    [
        ("forward_short", {}, "prompt_grad"),
        ("forward_short", {"z_loss": 1e-4}, "prompt_grad_zloss1e-4"),
        ("forward_long", {}, "prompt_grad"),
    ],
)
@pytest.mark.slow
def test_gradient_of_the_prompt(golden, frozen, prompt, file, settings, expected):
    forward = golden(file)
    batch = {name: forward[name] for name in (*INPUTS, "decoder_loss_weights")}
    gradient, _ = jax.grad(make_model(**settings).loss, has_aux=True)(prompt, frozen, batch, None)
    assert_close(gradient["encoder/prompt/prompt/prompt"], forward[expected])


@pytest.mark.parametrize("kind", ["noprompt", "prompt"])
def test_greedy_tokens(golden, frozen, prompt, kind):
    forward = golden("forward_short")
    generate = jax.jit(make_model().generate, static_argnums=3)
    found = generate(
        prompt if kind == "prompt" else None, frozen, forward["encoder_input_tokens"], 8
    )
    np.testing.assert_array_equal(found.ids[:, 0], forward[f"{kind}_greedy_tokens"])


@pytest.mark.parametrize(("beams", "expected"), [(4, "prompt_beam4_all"), (1, "prompt_beam1")])
def test_beams(golden, frozen, prompt, beams, expected):
    forward = golden("forward_short")
    search = functools.partial(decoding.beam_search, num_decodes=beams)
    generate = jax.jit(make_model(decode_fn=search).generate, static_argnums=3)
    found = generate(prompt, frozen, forward["encoder_input_tokens"], 8)
    tokens, scores = (
        # T5X has the best last, and gives a place that no sequence took a score of -1e7.
        forward[f"{expected}_{part}"].reshape(4, beams, -1)[:, ::-1]
        for part in ("tokens", "scores")
    )
    np.testing.assert_array_equal(found.ids, tokens)
    scores = np.where(scores[..., 0] == -1e7, -np.inf, scores[..., 0])
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("optimizer_adafactor_mpsFalse_wd1e-5", {}),
        (
            "optimizer_adafactor_clip1_mpsTrue",
            {"multiply_by_parameter_scale": True, "weight_decay_rate": None},
        ),
    ],
)
def test_adafactor_follows_the_references_trajectory(golden, frozen, prompt, file, settings):
    expected = golden(file)
    forward = golden("forward_short")
    batch = {name: forward[name] for name in (*INPUTS, "decoder_loss_weights")}
    optimizer = optimizers.adafactor(learning_rate=float(expected["learning_rate"]), **settings)
    state = optimizer.init(prompt)
    step = jax.jit(jax.value_and_grad(make_model().loss, has_aux=True))
    for loss, after in zip(expected["losses"], expected["prompts"], strict=True):
        (found, _), gradient = step(prompt, frozen, batch, None)
        assert_close(found, loss)
        updates, state = optimizer.update(gradient, state, prompt)
        prompt = optax.apply_updates(prompt, updates)
        assert_close(prompt["encoder/prompt/prompt/prompt"], after)


@pytest.mark.parametrize("case", adafactor_cases.CASES)
def test_adafactor_takes_t5xs_steps_factored_and_not(golden, case):
    found = adafactor_cases.local_prompts(*adafactor_cases.CASES[case])
    expected = golden("optimizer_adafactor_sizes")[case]
    np.testing.assert_allclose(adafactor_cases.sample(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(512,), (2, 150, 512)])
def test_adafactor_factors_matrices_alone(shape):
    # The formula of Shazeer and Stern 2018, algorithm 4, in plain numpy and float64.
    rng = np.random.default_rng(0)
    value = rng.normal(size=shape)
    optimizer = optimizers.adafactor()
    found = jnp.asarray(value, jnp.float32)
    state = optimizer.init(found)
    second_moment = np.zeros_like(value)
    for t in range(1, 6):
        gradient = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, (*shape[:-1], 1))
        decay = 1 - t**-0.8
        second_moment = decay * second_moment + (1 - decay) * (gradient**2 + 1e-30)
        update = gradient / np.sqrt(second_moment)
        update /= max(1.0, np.sqrt(np.mean(update**2)))
        value = value - 0.3 * update - 1e-5 * value
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, found)
        found = optax.apply_updates(found, updates)
    np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


def test_average_per_sequence_weighs_sequences_alike():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 4, 7)).astype(np.float32)
    targets = rng.integers(1, 7, size=(3, 4))
    weights = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    token_loss = -np.take_along_axis(log_prob, targets[..., None], -1)[..., 0]
    expected = (token_loss[0].mean() + token_loss[1, 0]) / 2
    found = losses.cross_entropy(
        logits, targets, weights, loss_normalizing_factor="average_per_sequence"
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    total = losses.cross_entropy(
        logits, targets, weights, loss_normalizing_factor="NUM_TOTAL_TARGET_TOKENS"
    )
    np.testing.assert_allclose(total, (token_loss * weights).sum() / 12, rtol=1e-5)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.slow
def test_padding_does_not_change_an_answer_wherever_the_prompt_is(golden, frozen, prompt, place):
    forward = golden("forward_short")
    model = EncoderDecoderModel(
        CONFIG,
        SimpleNamespace(vocab_size=64, eos_id=1),
        lambda: PromptBasic(length=5, prompt_init=zeros, combine=place),
    )
    row = forward["encoder_input_tokens"][:1]
    row = row[:, : int((row > 0).sum())]
    padded = np.pad(row, ((0, 0), (0, 6)))
    decoder = [forward[name][:1] for name in INPUTS[1:]]
    whole = apply(model, frozen, prompt, row, *decoder)
    np.testing.assert_allclose(
        apply(model, frozen, prompt, padded, *decoder), whole, rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_packed_batches_are_refused(golden, frozen, prompt, side):
    forward = golden("forward_short")
    batch = {name: forward[name] for name in (*INPUTS, "decoder_loss_weights")}
    batch[f"{side}_segment_ids"] = np.ones_like(batch[f"{side}_input_tokens"])
    with pytest.raises(ValueError, match="packed"):
        make_model().loss(prompt, frozen, batch, None)
