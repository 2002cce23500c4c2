"""T5X's decoder-only model for a module with a prompt; `prompt_model` has encoder-decoders.

The number of prompt positions, P, comes from the module. B is the batch, T the length of the
tokens, V the vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
from t5x import models

from prompt_tuning_core.integrations.flaxformer import PromptDecoderOnly, source_tokens
from prompt_tuning_engine_t5x.prompt_model import PromptedModel, check_module

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]


class PromptDecoderOnlyModel(PromptedModel, models.DecoderOnlyModel):
    """Trains, scores and decodes with a prompt in front of the sequence.

    It takes the arguments of `t5x.models.DecoderOnlyModel`.

    Raises:
      InputError: If the module is no `PromptDecoderOnly`.
    """

    def __init__(self, module: PromptDecoderOnly, *args: Any, **kwargs: Any) -> None:
        check_module(module, PromptDecoderOnly, type(self).__name__)
        super().__init__(module, *args, **kwargs)
        self.find_prompts()

    def _compute_logits(
        self,
        params: Params,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        mutable: Any = False,
        other_variables: Params | None = None,
    ) -> Any:
        """Returns the logits of the tokens, `[B, T, V]`, without the prompt's positions.

        If `mutable` is not False, also returns the variables that changed.
        """
        tokens = batch["decoder_input_tokens"]
        # If the batch does not mark its inputs, all tokens are targets.
        inputs = tokens * batch.get("decoder_causal_attention", jnp.zeros_like(tokens))
        with source_tokens(inputs):
            result = super()._compute_logits(params, batch, dropout_rng, mutable, other_variables)
        length = tokens.shape[1]
        if mutable is False:
            return result[:, -length:]
        logits, variables = result
        return logits[:, -length:], variables

    def predict_batch_with_aux(
        self,
        params: Params,
        batch: Batch,
        rng: jax.Array | None = None,
        *,
        return_all_decodes: bool = False,
        num_decodes: int = 1,
        decoder_params: MutableMapping[str, Any] | None = None,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """Continues the inputs of a batch.

        T5X counts decoding steps in one sequence of prompt and tokens. So the batch gets positions
        for the prompt. Nothing reads the ids at these positions.

        Args:
          params: The module's parameters.
          batch: See `t5x.models.DecoderOnlyModel.predict_batch_with_aux`.
          rng: See there.
          return_all_decodes: See there.
          num_decodes: See there.
          decoder_params: See there.

        Returns:
          The continuations, `[B, T]` or `[B, num_decodes, T]`, padded with 0, and their scores.
        """
        tokens = batch["decoder_input_tokens"]
        length = self.prompt_length(params, tokens)
        placed = {
            name: jnp.pad(batch[name], ((0, 0), (length, 0)), constant_values=value)
            for name, value in (("decoder_input_tokens", 0), ("decoder_causal_attention", 1))
            if name in batch
        }
        sequences, aux = super().predict_batch_with_aux(
            params,
            {**batch, **placed},
            rng,
            return_all_decodes=return_all_decodes,
            num_decodes=num_decodes,
            decoder_params=decoder_params,
        )
        # T5X has moved each continuation to the front.
        return sequences[..., : tokens.shape[1]], aux

    def _compute_kv_cache(
        self, params: Params, inputs: jax.Array, causal_attention_mask: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Fills the cache with the prompt and the inputs.

        Args:
          params: The module's parameters.
          inputs: `[B, P + T]` token ids: P positions for the prompt, BOS, then the tokens.
          causal_attention_mask: `[B, P + T]`, 1 for the prompt, BOS and the inputs.

        Returns:
          The cache, and the position of each example's last input, `[B]`, where decoding continues.
        """
        # In a decoding step the module adds no prompt, so the cache gets P + T positions.
        ones = jnp.ones_like(inputs)
        _, variables = self.module.apply(
            {"params": params}, ones, ones, enable_dropout=False, decode=True, mutable=["cache"]
        )
        length = self.prompt_length(params, inputs)
        causal = causal_attention_mask[:, length:]
        last = jnp.sum(causal_attention_mask, axis=1) - 1
        with source_tokens(inputs[:, length:]):
            _, variables = self.module.apply(
                {"params": params, "cache": variables["cache"]},
                inputs[:, length:],
                # Passed as targets too: these mark the positions to attend to, including BOS.
                causal,
                decoder_causal_attention=self._get_decoder_causal_attention(
                    {"decoder_causal_attention": causal}
                ),
                enable_dropout=False,
                prefill=True,
                prefill_lengths=last,
                mutable=["cache"],
            )
        return variables["cache"], last
