"""The layers of a stack share what JAX makes of them."""

import functools

import jax
import jax.numpy as jnp
import pytest

from prompt_tuning_engine_local.model import attention, blocks
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network import T5, T5Config

TOKENS = jnp.ones((2, 5), jnp.int32)


def model_of(layers):
    return T5(
        T5Config(
            num_embeddings=40, emb_dim=24, num_heads=3, head_dim=4, mlp_dim=20,
            num_encoder_layers=layers, num_decoder_layers=layers,
        )
    )  # fmt: skip


def training(model, params):
    dropout = Dropout(0.1, jax.random.key(0))
    return model.apply(params, TOKENS, TOKENS, TOKENS, dropout).sum()


def decoding(model, params):
    encoded = model.apply(params, TOKENS, method="encode")
    cache = model.apply(params, encoded, 4, method="start_cache")
    first, start = TOKENS[:, 0], jnp.asarray(0)
    logits, _ = model.apply(params, first, cache, start, encoded, method="decode_step")
    return logits.sum()


@pytest.mark.parametrize("function", [training, decoding])
def test_the_products_of_a_stack_are_traced_once_for_all_layers(function, monkeypatch):
    traced = []

    def counted(left, right):
        traced.append((left.shape, right.shape))
        return jnp.matmul(left, right)

    monkeypatch.setattr(blocks, "product", counted)
    monkeypatch.setattr(attention, "product", counted)
    shapes = []
    for layers in (2, 4):
        model = model_of(layers)
        params = jax.eval_shape(model.init, jax.random.key(0), TOKENS, TOKENS, TOKENS)
        jax.clear_caches()
        traced.clear()
        jax.make_jaxpr(jax.grad(functools.partial(function, model)))(params)
        shapes.append(sorted(traced))
    assert shapes[0] == shapes[1] != []
