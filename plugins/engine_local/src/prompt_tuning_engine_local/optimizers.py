"""Optimizers with T5X's defaults; any other optax transformation can be named in gin as well."""

from __future__ import annotations

import optax


def adafactor(
    learning_rate: optax.ScalarOrSchedule = 0.3,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    multiply_by_parameter_scale: bool = False,
    clipping_threshold: float | None = 1.0,
    weight_decay_rate: float | None = 1e-5,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern 2018) with the settings of Lester et al. 2021, appendix A.

    The second moment is never factored, whatever the size of the prompt: the reference's rules
    exempt its axes from factoring, and a prompt is small.

    Args:
      learning_rate: A constant or an optax schedule.
      decay_rate: Exponent of the second moment's decay, `1 - t^-decay_rate` at step t = 1, 2, ….
      step_offset: Subtracted from the step within that decay.
      multiply_by_parameter_scale: Whether the step is relative to the root mean square of the
        parameter.
      clipping_threshold: Largest root mean square of an update; None for no clipping.
      weight_decay_rate: Share of the parameter subtracted at each step, independent of the
        learning rate; None for none.
    """
    return optax.adafactor(
        learning_rate=learning_rate,
        decay_rate=decay_rate,
        decay_offset=step_offset,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        clipping_threshold=clipping_threshold,
        weight_decay_rate=weight_decay_rate,
        factored=False,
    )
