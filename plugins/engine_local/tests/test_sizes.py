"""The sizes: the packaged ones are those of the published T5 1.1, others are the checkpoint's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import gin
import pytest

from prompt_tuning_core import gin_config
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_files.formats import Variable

# Numbers of parameters of the released T5 v1.1 models (with an output layer of their own).
PUBLISHED = {
    "small": 76_961_152,
    "base": 247_577_856,
    "large": 783_150_080,
    "xl": 2_849_757_184,
    "xxl": 11_135_332_352,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_number_of_parameters(size):
    from prompt_tuning_engine_local.model import network

    flags = RunFlags(
        gin_files=(f"models/t5_1_1_{size}_prompt.gin",),
        gin_bindings=("VOCABULARY_FILE = 'unused'",),
    )
    gin_config.parse(flags, engine="local")
    config = gin.get_configurable(network.T5Config)()
    assert sum(map(math.prod, frozen_shapes(config).values())) == PUBLISHED[size]


CONFIGS = {
    "1.1": {},
    "1.0": {"activation": "relu", "logits_via_embedding": True},
    "in between": {"activation": "relu"},
}


def frozen_shapes(config):
    from prompt_tuning_engine_local.model import network
    from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel

    model = EncoderDecoderModel.__new__(EncoderDecoderModel)
    model.bare_network = network.T5(config)
    return {name: leaf.shape for name, leaf in model.frozen_parameters.items()}


def model_file(config, **changes):
    shapes = {**frozen_shapes(config), **changes}
    return SimpleNamespace(
        variables={name: Variable(shape, "float32") for name, shape in shapes.items() if shape}
    )


def t5_config(**settings):
    from prompt_tuning_engine_local.model.network import T5Config

    return T5Config(
        num_embeddings=40, emb_dim=24, num_heads=3, head_dim=4, mlp_dim=20, num_encoder_layers=2,
        num_decoder_layers=1, relpos_buckets=16, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("version", CONFIGS)
@pytest.mark.slow
def test_the_shapes_are_those_of_an_initialised_model(version):
    import jax
    import jax.numpy as jnp

    from prompt_tuning_engine_local.model.network import T5
    from prompt_tuning_engine_local.model.prompted_model import flatten

    config = t5_config(**CONFIGS[version])
    tokens = jnp.ones((1, 1), jnp.int32)
    params = T5(config).init(jax.random.key(0), tokens, tokens, tokens)["params"]
    assert frozen_shapes(config) == {name: leaf.shape for name, leaf in flatten(params).items()}


@pytest.mark.parametrize("version", CONFIGS)
def test_sizes_are_read_off_the_variables(version):
    from prompt_tuning_engine_local.model import sizes

    config = t5_config(**CONFIGS[version], dropout_rate=0.1, dtype="bfloat16")
    assert sizes.config_of(model_file(config), "x", 0.1, "bfloat16") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder/relpos_bias/rel_embedding": None},
            "model x: has no variable 'encoder/relpos_bias/rel_embedding', expected a T5 "
            "encoder-decoder; did you mean 'decoder/relpos_bias/rel_embedding'",
        ),
        ({"token_embedder/embedding": (40,)}, "has the shape .40,., expected a matrix"),
        ({"encoder/relpos_bias/rel_embedding": (5, 16)}, "12 columns, which 5 heads"),
    ],
)
def test_what_is_no_t5_has_no_sizes(changes, message):
    from prompt_tuning_engine_local.model import sizes

    with pytest.raises(ValueError, match=message):
        sizes.config_of(model_file(t5_config(), **changes), "x")


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="is 'swish', expected one of 'gated-gelu', 'relu'"):
        t5_config(activation="swish")
