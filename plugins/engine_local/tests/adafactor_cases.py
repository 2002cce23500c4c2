"""Problems on which Adafactor is held to T5X's numbers; golden/optimizer_adafactor_sizes.npz."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prompt_tuning_engine_local.model import optimizers

STEPS = 5
SIZES = list(itertools.product((100, 128, 150), (64, 128, 512)))

# Arguments of both optimizers beyond the packaged gin's, and the step of the loaded model.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "gin": ({}, 0),
    "scaled": ({"multiply_by_parameter_scale": True, "weight_decay_rate": None}, 0),
    "late": ({}, 1_100_000),
}
CASES = {
    f"{setting}_{P}x{H}": (setting, (P, H))
    for setting in SETTINGS
    for P, H in (SIZES if setting == "gin" else [(100, 512), (150, 512)])
}


def problem(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a prompt `[P, H]` and a gradient of each step, of rows of different sizes."""
    # Of this class NumPy promises that the numbers never change.
    draw = np.random.RandomState(shape[0] * shape[1])
    scales = 10.0 ** draw.randint(-3, 3, (STEPS, shape[0], 1))
    gradients = draw.standard_normal((STEPS, *shape)) * scales
    return draw.standard_normal(shape).astype(np.float32), gradients.astype(np.float32)


def sample(prompts: np.ndarray) -> np.ndarray:
    """Returns what is recorded of the prompts `[STEPS, P, H]`: some rows and columns of each."""
    return np.asarray(prompts)[:, ::11, ::17]


def local_prompts(setting: str, shape: tuple[int, int]) -> np.ndarray:
    """Returns the prompts `[STEPS, P, H]` that the local engine's Adafactor makes."""
    arguments, first = SETTINGS[setting]
    prompt, gradients = problem(shape)
    optimizer = optimizers.adafactor(**arguments)
    state = optimizers.start_at(optimizer.init({"prompt": jnp.asarray(prompt)}), first)
    update = jax.jit(optimizer.update)
    params, found = {"prompt": jnp.asarray(prompt)}, []
    for gradient in gradients:
        updates, state = update({"prompt": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        found.append(np.asarray(params["prompt"]))
    return np.stack(found)
