"""Every prompt variant of this repository in the embedded engine's model: the same laws for all."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import variants
from prompt_tuning_core import prompts, registry
from prompt_tuning_engine_local.model import optimizers
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_local.runs import state_store, training
from prompt_tuning_files import module_files
from prompt_tuning_init_file import init_file
from variants import FROZEN, ROWS, VARIANTS, P, batch_of

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

CONFIG = T5Config(
    num_embeddings=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24,
    num_encoder_layers=2, num_decoder_layers=2,
)  # fmt: skip


def make_model(variant):
    vocabulary = SimpleNamespace(vocab_size=64, eos_id=1)
    return EncoderDecoderModel(CONFIG, vocabulary, variants.factory(variant))


@pytest.fixture(scope="module")
def basic():
    return make_model("basic")


@pytest.fixture(scope="module")
def frozen(basic):
    rng = np.random.default_rng(1)
    return {
        name: jnp.asarray(
            rng.normal(name.endswith("scale"), 1 / np.sqrt(CONFIG.emb_dim), leaf.shape), leaf.dtype
        )
        for name, leaf in basic.frozen_parameters.items()
    }


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def made(variant):
    """A model, and values of its prompt that are nobody's initial ones."""
    model = make_model(variant)
    prompt = model.init_prompt(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), len(prompt))
    return model, {
        name: leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for key, (name, leaf) in zip(keys, prompt.items(), strict=True)
    }


@pytest.fixture(scope="module")
def whole(made, frozen):
    """The logits of all rows at once."""
    return logits_of(*made, frozen, batch_of(ROWS))


