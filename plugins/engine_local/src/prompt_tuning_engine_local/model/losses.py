"""T5X's training loss: cross entropy with z-loss, label smoothing and normalising."""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from prompt_tuning_core.errors import InputError, nearest


class LossNormalizingFactor(enum.Enum):
    """T5X's names of divisors of the summed loss; a divisor may also be a number."""

    NUM_REAL_TARGET_TOKENS = enum.auto()
    """The sum of the loss weights of the batch."""
    NUM_TOTAL_TARGET_TOKENS = enum.auto()
    """Batch size times target length, padding included."""
    AVERAGE_PER_SEQUENCE = enum.auto()
    """The mean over sequences of each sequence's mean over its real tokens."""


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: float | str | None = None,
    whole_divisor: jax.Array | float | None = None,
) -> jax.Array:
    """Returns the loss of a batch, as T5X's `compute_weighted_cross_entropy` defines it.

    With label smoothing, the smallest possible loss is subtracted, so that a perfect model has
    loss 0. The z-loss `z_loss * log(Z)^2` keeps the logits' normaliser Z near 1
    (Shazeer et al. 2018).

    Args:
      logits: float32 `[B, T, V]`.
      targets: int32 `[B, T]`.
      weights: float32 `[B, T]`, 0 where padded.
      label_smoothing: The probability that smoothed targets give to all wrong ids together.
      z_loss: Factor of the z-loss.
      loss_normalizing_factor: None sums over the weighted tokens; a number divides that sum; a name
        of `LossNormalizingFactor`, in upper or lower case, divides it as described there.
      whole_divisor: For a part of a batch, the `divisor` of the whole batch. The losses of all
        parts then add up to the loss of the batch. None if the rows are a whole batch.

    Returns:
      Scalar float32.

    Raises:
      InputError: If the name of the normalising factor is unknown.
    """
    factor, weights = _normalizer(loss_normalizing_factor, weights)
    vocabulary_size = logits.shape[-1]
    target_log_prob, log_z = target_log_probabilities(logits, targets)
    confidence = 1.0 - label_smoothing
    loss = -confidence * target_log_prob
    if label_smoothing:
        other = label_smoothing / (vocabulary_size - 1)
        sum_log_prob = jnp.sum(logits, axis=-1) - vocabulary_size * log_z
        loss -= other * (sum_log_prob - target_log_prob)
        least = -(
            confidence * jnp.log(confidence)
            + (vocabulary_size - 1) * other * jnp.log(other + 1e-20)
        )
        loss -= least
    loss += z_loss * jnp.square(log_z)
    total = jnp.sum(loss * weights)
    if whole_divisor is not None:
        factor = whole_divisor
    return total if factor is None else total / factor


def target_log_probabilities(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the log-probability of each target, and the logarithm of the logits' normaliser Z.

    Args:
      logits: float32 `[B, T, V]`.
      targets: int32 `[B, T]`.

    Returns:
      Two float32 `[B, T]`.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - log_z, log_z


def divisor(
    weights: jax.Array, loss_normalizing_factor: float | str | None
) -> jax.Array | float | None:
    """Returns the divisor of the summed loss of a batch; see `cross_entropy`.

    Returns:
      A number, or None for no division.
    """
    return _normalizer(loss_normalizing_factor, weights)[0]


def _normalizer(
    factor: float | str | None, weights: jax.Array
) -> tuple[jax.Array | float | None, jax.Array]:
    """Returns the divisor of the summed loss, and the weights of the sum."""
    if not isinstance(factor, str):
        return factor, weights
    try:
        kind = LossNormalizingFactor[factor.upper()]
    except KeyError:
        raise InputError(
            f"unknown LOSS_NORMALIZING_FACTOR {factor!r}"
            f"{nearest(factor.upper(), LossNormalizingFactor.__members__)}"
        ) from None
    if kind is LossNormalizingFactor.NUM_REAL_TARGET_TOKENS:
        return jnp.sum(weights), weights
    if kind is LossNormalizingFactor.NUM_TOTAL_TARGET_TOKENS:
        return float(weights.size), weights
    per_sequence = jnp.sum(weights, axis=-1, keepdims=True)
    # A sequence without real tokens has weight 0.
    weights = jnp.where(per_sequence > 0, weights / jnp.maximum(per_sequence, 1e-9), 0.0)
    return jnp.sum(weights), weights
