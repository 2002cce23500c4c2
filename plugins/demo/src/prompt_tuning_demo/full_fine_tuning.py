"""Fine-tunes all of the demo's base for a task: the usual alternative to a prompt.

The model, the loss, the batches and the evaluation come from the engine. Only the training step
differs: the engine's step computes gradients of the prompt only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util

from prompt_tuning_demo import base, model
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.model import losses, model_files
from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor
from prompt_tuning_tasks import Example, TextTask

Step = Callable[..., tuple[Params, optax.OptState]]

# As for the demo's prompts.
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that the validation split chooses.

    Attributes:
      learning_rate: AdamW's learning rate: a linear warm-up, then constant.
      dropout_rate: Dropout while training.
    """

    learning_rate: float
    dropout_rate: float


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one training.

    Attributes:
      steps: The most steps.
      warmup_steps: Steps in which the learning rate rises.
      eval_period: Steps between evaluations on the validation split.
      patience: Training ends after this many evaluations without a new best one.
    """

    steps: int = 480
    warmup_steps: int = 30
    eval_period: int = 30
    patience: int = 4


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The best of the evaluated steps.

    Attributes:
      params: All parameters of the model, by name.
      step: The step after which they were evaluated.
      validation: The metric on the validation split.
    """

    params: Params
    step: int
    validation: float


class FullFineTuning:
    """Fine-tunes the base for one task, any number of times.

    Args:
      task: The task, without a prefix before its inputs.
      metric: The metric of the task that decides when to stop.
    """

    def __init__(self, task: TextTask, metric: str) -> None:
        self._task = task
        self._metric = metric
        bare = _make_model(0.0)
        frozen = model_files.load(model.checkpoint_path(), bare.frozen_parameters, jnp.asarray)
        self._base = frozen.params
        self._examples = batching.tokenize(
            task.examples("train"), bare.vocabulary, base.LENGTHS, f"task {task.name!r}, training"
        )
        self._predictor = Predictor(bare, self._base, base.LENGTHS, _BATCH_SIZE, Placement())
        self._validation = task.examples("validation")
        # Cached: settings that differ only in the learning rate share a compiled step.
        self._make_step = functools.cache(_make_step)

    def train(self, settings: Settings, seed: int, limits: Limits | None = None) -> Tuned:
        """Trains the base until the validation metric stops rising.

        Args:
          settings: Learning rate and dropout.
          seed: Determines the order of the examples and dropout.
          limits: When to stop; None for the default limits.
        """
        limits = limits or Limits()
        step_fn, optimizer = self._make_step(settings.dropout_rate)
        batches = batching.training_batches([self._examples], base.LENGTHS, _BATCH_SIZE, seed)
        rng = jax.random.key(seed)
        params, state = self._base, optimizer.init(self._base)
        best = Tuned(params, 0, self._score(params, "validation", self._validation))
        for step in range(1, limits.steps + 1):
            rate = settings.learning_rate * min(1.0, step / limits.warmup_steps)
            params, state = step_fn(
                params, state, next(batches), jax.random.fold_in(rng, step), rate
            )
            if step % limits.eval_period == 0:
                value = self._score(params, "validation", self._validation)
                if value > best.validation:
                    best = Tuned(params, step, value)
                if step - best.step >= limits.patience * limits.eval_period:
                    break
        return best

    def held_out(self, tuned: Tuned) -> float:
        """Returns the metric on the held-out split `test`."""
        return self._score(tuned.params, "test", self._task.examples("test"))

    def _score(self, params: Params, split: str, examples: Sequence[Example]) -> float:
        self._predictor.frozen = params
        result = self._predictor.evaluate_examples(self._task, examples, None, split)
        return result.metrics[self._metric]


def _make_model(dropout_rate: float) -> EncoderDecoderModel:
    # The prompt is never made: only the bare network runs.
    return base.make_model(nn.initializers.zeros, dropout_rate)


def _make_step(dropout_rate: float) -> tuple[Step, optax.GradientTransformation]:
    """Returns the jitted training step of all parameters, and its optimizer."""
    tuned = _make_model(dropout_rate)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.98),
        optax.add_decayed_weights(0.01),
    )

    def loss(params: Params, batch: Params, dropout_rng: jax.Array) -> jax.Array:
        logits: Any = tuned.bare_network.apply(
            {"params": traverse_util.unflatten_dict(params, sep="/")},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            Dropout(dropout_rate, dropout_rng),
        )
        return losses.cross_entropy(
            logits,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            z_loss=tuned.z_loss,
            loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
        )

    @jax.jit
    def step_fn(
        params: Params,
        state: optax.OptState,
        batch: Params,
        dropout_rng: jax.Array,
        learning_rate: float,
    ) -> tuple[Params, optax.OptState]:
        gradients = jax.grad(loss)(params, batch, dropout_rng)
        updates, state = optimizer.update(gradients, state, params)
        updates = jax.tree.map(lambda update: -learning_rate * update, updates)
        return optax.apply_updates(params, updates), state

    return step_fn, optimizer
