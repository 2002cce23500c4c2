"""The layers of a stack share what JAX makes of them, and attention may work in blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_engine_local.model import attention, blocks, parts
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network import T5, T5Config

TOKENS = jnp.array([[7, 12, 39, 5, 1], [3, 28, 1, 0, 0]])


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
    cache = model.apply(params, encoded, 4, method="start_cache").spread(3)
    first, start = TOKENS[:, :3].ravel(), jnp.asarray(0)
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


@pytest.mark.parametrize("function", [training, decoding])
def test_attention_in_blocks_of_queries_is_attention(function, monkeypatch):
    model = model_of(2)
    params = model.init(jax.random.key(0), TOKENS, TOKENS, TOKENS)
    found = {}
    for most in (parts._MOST_LOGITS, 10):  # 5 queries of 5 keys: blocks of 2, 2 and 1.
        monkeypatch.setattr(parts, "_MOST_LOGITS", most)
        found[most] = jax.value_and_grad(functools.partial(function, model))(params)
    whole, in_blocks = (jax.tree.leaves(one) for one in found.values())
    for one, other in zip(in_blocks, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_cpu_has_few_blocks_of_queries_and_only_for_long_texts(monkeypatch):
    def sizes(queries, keys):
        taken = [np.arange(queries)[block] for block in parts.blocks_of_queries(queries, keys)]
        assert np.array_equal(np.concatenate(taken), np.arange(queries))
        return [len(block) for block in taken]

    assert sizes(228, 228) == [228]
    assert sizes(1, 4096) == [1]
    assert sizes(628, 628) == [157] * 4
    assert sizes(4096, 4096) == [1024] * 4
    assert sizes(3, 60_000) == [2, 1]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sizes(628, 628) == [628]
