"""Points cost nothing to a module that does not override them: the plain prompt's program."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from tiny_model import CONFIG

from prompt_tuning_engine_local.model import losses
from prompt_tuning_engine_local.model.attention import RelativePositionBias, masked
from prompt_tuning_engine_local.model.blocks import Dense, RMSNorm
from prompt_tuning_engine_local.model.decoder import DecoderLayer
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.encoder import EncoderLayer
from prompt_tuning_engine_local.model.optimizers import adafactor
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_local.runs import devices, reporting
from prompt_tuning_engine_local.runs.training import make_step
from prompt_tuning_prompt_basic import PromptBasic

P = 5
WITH_DROPOUT = dataclasses.replace(CONFIG, dropout_rate=0.1)


class PlainEncoder(nn.Module):
    """The encoder as it would be if there were no prompt modules, but one matrix."""

    def setup(self):
        self.layers = [EncoderLayer(WITH_DROPOUT) for _ in range(CONFIG.num_encoder_layers)]
        self.relpos_bias = RelativePositionBias(CONFIG, bidirectional=True)
        self.encoder_norm = RMSNorm(CONFIG.dtype)

    def __call__(self, matrix, tokens, embedded, dropout):
        ones = jnp.ones((len(tokens), P), bool)
        real = jnp.concatenate([ones, tokens > 0], axis=1)
        rows = jnp.broadcast_to(matrix[None], (len(tokens), *matrix.shape))
        x = jnp.concatenate([rows.astype(embedded.dtype), embedded], axis=1)
        x = dropout(x).astype(CONFIG.dtype)
        length = x.shape[1]
        bias = masked(self.relpos_bias(np.arange(length), length), real[:, None, None, :])
        for layer in self.layers:
            x = layer(x, real, bias, dropout)
        x = dropout(self.encoder_norm(x))
        return x * real[..., None].astype(x.dtype), real


class PlainDecoder(nn.Module):
    """The decoder as it would be if there were no prompt modules."""

    def setup(self):
        self.layers = [DecoderLayer(WITH_DROPOUT) for _ in range(CONFIG.num_decoder_layers)]
        self.relpos_bias = RelativePositionBias(CONFIG, bidirectional=False)
        self.decoder_norm = RMSNorm(CONFIG.dtype)
        self.logits_dense = Dense(CONFIG.num_embeddings, "float32")

    def __call__(self, embedded, input_tokens, target_tokens, encoded, real, dropout):
        target, is_token = target_tokens > 0, input_tokens > 0
        logit_mask = is_token | jnp.pad(is_token[:, 1:], ((0, 0), (0, 1)))
        length = embedded.shape[1]
        causal = jnp.asarray(np.tril(np.ones((length, length), bool)))
        mask = causal & (target[:, None, :, None] & target[:, None, None, :])
        bias = masked(self.relpos_bias(np.arange(length), length), mask)
        cross_bias = masked(0.0, target[:, None, :, None] & real[:, None, None, :])
        x = dropout(embedded).astype(CONFIG.dtype)
        scale = logit_mask[..., None].astype(x.dtype)
        for layer in self.layers:
            x = layer(x, encoded, scale, bias, cross_bias, dropout)
        x = dropout(self.decoder_norm(x))
        return self.logits_dense(scale * x)


class PlainT5(nn.Module):
    """T5 with a matrix in front of its input."""

    def setup(self):
        dtype = CONFIG.dtype
        self.token_embedder = nn.Embed(
            CONFIG.num_embeddings, CONFIG.emb_dim, dtype=dtype, param_dtype=dtype
        )
        self.encoder, self.decoder = PlainEncoder(), PlainDecoder()

    def __call__(self, matrix, batch, dropout):
        inputs, targets = batch["decoder_input_tokens"], batch["decoder_target_tokens"]
        tokens = batch["encoder_input_tokens"]
        encoded, real = self.encoder(matrix, tokens, self.token_embedder(tokens), dropout)
        embedded = self.token_embedder(inputs)
        return self.decoder(embedded, inputs, targets, encoded, real, dropout)


def plain_step(optimizer):
    """Makes the training step of a matrix, which calls no point of a prompt module."""

    def step_fn(prompt, state, frozen, batch, dropout_rng, step):
        rng = jax.random.fold_in(dropout_rng, step)

        def loss_of(prompt):
            (matrix,) = prompt.values()
            variables = {"params": traverse_util.unflatten_dict(frozen, sep="/")}
            dropout = Dropout(WITH_DROPOUT.dropout_rate, rng)
            logits = PlainT5().apply(variables, matrix, batch, dropout)
            targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
            return tuple(
                losses.cross_entropy(logits, targets, weights, 0.0, 0.0, normalizer)
                for normalizer in (None, "NUM_REAL_TARGET_TOKENS")
            )

        (loss, per_token), gradient = jax.value_and_grad(loss_of, has_aux=True)(prompt)
        updates, state = optimizer.update(gradient, state, prompt)
        prompt = optax.apply_updates(prompt, updates)
        more = {
            "gradient_norm": optax.tree.norm(gradient), "prompt_norm": optax.tree.norm(prompt),
            "learning_rate": optax.tree.get(state, "learning_rate"),
        }  # fmt: skip
        return prompt, state, {"loss": loss, reporting.LOSS: per_token, **more}

    return jax.jit(step_fn, donate_argnums=(0, 1), compiler_options=devices.compiler_options())


def make_model(module):
    vocabulary = SimpleNamespace(vocab_size=64, eos_id=1)
    return EncoderDecoderModel(
        WITH_DROPOUT, vocabulary, lambda: module(P, prompt_init=nn.initializers.ones)
    )


def program(step, model, optimizer):
    """Returns the text that XLA compiles for a training step; it names no place in the source."""
    prompt = model.init_prompt(jax.random.key(0))
    inputs, targets = np.ones((2, 6), np.int32), np.ones((2, 4), np.int32)
    batch = {
        "encoder_input_tokens": inputs, "decoder_input_tokens": targets,
        "decoder_target_tokens": targets, "decoder_loss_weights": targets.astype(np.float32),
    }  # fmt: skip
    state, key = optimizer.init(prompt), jax.random.key(0)
    return step.lower(prompt, state, model.frozen_parameters, batch, key, 1).as_text()


class Acting(PromptBasic):
    """Overrides one more point, and changes nothing."""

    def activations(self, layer, site, x, state):
        return x


def test_the_plain_prompts_program_is_that_of_a_network_without_points():
    model, acting, optimizer = make_model(PromptBasic), make_model(Acting), adafactor()
    expected = program(plain_step(optimizer), model, optimizer)
    assert program(make_step(model, optimizer), model, optimizer) == expected
    assert program(make_step(acting, optimizer), acting, optimizer) != expected
