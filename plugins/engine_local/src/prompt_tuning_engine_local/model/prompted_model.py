"""A T5 with a prompt: its parameters, its loss and its generation, as pure functions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.parameters import make_parameters
from prompt_tuning_core.prompts import (
    PromptFactory,
    PromptModule,
    check_not_packed,
    in_stack,
    made_by,
    may_be_plain,
    overrides,
)
from prompt_tuning_engine_local.model import decoding, losses, parts
from prompt_tuning_engine_local.model.decoder import Cache
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network import T5, T5Config
from prompt_tuning_engine_local.model.prompt_of_each import PromptOfEach
from prompt_tuning_engine_local.model.prompt_points import stack_of
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

# Arrays by name, of numpy or JAX.
Params = Mapping[str, Any]

_SIDES = ("encoder", "decoder")


class EncoderDecoderModel:
    """A T5 1.1 whose prompt is trained and whose other parameters are frozen.

    Parameters are mappings with "/"-joined names; the prompt module's begin with `encoder/prompt/`.

    Args:
      config: Sizes and numerics.
      vocabulary: The vocabulary of inputs and targets.
      prompt_factory: Makes the prompt module (the macro PROMPT).
      z_loss: See `losses.cross_entropy`.
      label_smoothing: See `losses.cross_entropy`.
      loss_normalizing_factor: See `losses.cross_entropy`.
      decode_fn: Makes the answers; `decoding` has several.

    Raises:
      InputError: If the prompt module needs something that this engine does not support, or
        `decode_fn` is no function.
    """

    def __init__(
        self,
        config: T5Config,
        vocabulary: SentencePieceVocabulary,
        prompt_factory: PromptFactory,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        loss_normalizing_factor: float | str | None = None,
        decode_fn: decoding.DecodeFn = decoding.greedy,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.module: PromptModule = made_by(prompt_factory)
        self.prompts: Mapping[str, PromptModule] = {
            side: in_stack(self.module, stack_of(config, side)) for side in _SIDES
        }
        # One module for the run: gin would look for the factory's bindings in another scope later.
        self.network = T5(config, self.module.clone)
        self.bare_network = T5(config)
        self.z_loss = z_loss
        self.label_smoothing = label_smoothing
        self.loss_normalizing_factor = loss_normalizing_factor
        self.decode_fn = decode_fn
        if not callable(decode_fn):
            raise InputError(
                f"EncoderDecoderModel.decode_fn is {decode_fn!r}, expected a function such as "
                "@decoding.beam_search"
            )
        if vocabulary.vocab_size > config.num_embeddings:
            raise InputError(
                f"the vocabulary {vocabulary.sentencepiece_model_file} has {vocabulary.vocab_size} "
                f"ids, {vocabulary.added_ids} of them extra ids that are not in the file, and the "
                f"model NUM_EMBEDDINGS = {config.num_embeddings}; give the model's vocabulary, or "
                "set VOCABULARY_EXTRA_IDS to as many as the model has"
            )

    @functools.cached_property
    def compiled_generate(self) -> Any:
        """`generate`, compiled once for all that use this model."""
        return jax.jit(self.generate, static_argnames=("max_length", "decode_fn", "members"))

    @functools.cached_property
    def compiled_best_ids(self) -> Any:
        """`best_ids`, compiled once for all that use this model."""
        return jax.jit(self.best_ids, static_argnames=("max_length", "decode_fn", "members"))

    @functools.cached_property
    def compiled_score(self) -> Any:
        """`score`, compiled once for all that use this model."""
        return jax.jit(self.score)

    @property
    def counts_padding(self) -> bool:
        """True if the training loss depends on the padding of targets."""
        factor = self.loss_normalizing_factor
        return isinstance(factor, str) and factor.upper() == "NUM_TOTAL_TARGET_TOKENS"

    @functools.cached_property
    def frozen_parameters(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shape and dtype of every parameter except the prompt's, by name.

        The dtype is the one that the network computes in: a parameter is converted to it once.
        """
        config = self.bare_network.config
        # All layers of a stack are alike: tracing only the first takes a tenth of the time.
        shallow = dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        params: Any = jax.eval_shape(T5(shallow).init, jax.random.key(0), tokens, tokens, tokens)
        params = params["params"]
        for stack, layers in [
            (params["encoder"], config.num_encoder_layers),
            (params["decoder"], config.num_decoder_layers),
        ]:
            layer = stack.pop("layers_0")
            stack.update({f"layers_{number}": layer for number in range(layers)})
        return dict(sorted(flatten(params).items()))

    def init_prompt(self, rng: jax.Array) -> dict[str, jax.Array]:
        """Makes the parameters of the prompt modules, but not those of the frozen model.

        Returns:
          float32 arrays by name.

        Raises:
          InputError: If a prompt module, or a value, is not what the protocol asks for.
          ValueError: From the initializer, if it cannot serve the prompt's shape.
        """
        params: dict[str, jax.Array] = {}
        for side, module in self.prompts.items():
            # The encoder's key is the run's own, so that a plain prompt has the same first value
            # whether or not there are prompts in the decoder.
            key = rng if side == "encoder" else jax.random.fold_in(rng, 1)
            made = make_parameters(module, key, self.config.dtype)
            params.update({f"{side}/prompt/{name}": leaf for name, leaf in made.items()})
        return params

    def split(self, prompt: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the prompt's parameters that are trained, and the others."""
        trained = {name: leaf for name, leaf in prompt.items() if self._is_trained(name)}
        return trained, {name: leaf for name, leaf in prompt.items() if name not in trained}

    def matrix(self, prompt: Params) -> np.ndarray | None:
        """Returns the plain prompt `[P, H]` float32 that the parameters amount to, or None."""
        if not may_be_plain(self.module):
            return None
        found = self._called("encoder", "matrix", prompt)
        # A copy: the training step reuses the parameters' memory.
        return None if found is None else np.array(found, np.float32)

    def quickest_parts(self, prompt: Params | None, batch: Params) -> int:
        """Returns the number of equal parts in which a batch takes the least time on this machine.

        Args:
          prompt: The prompt's parameters; None for the bare model.
          batch: Arrays `[B, …]`, of which only the shapes count; see `batching.make_batch`. It may
            lack the targets.
        """
        tokens = batch["encoder_input_tokens"]
        rows, positions = tokens.shape
        if prompt is not None:
            # With the positions that the prompt adds.
            mask = jax.eval_shape(
                lambda tokens: self._called("encoder", "input_mask", prompt, tokens), tokens
            )
            positions = mask.shape[1]
        if "decoder_target_tokens" in batch:
            positions = max(positions, batch["decoder_target_tokens"].shape[1])
        return parts.quickest_number(rows, positions, self.config.emb_dim)

    def penalty(self, prompt: Params) -> jax.Array | None:
        """Returns the penalty in the training loss; None if no prompt module has one."""
        terms = [
            jnp.asarray(self._called(side, "penalty", prompt), jnp.float32)
            for side, module in self.prompts.items()
            if overrides(module, "penalty")
        ]
        return sum(terms[1:], terms[0]) if terms else None

    def report(self, prompt: Params) -> dict[str, jax.Array]:
        """Returns the scalars that the prompt modules report, named `SIDE/NAME`."""
        return {
            f"{side}/{name}": jnp.asarray(value, jnp.float32)
            for side, module in self.prompts.items()
            if overrides(module, "report")
            for name, value in self._called(side, "report", prompt).items()
        }

    def _is_trained(self, name: str) -> bool:
        side, _, path = name.split("/", 2)
        return self.prompts[side].is_trained(path)

    def _called(self, side: str, point: str, prompt: Params, *arguments: Any) -> Any:
        start = f"{side}/prompt/"
        own = {n.removeprefix(start): v for n, v in prompt.items() if n.startswith(start)}
        variables = {"params": traverse_util.unflatten_dict(own, sep="/")}
        return self.prompts[side].apply(variables, *arguments, method=point)

    def loss(
        self, prompt: Params, frozen: Params, batch: Params, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the training loss of a batch, and its mean per target token without padding.

        Args:
          prompt: The prompt's parameters.
          frozen: The model's parameters.
          batch: See `batching.make_batch`.
          dropout_rng: A key, or None for no dropout, neither of the model nor of the prompt.

        Returns:
          Two float32 scalars: the loss as normalised for training, with the prompt's penalty, and
          the sum of the same loss, without it, divided by the sum of the loss weights.
        """
        loss, per_token = self.loss_of_targets(prompt, frozen, batch, dropout_rng)
        penalty = self.penalty(prompt)
        return loss if penalty is None else loss + penalty, per_token

    def divisors(self, batch: Params) -> tuple[jax.Array | float | None, ...]:
        """Returns the divisors of a batch's two losses, of which its parts have the same."""
        weights = batch["decoder_loss_weights"]
        return tuple(losses.divisor(weights, factor) for factor in self._normalizers)

    def loss_of_targets(
        self,
        prompt: Params,
        frozen: Params,
        batch: Params,
        dropout_rng: jax.Array | None,
        divisors: tuple[jax.Array | float | None, ...] = (None, None),
    ) -> tuple[jax.Array, jax.Array]:
        """Returns `loss` without the penalty.

        Args:
          prompt: See `loss`.
          frozen: See `loss`.
          batch: See `loss`; a batch or some of its rows.
          dropout_rng: See `loss`.
          divisors: The `divisors` of the whole batch, if `batch` is only some of its rows.
        """
        check_not_packed(*(batch.get(f"{side}_segment_ids") for side in _SIDES))
        logits: Any = self.network.apply(
            _variables(frozen, prompt),
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            Dropout(self.config.dropout_rate, dropout_rng),
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        loss, per_token = (
            losses.cross_entropy(
                logits, targets, weights, self.label_smoothing, self.z_loss, factor, divisor
            )
            for factor, divisor in zip(self._normalizers, divisors, strict=True)
        )
        return loss, per_token

    @property
    def _normalizers(self) -> tuple[float | str | None, str]:
        return self.loss_normalizing_factor, "NUM_REAL_TARGET_TOKENS"

    def score(self, prompt: Params | None, frozen: Params, batch: Params) -> jax.Array:
        """Returns the log-likelihood of the targets of each example, without dropout.

        Args:
          prompt: The prompt's parameters; None for the bare model.
          frozen: The others.
          batch: See `batching.make_batch`.

        Returns:
          float32 `[B]`: sums over the target tokens including EOS, without padding.
        """
        network = self.bare_network if prompt is None else self.network

        def of_part(rows: tuple[Params, Params]) -> jax.Array:
            own, part = rows
            logits: Any = network.apply(
                _variables(frozen, {**(prompt or {}), **own}),
                part["encoder_input_tokens"],
                part["decoder_input_tokens"],
                part["decoder_target_tokens"],
            )
            per_token, _ = losses.target_log_probabilities(logits, part["decoder_target_tokens"])
            return jnp.sum(per_token * part["decoder_loss_weights"], axis=-1)

        number = self.quickest_parts(prompt, batch)
        return parts.map_parts(of_part, (self._rows_of(prompt), dict(batch)), number)

    def generate(
        self,
        prompt: Params | None,
        frozen: Params,
        tokens: jax.Array,
        max_length: int,
        keys: jax.Array | None = None,
        decode_fn: decoding.DecodeFn | None = None,
        members: int = 1,
    ) -> decoding.Decoded:
        """Decodes with a key-value cache; encodes each input once, for any number of sequences.

        Args:
          prompt: The prompt's parameters; None for the bare model.
          frozen: The others.
          tokens: `[B, L]` int32 inputs with EOS, 0 where padded.
          max_length: T, the most ids to generate.
          keys: A PRNG key for each example, for functions that draw ids.
          decode_fn: Decodes; None for the model's own function.
          members: How many copies of each example follow each other, each with a prompt of its own;
            they answer together, by the mean of their logits (`decoding.joint`).

        Returns:
          int32 `[B, N, T]` and float32 `[B, N]`, the best of each example first.

        Raises:
          InputError: If a parameter of the function is bad.
        """
        network = self.bare_network if prompt is None else self.network
        variables = _variables(frozen, prompt or {})

        def start(rows: tuple[Params, jax.Array]) -> Any:
            own, part = rows
            of_part = _variables(frozen, {**(prompt or {}), **own})
            encoded = network.apply(of_part, part, method="encode")
            return encoded, network.apply(of_part, encoded, max_length, method="start_cache")

        number = self.quickest_parts(prompt, {"encoder_input_tokens": tokens})
        encoded, cache = parts.map_parts(start, (self._rows_of(prompt), tokens), number)

        def step(last: jax.Array, cache: object, position: jax.Array) -> Any:
            return network.apply(variables, last, cache, position, encoded, method="decode_step")

        decode = self.decode_fn if decode_fn is None else decode_fn
        problem = decoding.Problem(
            step,
            cache,
            Cache.spread,
            Cache.gather,
            batch_size=tokens.shape[0],
            max_length=max_length,
            eos_id=self.vocabulary.eos_id,
            keys=keys,
            encode=self._encode,
        )
        return decode(problem if members == 1 else decoding.joint(problem, members))

    def best_ids(
        self,
        prompt: Params | None,
        frozen: Params,
        tokens: jax.Array,
        max_length: int,
        keys: jax.Array | None = None,
        decode_fn: decoding.DecodeFn | None = None,
        members: int = 1,
    ) -> jax.Array:
        """Returns the ids of the best answers that `generate` gives, int32 `[B, T]`.

        The program computes only the ids: scores that nothing uses take no time.
        """
        found = self.generate(prompt, frozen, tokens, max_length, keys, decode_fn, members)
        return found.ids[:, 0]

    def check_decoding(self, max_length: int, decode_fn: decoding.DecodeFn | None = None) -> int:
        """Tries a decode function without parameters of the model; computes nothing.

        Args:
          max_length: T, the most ids to generate.
          decode_fn: The function; None for the model's own.

        Returns:
          N, the number of answers to each text.

        Raises:
          InputError: If a parameter of the function is bad, or it does not return `Decoded`.
        """
        eos_id, size = self.vocabulary.eos_id, self.config.num_embeddings
        decode = self.decode_fn if decode_fn is None else decode_fn
        return decoding.check(decode, max_length, size, eos_id, self._encode)

    def _rows_of(self, prompt: Params | None) -> dict[str, Any]:
        """Returns the prompt's parameters that have a row for each example."""
        if prompt is None or not isinstance(self.module, PromptOfEach):
            return {}
        return self.module.rows_of(prompt)

    def _encode(self, text: str) -> Sequence[int]:
        """Returns the ids of a label, without EOS.

        Raises:
          InputError: If the vocabulary has no piece for a part of it.
        """
        ids = self.vocabulary.encode(text)
        if self.vocabulary.unk_id in ids:
            raise InputError(
                f"the vocabulary {self.vocabulary.sentencepiece_model_file} has no piece for a "
                f"part of the label {text!r} of RANK_LABELS; give a label that it can write"
            )
        return ids


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of nested mappings by "/"-joined name."""
    return traverse_util.flatten_dict(tree, sep="/")


def _variables(frozen: Params, prompt: Params) -> dict[str, Any]:
    return {"params": traverse_util.unflatten_dict({**frozen, **prompt}, sep="/")}
