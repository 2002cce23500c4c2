"""A batch that a step takes in parts gives the loss and the gradient of the whole batch."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import make_model

from prompt_tuning_engine_local.model import losses, microbatches


@pytest.mark.parametrize("factor", [None, 3.0, *losses.LossNormalizingFactor.__members__])
def test_the_losses_of_parts_have_the_sum_of_the_batch(factor):
    logits = jax.random.normal(jax.random.key(0), (4, 3, 8))
    # One sequence is full, two are padded, and one has no target.
    weights = jnp.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], jnp.float32)
    batch = (logits, jnp.full((4, 3), 2), weights)
    whole = losses.divisor(weights, factor)
    parts = [
        losses.cross_entropy(*(leaf[rows] for leaf in batch), 0.1, 1e-4, factor, whole)
        for rows in (slice(0, 3), slice(3, 4))
    ]
    expected = losses.cross_entropy(*batch, 0.1, 1e-4, factor)
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-6)


def test_the_penalty_counts_once_and_each_part_has_a_key_of_its_own():
    def loss_of_targets(prompt, frozen, batch, rng, divisors):
        noise = jax.random.uniform(rng)
        return prompt["p"] * frozen * jnp.sum(batch["x"]) * noise, noise

    model = SimpleNamespace(
        divisors=lambda batch: (None, None),
        loss_of_targets=loss_of_targets,
        penalty=lambda prompt: 10.0 * prompt["p"] * prompt["q"],
    )
    batch = {"x": jnp.array([1.0, 20.0, 300.0, 4000.0])}
    loss = microbatches.loss_in_parts(model, {"q": 5.0}, 2.0, batch, jax.random.key(0), 2)
    found, gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))({"p": jnp.float32(3)})
    noise = [jax.random.uniform(key) for key in jax.random.split(jax.random.key(0))]
    assert noise[0] != noise[1]
    expected = 2 * (301 * noise[0] + 4020 * noise[1]) + 50
    np.testing.assert_allclose(gradient["p"], expected, rtol=1e-6)
    np.testing.assert_allclose(found, (3 * expected, sum(noise)), rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "inputs", "targets", "number"),
    [
        # A prompt of 5; of width 32, 32768 positions fit.
        (8, 128, 8, 1),
        (32, 2043, 8, 2),
        (30, 2043, 8, 2),
        (32, 128, 4096, 4),
        # No part is smaller than an example.
        (3, 40000, 8, 3),
        (1, 40000, 8, 1),
    ],
)
def test_a_cpu_takes_a_large_batch_in_parts(rows, inputs, targets, number, monkeypatch):
    model = make_model()
    prompt = {"encoder/prompt/prompt": np.zeros((5, 32), np.float32)}
    batch = {
        "encoder_input_tokens": np.zeros((rows, inputs), np.int32),
        "decoder_target_tokens": np.zeros((rows, targets), np.int32),
    }
    assert model.quickest_parts(prompt, batch) == number
    # A wide model has parts of 1024 positions.
    model.config = dataclasses.replace(model.config, emb_dim=4096)
    one = max(inputs + 5, targets)
    assert rows // model.quickest_parts(prompt, batch) * one <= max(1024, one)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert model.quickest_parts(prompt, batch) == 1
