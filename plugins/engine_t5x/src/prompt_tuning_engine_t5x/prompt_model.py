"""T5X's models of a module with prompts: their metrics, axes, saved values and decoding.

An optimizer of `prompt_optimizer.prompt_only` adds the gradient of a prompt module's penalty. It
does this once for each step, for any number of microbatches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import clu.metrics
import flax.core
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.linen import partitioning
from t5x import models

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.integrations.flaxformer import PromptEncoderDecoder
from prompt_tuning_core.prompts import described
from prompt_tuning_core.protocols import SavedPrompt
from prompt_tuning_engine_t5x.prompt_optimizer import PromptOptimizer
from prompt_tuning_engine_t5x.prompt_parameters import ModelPrompts, is_prompts

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]


class PromptedModel(models.BaseTransformerModel):
    """The part that models with prompts share; a base before T5X's class.

    Attributes:
      prompts: The prompt modules.
    """

    prompts: ModelPrompts
    optimizer_def: Any

    def find_prompts(self) -> None:
        """Finds the module's prompts, and gives them to the optimizer.

        Raises:
          InputError: If a prompt module has a penalty, and the optimizer is no `prompt_only`.
        """
        self.prompts = ModelPrompts(self.module)
        if isinstance(self.optimizer_def, PromptOptimizer):
            self.optimizer_def = self.optimizer_def.for_model(self.prompts)
        elif self.prompts.has_penalty and self.optimizer_def is not None:
            raise InputError(
                f"{described(self.prompts.module)}: has a penalty, and the optimizer is a "
                f"{type(self.optimizer_def).__name__}; set OPTIMIZER = "
                "@prompt_optimizer.prompt_only()"
            )

    def get_initial_variables(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the initial variables; see T5X's method.

        This puts in the values of a prompt file, by name. It gives axis names to parameters of the
        prompt that have none, such as the parameters of linen's own modules.
        """
        variables = flax.core.unfreeze(super().get_initial_variables(*args, **kwargs))
        params = traverse_util.flatten_dict(variables["params"], sep="/")
        axes = traverse_util.flatten_dict(variables.get("params_axes", {}), sep="/")
        for side, prompt in self.prompts.by_side.items():
            file, start = prompt.prompt_init, f"{side}/prompt/"
            if isinstance(file, SavedPrompt) and file.plugin is not None:
                own = {n.removeprefix(start): v for n, v in params.items() if n.startswith(start)}
                params.update({start + n: v for n, v in file.values(prompt, own).items()})
        for name, leaf in params.items():
            if is_prompts(name):
                names = tuple(f"prompt_{number}" for number in range(leaf.ndim))
                axes.setdefault(f"{name}_axes", partitioning.AxisMetadata(names))
        variables["params"] = traverse_util.unflatten_dict(params, sep="/")
        variables["params_axes"] = traverse_util.unflatten_dict(axes, sep="/")
        return flax.core.freeze(variables)

    def loss_fn(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """Returns the loss without the penalty, and metrics with the penalty and the reports."""
        loss, metrics = super().loss_fn(params, batch, dropout_rng)
        scalars = self.prompts.report(params)
        if self.prompts.has_penalty:
            scalars["penalty"] = self.prompts.penalty(params)
        # As averages, since T5X adds up the metrics of microbatches.
        means = {name: clu.metrics.Average(total=value, count=1) for name, value in scalars.items()}
        return loss, {**metrics, **means}

    def prompt_length(self, params: Params, tokens: jax.Array) -> int:
        """Returns the number of positions that the prompt has in the decoder.

        Args:
          params: The module's parameters.
          tokens: `[B, T]`, the decoder's tokens.
        """
        mask = jax.eval_shape(
            lambda: self.module.apply({"params": params}, tokens, method="prompt_mask")
        )
        return int(mask.shape[1])


class PromptEncoderDecoderModel(PromptedModel, models.EncoderDecoderModel):
    """Trains, scores and decodes with prompts in encoder and decoder.

    It takes the arguments of `t5x.models.EncoderDecoderModel`.

    Raises:
      InputError: If the module is no `PromptEncoderDecoder`.
    """

    def __init__(self, module: PromptEncoderDecoder, *args: Any, **kwargs: Any) -> None:
        super().__init__(module, *args, **kwargs)
        check_module(module, PromptEncoderDecoder, type(self).__name__)
        self.find_prompts()

    def _compute_kv_cache(
        self,
        params: Params,
        encoded_inputs: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        prefill_decoder_prompt: bool = False,
    ) -> tuple[Any, jax.Array | None]:
        """Fills the cache with the positions of the decoder's prompt, even for beam search.

        Beam search counts from the first target, so T5X itself prefills nothing for it. There, the
        cache must have one index for all beams.
        """
        arguments = (params, encoded_inputs, encoder_input_tokens)
        positions = self.prompt_length(params, decoder_input_tokens)
        if prefill_decoder_prompt or not positions:
            return super()._compute_kv_cache(
                *arguments, decoder_input_tokens, prefill_decoder_prompt
            )
        starts = jnp.zeros_like(decoder_input_tokens)
        cache, _ = super()._compute_kv_cache(*arguments, starts, prefill_decoder_prompt=True)
        flat = traverse_util.flatten_dict(flax.core.unfreeze(cache))
        for name in flat:
            if name[-1] == "cache_index":
                flat[name] = jnp.int32(positions)
        return traverse_util.unflatten_dict(flat), None


def prompted(model: models.EncoderDecoderModel) -> models.EncoderDecoderModel:
    """Returns a model of T5X as a model with prompts.

    So gin files that configure `t5x.models.EncoderDecoderModel`, or a class derived from it, need
    no change.

    Args:
      model: The model, whose module is a `PromptEncoderDecoder`.

    Raises:
      InputError: If its module is of another class.
    """
    check_module(model.module, PromptEncoderDecoder, type(model).__name__)
    kind = type("PromptEncoderDecoderModel", (PromptEncoderDecoderModel, type(model)), {})
    made: Any = object.__new__(kind)
    made.__dict__.update(model.__dict__)
    made.find_prompts()
    return made


def check_module(module: object, expected: type, name: str) -> None:
    """Refuses a module that is not of the class `expected`."""
    if not isinstance(module, expected):
        raise InputError(
            f"{name}.module is a {type(module).__name__}, expected a {expected.__name__}: set "
            "ARCHITECTURE"
        )
