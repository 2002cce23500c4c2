"""The demo with bfloat16 activations: the losses and the answers of float32."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning_demo import base, model
from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.model import model_files, optimizers
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_local.runs import training
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor
from prompt_tuning_files import formats

pytestmark = pytest.mark.slow

DTYPES = ("float32", "bfloat16")
PROMPT = "encoder/prompt/prompt/prompt"
# A difference of log-likelihoods below which bfloat16, of 8 bits, decides by its rounding.
TIE = 0.05


def test_twenty_steps_have_the_loss_of_float32():
    exact, rounded = (losses(dtype) for dtype in DTYPES)
    assert exact != rounded
    assert exact[-1] < exact[0]
    assert np.mean(rounded) == pytest.approx(np.mean(exact), rel=0.01)


def losses(dtype):
    """Returns the losses of 20 steps of `runs/demo.gin`, in smaller batches and of one length.

    Each length would be compiled, which takes longer than its steps.
    """
    network, frozen = with_activations(dtype)
    examples = batching.tokenize(
        DEMO_REVIEWS.examples("train"), network.vocabulary, base.LENGTHS, "training"
    )
    batches = batching.training_batches([examples], base.LENGTHS, 16, 0, bucketing=False)
    optimizer = optimizers.adafactor(0.1)
    prompt = {PROMPT: formats.read_prompt("demo/demo_plot_or_review").array}
    state = optimizer.init(prompt)
    step_fn = training.make_step(network, optimizer)
    found = []
    for step in range(20):
        prompt, state, metrics = step_fn(
            prompt, state, frozen, next(batches), jax.random.key(0), step
        )
        found.append(float(metrics["loss"]))
    return found


def test_answers_are_those_of_float32_but_for_ties():
    prompt = {PROMPT: formats.read_prompt("demo/demo_reviews").array}
    examples = DEMO_REVIEWS.examples("test")[:600]
    answers, models = {}, {}
    for dtype in DTYPES:
        network, frozen = models[dtype] = with_activations(dtype)
        predictor = Predictor(network, frozen, base.LENGTHS, 64, Placement(), bucketing=False)
        answers[dtype] = predictor.predict(examples, prompt)
    assert set(answers["float32"]) == {"positive", "negative"}
    differing = [
        example
        for example, exact, rounded in zip(examples, *answers.values(), strict=True)
        if exact != rounded
    ]
    assert len(differing) < 0.01 * len(examples)
    margins = [margin(*models["float32"], prompt, example) for example in differing]
    assert all(abs(value) < TIE for value in margins), margins
    # The margin is that of the answers.
    for example, answer in zip(examples[:4], answers["float32"], strict=False):
        assert (margin(*models["float32"], prompt, example) > 0) == (answer == "positive")


def with_activations(dtype):
    network = base.make_model(jax.nn.initializers.zeros)
    config = dataclasses.replace(network.config, dtype=dtype)
    network = EncoderDecoderModel(config, network.vocabulary, network.module.clone)
    parameters = network.frozen_parameters
    frozen = model_files.load(model.checkpoint_path(), parameters, jax.numpy.asarray).params
    # The model is kept in what it computes with, and not cast at each step.
    assert frozen["encoder/layers_0/mlp/wo/kernel"].dtype == dtype
    assert frozen["decoder/logits_dense/kernel"].dtype == "float32"
    return network, frozen


def margin(network, frozen, prompt, example):
    """Returns how much likelier "positive" is than "negative"."""
    both = [dataclasses.replace(example, targets=label) for label in ("positive", "negative")]
    tokenized = batching.tokenize(both, network.vocabulary, base.LENGTHS, "both labels")
    batch = batching.make_batch(tokenized, batching.padded_lengths(base.LENGTHS, bucketing=False))
    positive, negative = network.score(prompt, frozen, batch).tolist()
    return positive - negative