def keep_gradient():
    """An optimizer whose state is the last gradient, which it passes on."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params=None: (gradient, gradient),
    )


@pytest.fixture(scope="module")
def step(made, frozen):
    """The training step, as a function of its number and of the state before it."""
    model, _ = made
    step_fn = training.make_step(model, optax.chain(keep_gradient(), optimizers.adafactor()))

    def take(number, state):  # The step reuses the memory of what it is given.
        copies = jax.tree.map(jnp.array, (state.prompt, state.optimizer))
        taken = step_fn(*copies, frozen, batch_of(ROWS), jax.random.key(0), number)
        return state_store.TrainingState(number, *taken[:2], {})

    return take


@pytest.fixture(scope="module")
def first(made, step):
    """The state after the first step."""
    model, prompt = made
    optimizer = optax.chain(keep_gradient(), optimizers.adafactor())
    trained, _ = model.split(prompt)
    return step(1, state_store.TrainingState(0, prompt, optimizer.init(trained), {}))


def test_training_reaches_what_is_declared_trained_and_nothing_else(variant, made, first):
    model, prompt = made
    trained, fixed = model.split(prompt)
    own = {name.split("/", 2)[2] for name in fixed}
    assert own == FROZEN.get(variant, set())
    gradient = first.optimizer[0]
    assert gradient.keys() == trained.keys()
    for name, leaf in gradient.items():
        assert np.abs(leaf).max() > 0, name
    assert trained, "nothing is trained"
    for name, leaf in fixed.items():
        np.testing.assert_array_equal(first.prompt[name], leaf)


def test_the_penalty_is_in_the_loss(variant, made, frozen):
    model, prompt = made
    penalty = model.penalty(prompt)
    assert (penalty is not None) == (variant == "wayward")
    if penalty is not None:
        loss, per_token = model.loss(prompt, frozen, batch_of(ROWS), None)
        bare = per_token * batch_of(ROWS)["decoder_loss_weights"].sum()
        np.testing.assert_allclose(loss, bare + penalty, rtol=1e-5)
        prompt_name, target = prompt["encoder/prompt/prompt"], prompt["encoder/prompt/target"]
        distance = np.mean(np.sum(np.square(prompt_name - target), axis=1))
        np.testing.assert_allclose(penalty, 0.1 * distance, rtol=1e-5)
        np.testing.assert_allclose(model.report(prompt)["encoder/distance"], distance, rtol=1e-5)


def applied(model, prompt, frozen, *arguments, **options):
    variables = {"params": traverse_util.unflatten_dict({**frozen, **prompt}, sep="/")}
    return model.network.apply(variables, *arguments, **options)


def logits_of(model, prompt, frozen, batch):
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    return np.asarray(applied(model, prompt, frozen, *(batch[name] for name in names)))


def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(made, frozen, whole):
    model, prompt = made
    batch = batch_of(ROWS)
    # Without padding among the targets: a step of decoding knows of none.
    length = 2
    encoded = applied(model, prompt, frozen, batch["encoder_input_tokens"], method="encode")
    cache = applied(model, prompt, frozen, encoded, 5, method="start_cache")
    for position in range(length):
        tokens = batch["decoder_input_tokens"][:, position]
        place = (tokens, cache, jnp.int32(position), encoded)
        logits, cache = applied(model, prompt, frozen, *place, method="decode_step")
        real = batch["decoder_target_tokens"][:, position] > 0
        np.testing.assert_allclose(logits[real], whole[real, position], atol=2e-5)


def test_padding_order_and_size_of_a_batch_change_nothing(made, frozen, whole):
    model, prompt = made
    # Both at once: either would show.
    padded_backwards = logits_of(model, prompt, frozen, batch_of(ROWS[::-1], length=9))
    alone = logits_of(model, prompt, frozen, batch_of(ROWS[1:2]))
    real = batch_of(ROWS)["decoder_target_tokens"] > 0
    np.testing.assert_allclose(padded_backwards[::-1][real], whole[real], atol=2e-5)
    np.testing.assert_allclose(alone[0, real[1]], whole[1, real[1]], atol=2e-5)


def test_a_resumed_run_takes_the_same_steps(step, first, tmp_path):
    with contextlib.closing(state_store.StateStore(tmp_path)) as store:
        store.save(first)
        store.wait()
        restored = store.newest(like=first)
    expected, found = step(2, first), step(2, restored)
    for one, other in zip(
        jax.tree.leaves((expected.prompt, expected.optimizer)),
        jax.tree.leaves((found.prompt, found.optimizer)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_matrix_is_worth_the_module(variant, made, basic, frozen, whole):
    model, prompt = made
    matrix = model.matrix(prompt)
    plain = variant in ("basic", "residual network", "network of two layers", "LSTM", "wayward")
    assert (matrix is not None) == plain
    if matrix is not None:
        found = logits_of(basic, {"encoder/prompt/prompt/prompt": matrix}, frozen, batch_of(ROWS))
        np.testing.assert_allclose(found, whole, atol=2e-5)


def plugin_name(variant):
    """Returns the name of a variant's plugin, loaded as a run loads it; see `in_process`."""
    plugin = VARIANTS[variant][0]
    name = plugin if isinstance(plugin, str) else f"a_strangers_{plugin.__name__}"
    registry.process_registry().load("prompt", name)
    return name


def test_from_its_file_a_module_answers_as_it_did(variant, made, frozen, whole, in_process):
    stranger = {"prompts": {"a_strangers_DecoderSide": "variants:DecoderSide"}}
    in_process.distribution("a-decoder-side", stranger)
    model, prompt = made
    name = plugin_name(variant)
    values = {name: np.asarray(leaf) for name, leaf in prompt.items()}
    description = module_files.describe(model.module)
    assert description["plugin"] == name
    written = module_files.save("prompt", values, model.matrix(prompt), description, {})

    saved = module_files.saved_prompt(written[-1], init_file(str(written[-1])), whole=True)
    module = prompts.make(length=P, default=variants.factory("basic"), saved=saved)
    again = EncoderDecoderModel(CONFIG, model.vocabulary, lambda: module)
    found = again.init_prompt(jax.random.key(9))

    assert found.keys() == prompt.keys()
    # The same to the bit, so that greedy answers are the same, too.
    np.testing.assert_array_equal(logits_of(again, found, frozen, batch_of(ROWS)), whole)
