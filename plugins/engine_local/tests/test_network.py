"""The layers of a stack share what JAX makes of them."""

import jax
import jax.numpy as jnp
import pytest

from prompt_tuning_engine_local.model import blocks
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network import T5, T5Config

MODEL = T5(
    T5Config(
        num_embeddings=40, emb_dim=24, num_heads=3, head_dim=4, mlp_dim=20, num_encoder_layers=3,
        num_decoder_layers=4,
    )
)  # fmt: skip
TOKENS = jnp.ones((2, 5), jnp.int32)


def training(params):
    dropout = Dropout(0.1, jax.random.key(0))
    return MODEL.apply(params, TOKENS, TOKENS, TOKENS, dropout).sum()


def decoding(params):
    encoded = MODEL.apply(params, TOKENS, method="encode")
    cache = MODEL.apply(params, encoded, 4, method="start_cache")
    first, start = TOKENS[:, 0], jnp.asarray(0)
    logits, _ = MODEL.apply(params, first, cache, start, encoded, method="decode_step")
    return logits.sum()


@pytest.mark.parametrize("function", [training, decoding])
def test_the_layers_of_a_stack_are_traced_once(function, monkeypatch):
    params = jax.eval_shape(MODEL.init, jax.random.key(0), TOKENS, TOKENS, TOKENS)
    traced = []
    of_mlp = blocks.MLP.__call__

    def counted(self, *arguments):
        traced.append(self)
        return of_mlp(self, *arguments)

    monkeypatch.setattr(blocks.MLP, "__call__", counted)
    jax.make_jaxpr(jax.grad(function))(params)
    assert len(traced) == 2
