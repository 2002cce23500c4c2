"""Models read through this format give the numbers of Hugging Face Transformers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import unflatten_dict

from prompt_tuning_engine_local.model import decoding, model_files, sizes
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_files import formats
from prompt_tuning_prompt_basic import PromptBasic

INPUTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
PROMPT = "encoder/prompt/prompt/prompt"


@pytest.fixture(autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(params=["model", "untied", "model_v1_0"])
def opened(request, golden, copied):
    """The engine's model, its parameters and the outputs expected of it."""
    if request.param != "untied":
        outputs = golden({"model": "hf_t5", "model_v1_0": "hf_t5_v1_0"}[request.param])
        return *load(copied(request.param)), outputs
    folder, outputs = copied("model"), golden("hf_t5_untied")
    untie(folder, outputs["lm_head.weight"])
    return *load(folder), outputs


def untie(folder, output_layer):
    """Gives a T5 1.1 an output layer of its own, as the published ones have it."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = output_layer
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["scale_decoder_outputs"]
    config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))


def load(folder, length=4):
    model = EncoderDecoderModel(
        sizes.config_of_checkpoint(folder),
        SimpleNamespace(vocab_size=2, eos_id=1),
        lambda: PromptBasic(length=length, prompt_init=lambda rng, shape: jnp.zeros(shape)),
    )
    return model, model_files.load(folder, model.frozen_parameters).params


def logits(model, frozen, outputs, prompt=None):
    network = model.bare_network if prompt is None else model.network
    params = {**frozen, **({} if prompt is None else {PROMPT: prompt})}
    found = jax.jit(network.apply)(
        {"params": unflatten_dict(params, sep="/")}, *(outputs[name] for name in INPUTS)
    )
    return found[outputs["decoder_target_tokens"] > 0]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_logits(opened):
    model, frozen, outputs = opened
    real = outputs["decoder_target_tokens"] > 0
    assert_close(logits(model, frozen, outputs), outputs["noprompt_logits"][real])
    with_prompt = logits(model, frozen, outputs, outputs["prompt"])
    assert_close(with_prompt, outputs["prompt_logits_from_labels"][real])


@pytest.mark.parametrize("name", ["default", "p_tuning", "with_embeddings"])
def test_adapters_act_as_in_peft(golden, copied, name):
    model, frozen = load(copied("model"), length=3)
    outputs, theirs = golden("hf_t5"), golden("peft")
    prompt = formats.read_prompt(copied("peft") / name).array
    real = outputs["decoder_target_tokens"] > 0
    assert_close(logits(model, frozen, outputs, prompt), theirs[f"{name}_logits"][real])
    generate = jax.jit(model.generate, static_argnums=3)
    tokens = generate({PROMPT: prompt}, frozen, outputs["encoder_input_tokens"], 8)
    np.testing.assert_array_equal(tokens.ids[:, 0], theirs[f"{name}_greedy_tokens"][:, 1:])


def test_loss_and_gradient_of_the_prompt(golden, copied):
    outputs = golden("hf_t5")
    prompt = formats.read_prompt(copied("adapter")).array
    np.testing.assert_array_equal(prompt, outputs["prompt"])
    model, frozen = load(copied("model"))
    batch = {name: outputs[name] for name in INPUTS}
    batch["decoder_loss_weights"] = (outputs["decoder_target_tokens"] > 0).astype(np.float32)

    def mean_loss(prompt):
        return model.loss({PROMPT: prompt}, frozen, batch, None)[1]

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(prompt)
    expected = golden("hf_t5_float64")
    assert_close(loss, expected["prompt_loss_mean"])
    assert_close(gradient, expected["prompt_grad_of_mean_loss"])


def test_greedy_tokens(opened):
    model, frozen, outputs = opened
    # Hugging Face's begin with the start token.
    np.testing.assert_array_equal(decoded(model, frozen, outputs), outputs["greedy_tokens"][:, 1:])


def test_beams(golden, copied):
    model, frozen = load(copied("model"))
    # Hugging Face lets a sequence of full length win over one that ended before; ours and T5X's
    # search does not. Without an EOS none ends, and length penalties change nothing.
    model.vocabulary.eos_id = -1
    model.decode_fn = decoding.beam_search
    outputs = golden("hf_t5")
    np.testing.assert_array_equal(decoded(model, frozen, outputs), outputs["beam4_tokens"][:, 1:])


def decoded(model, frozen, outputs):
    generate = jax.jit(model.generate, static_argnums=3)
    prompt = {PROMPT: outputs["prompt"]}
    return generate(prompt, frozen, outputs["encoder_input_tokens"], 8).ids[:, 0]


def test_the_configuration_comes_from_the_model(copied):
    # Where shapes do not tell, config.json does: the largest distance.
    assert sizes.config_of_checkpoint(copied("model_v1_0"), 0.1, "bfloat16") == sizes.T5Config(
        num_embeddings=48,
        emb_dim=24,
        num_heads=3,
        head_dim=6,
        mlp_dim=40,
        num_encoder_layers=2,
        num_decoder_layers=1,
        dropout_rate=0.1,
        dtype="bfloat16",
        relpos_buckets=16,
        relpos_max_distance=20,
        activation="relu",
        logits_via_embedding=True,
    )
