"""Runs a prompt module in whole models: the model of the engine `local`, and Flaxformer's.

Both have random weights and the sizes of `flaxformer_models`. A model that is not installed is not
tried.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_testing.checks import NotTriedError

if TYPE_CHECKING:
    from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel

_VOCABULARY: Any = SimpleNamespace(vocab_size=64, eos_id=1)


class Models:
    """A prompt module in both models, with the same values of all parameters.

    Args:
      module: The module, as a user configures it.
      tokens: The input `[B, T]`; the targets are drawn.
      seed: Determines the values.
      layers: Number of layers of each stack; Flaxformer's model has two.

    Raises:
      NotTriedError: If the engine `local` is not installed.
    """

    def __init__(self, module: PromptModule, tokens: jax.Array, seed: int, layers: int = 2) -> None:
        self._module = module
        generator = np.random.default_rng(seed)
        self._local: EncoderDecoderModel = _local_model(module, layers)
        shapes: Mapping[str, Any] = {
            **self._local.frozen_parameters, **self._local.init_prompt(jax.random.key(seed))
        }  # fmt: skip
        flat = {
            name: (0.3 * generator.standard_normal(leaf.shape)).astype(np.float32)
            for name, leaf in shapes.items()
        }
        self._variables = {"params": traverse_util.unflatten_dict(flat, sep="/")}
        targets = jnp.asarray(generator.integers(2, 60, (len(tokens), 4)), jnp.int32)
        starts = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        self._batch = (tokens, starts, targets)

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """The logits of the engine `local` `[B, T, V]`, for all positions at once."""
        return np.asarray(jax.jit(self._local.network.apply)(self._variables, *self._batch))

    @property
    def logits_by_steps(self) -> np.ndarray:
        """The same logits, computed one position after another with a cache."""
        network, (tokens, starts, targets) = self._local.network, self._batch
        apply = functools.partial(network.apply, self._variables)

        @jax.jit
        def by_steps(tokens: jax.Array, starts: jax.Array) -> jax.Array:
            encoded = apply(tokens, method="encode")
            cache = apply(encoded, targets.shape[1], method="start_cache")

            def step(cache: Any, given: tuple[jax.Array, jax.Array]) -> Any:
                token, position = given
                logits, cache = apply(token, cache, position, encoded, method="decode_step")
                return cache, logits

            positions = jnp.arange(targets.shape[1])
            return jax.lax.scan(step, cache, (starts.T, positions))[1]

        return np.asarray(by_steps(tokens, starts)).swapaxes(0, 1)

    @property
    def flaxformers_logits(self) -> np.ndarray:
        """The logits of Flaxformer's model.

        Raises:
          NotTriedError: If Flaxformer is not installed.
        """
        try:
            from prompt_tuning_testing import flaxformer_models
        except ImportError as error:
            raise NotTriedError(f"Flaxformer is not installed ({error})") from error
        model = flaxformer_models.encoder_decoder(self._module.clone)
        apply = functools.partial(model.apply, enable_dropout=False)
        return np.asarray(jax.jit(apply)(self._variables, *self._batch))


def _local_model(module: PromptModule, layers: int) -> EncoderDecoderModel:
    try:
        from prompt_tuning_engine_local.model.network_config import T5Config
        from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
    except ImportError as error:
        raise NotTriedError(f"prompt-tuning-engine-local is not installed ({error})") from error
    config = T5Config(64, 32, 4, 8, 64, layers, layers)
    return EncoderDecoderModel(config, _VOCABULARY, module.clone)
