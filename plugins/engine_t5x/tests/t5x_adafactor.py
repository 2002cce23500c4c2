"""Runs T5X's Adafactor on the problems of `adafactor_cases`; as a program, records the results.

`PYTHONPATH=plugins/engine_local/tests python plugins/engine_t5x/tests/t5x_adafactor.py` where T5X
is installed.
"""

from __future__ import annotations

from pathlib import Path

import adafactor_cases
import numpy as np
from t5x import adafactor

from prompt_tuning_engine_t5x import prompt_optimizer
from prompt_tuning_prompt_basic import PromptBasic

# As configs/models/t5_1_1_prompt.gin has it.
GIN = {
    "decay_rate": 0.8,
    "step_offset": 0,
    "multiply_by_parameter_scale": False,
    "weight_decay_rate": 1e-5,
}


def prompts(setting: str, shape: tuple[int, int]) -> np.ndarray:
    """Returns the prompts after each step, `[STEPS, P, H]`; a frozen parameter stays."""
    arguments, first = adafactor_cases.SETTINGS[setting]
    prompt, gradients = adafactor_cases.problem(shape)
    definition = prompt_optimizer.prompt_only(
        adafactor.Adafactor(**{**GIN, **arguments}), PromptBasic
    )
    frozen = np.ones((128, 128), np.float32)

    def tree(array: np.ndarray) -> dict:
        return {"encoder": {"prompt": {"prompt": {"prompt": array}}, "kernel": frozen}}

    optimizer = definition.create(tree(prompt))
    optimizer = optimizer.replace(state=optimizer.state.replace(step=first))
    found = []
    for gradient in gradients:
        optimizer = optimizer.apply_gradient(tree(gradient), learning_rate=0.3)
        np.testing.assert_array_equal(optimizer.target["encoder"]["kernel"], frozen)
        found.append(np.asarray(optimizer.target["encoder"]["prompt"]["prompt"]["prompt"]))
    return np.stack(found)


if __name__ == "__main__":
    np.savez_compressed(
        Path(adafactor_cases.__file__).parent / "golden" / "optimizer_adafactor_sizes.npz",
        **{
            name: adafactor_cases.sample(prompts(*case))
            for name, case in adafactor_cases.CASES.items()
        },
    )
