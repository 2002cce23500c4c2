"""The reference's outputs, as both engines are held to them; see the README of golden/."""

from __future__ import annotations

from pathlib import Path

import golden_data
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from prompt_tuning_prompt_basic import PromptBasic

HERE = Path(__file__).parent
FOLDERS = (HERE / "golden", HERE.parents[1] / "engine_local" / "tests" / "golden")

# What T5X, Flaxformer and seqio say of themselves when they are imported.
WARNINGS = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in ("jax.experimental.pjit.pjit has been deprecated:DeprecationWarning",)
]


def golden(name: str) -> dict[str, np.ndarray]:
    """Reads one of the reference's files."""
    return golden_data.read(name, *FOLDERS)


def encoder_decoder_params(with_prompt: bool) -> dict:
    """The tiny model's parameters, nested."""
    prompt = golden("tiny_prompt") if with_prompt else {}
    return unflatten_dict({**golden("tiny_params"), **prompt}, sep="/")


def make_prompt(**settings) -> PromptBasic:
    """A prompt of the length of the golden ones."""
    return PromptBasic(length=5, prompt_init=lambda rng, shape: jnp.zeros(shape), **settings)


def assert_close(found, expected, scale=1e-4):
    """Asserts that two arrays differ by at most `scale` of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * np.abs(expected).max())
