"""The packaged sizes are those of the published T5 1.1 models."""

from __future__ import annotations

import math

import gin
import pytest

from prompt_tuning_core import gin_config
from prompt_tuning_core.protocols import RunFlags

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
    from prompt_tuning_engine_local import network
    from prompt_tuning_engine_local.models import EncoderDecoderModel

    flags = RunFlags(
        gin_files=(f"models/t5_1_1_{size}_prompt.gin",),
        gin_bindings=("VOCABULARY_FILE = 'unused'",),
    )
    packaged = gin_config.config_dir()
    gin_config.parse(flags, search=[packaged / "local", packaged])
    model = EncoderDecoderModel.__new__(EncoderDecoderModel)
    model.bare_network = network.T5(gin.get_configurable(network.T5Config)())
    assert sum(map(math.prod, model.frozen_shapes.values())) == PUBLISHED[size]
