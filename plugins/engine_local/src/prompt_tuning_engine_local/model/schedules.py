"""Learning rates by name: constant, linear, cosine or rsqrt, each with a warm-up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from prompt_tuning_core.errors import InputError, nearest

_ENDING = ("linear", "cosine")
NAMES = ("constant", *_ENDING, "rsqrt")
"""The values of LEARNING_RATE_SCHEDULE."""


def learning_rate(
    rate: float = 0.3,
    schedule: str = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
) -> optax.ScalarOrSchedule:
    """Returns the learning rate, for any optax optimizer.

    Steps t = 0, 1, … count from the first step of the run. In the warm-up, t < W, the rate is
    `rate * t / W`: 0 at the first step. Then, with D = `decay_steps`:

    - `constant`: `rate`
    - `linear`: `rate * (1 - (t - W) / (D - W))`, and 0 from t = D on
    - `cosine`: `rate * (1 + cos(pi * (t - W) / (D - W))) / 2`, and 0 from t = D on (Loshchilov and
      Hutter 2017, without restarts)
    - `rsqrt`: `rate * sqrt(W / t)`, T5X's `rsqrt_normalized_decay`; W counts as 1 if it is 0

    Args:
      rate: The highest rate (LEARNING_RATE).
      schedule: The name (LEARNING_RATE_SCHEDULE).
      warmup_steps: W (WARMUP_STEPS).
      decay_steps: D, for `linear` and `cosine`; it includes the warm-up. None for the other
        schedules (DECAY_STEPS).

    Returns:
      The number itself if it never changes; otherwise a function of the step.

    Raises:
      InputError: If the name is unknown, or D is missing, not used, or within the warm-up.
    """
    if schedule not in NAMES:
        raise InputError(f"unknown LEARNING_RATE_SCHEDULE {schedule!r}{nearest(schedule, NAMES)}")
    _check_decay(schedule, warmup_steps, decay_steps)
    if decay_steps is not None:
        after = _to_zero(schedule, rate, decay_steps - warmup_steps)
    elif schedule == "rsqrt":
        after = _inverse_square_root(rate, warmup_steps)
    elif warmup_steps == 0:
        return rate
    else:
        after = optax.constant_schedule(rate)
    if warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(0.0, rate, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])


def _check_decay(schedule: str, warmup_steps: int, decay_steps: int | None) -> None:
    """Checks that DECAY_STEPS is given for a schedule that ends, and for no other."""
    if schedule not in _ENDING:
        if decay_steps is not None:
            raise InputError(
                f"DECAY_STEPS is {decay_steps}, and LEARNING_RATE_SCHEDULE = {schedule!r} has no "
                "end; leave DECAY_STEPS out, or name another schedule: "
                + ", ".join(map(repr, _ENDING))
            )
    elif decay_steps is None:
        raise InputError(
            f"DECAY_STEPS is None, and LEARNING_RATE_SCHEDULE = {schedule!r} needs the number of "
            "steps until its end; for a model of step 0 it is usually DECAY_STEPS = %TRAIN_STEPS"
        )
    elif decay_steps <= warmup_steps:
        raise InputError(
            f"DECAY_STEPS is {decay_steps}, and includes the WARMUP_STEPS, which are "
            f"{warmup_steps}; expected more than these"
        )


def _to_zero(schedule: str, rate: float, steps: int) -> optax.Schedule:
    if schedule == "cosine":
        return optax.cosine_decay_schedule(rate, steps)
    return optax.linear_schedule(rate, 0.0, steps)


def _inverse_square_root(rate: float, warmup_steps: int) -> optax.Schedule:
    """Returns the schedule after the warm-up; its step 0 is the end of the warm-up."""
    first = max(warmup_steps, 1)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        return rate * jnp.sqrt(first / jnp.maximum(count + warmup_steps, first))

    return schedule
