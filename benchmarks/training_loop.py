"""The measured part of the loop of `training.train`.

It places batches and fetches metrics as `train` does. It has no evaluation, no report and no hook.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from typing import Any

import jax
import numpy as np

import random_t5
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.model import model_files, optimizers
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs import training
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.state_store import TrainingState


class TrainingLoop:
    """A prompt in training on one device, with the paper's Adafactor.

    Args:
      model: The model.
      weights: The file of its weights.
    """

    def __init__(self, model: EncoderDecoderModel, weights: str | os.PathLike[str]) -> None:
        self._placement = Placement(1)
        self.frozen: Params = model_files.load(
            weights, model.frozen_parameters, self._placement.everywhere
        ).params
        init_rng, self._dropout_rng = jax.random.split(jax.random.key(0))
        optimizer = optimizers.adafactor()
        self.prompt: Params = model.init_prompt(init_rng)
        self._model = model
        self._optimizer = self._placement.everywhere(optimizer.init(model.split(self.prompt)[0]))
        self.prompt = self._placement.everywhere(self.prompt)
        self._step_fn: Any = training.make_step(model, optimizer)
        self._taken = 0
        self.loss = float("nan")

    def matrix(self) -> np.ndarray:
        """Returns the plain prompt as it is now."""
        matrix = self._model.matrix(self.prompt)
        assert matrix is not None
        return matrix

    def step(self, batch: batching.Batch, step_fn: Any = None) -> float:
        """Takes a step and returns its seconds.

        Args:
          batch: The batch.
          step_fn: A step of `training.make_step`; None for the usual one.
        """
        begin = time.perf_counter()
        self._taken += 1
        self.prompt, self._optimizer, metrics = (step_fn or self._step_fn)(
            self.prompt,
            self._optimizer,
            self.frozen,
            self._placement.split(batch),
            self._dropout_rng,
            self._taken,
        )
        values = {name: float(value) for name, value in metrics.items()}
        self.loss = values["loss"]
        return time.perf_counter() - begin

    def operations(self, batch: batching.Batch) -> set[str]:
        """Returns the names of the operations of the compiled step."""
        lowered = self._step_fn.lower(
            self.prompt, self._optimizer, self.frozen, batch, self._dropout_rng, self._taken
        )
        # The time of an operation includes the operations inside it.
        entry = lowered.compile().as_text().partition("\nENTRY ")[2]
        return set(re.findall(r"^ +(?:ROOT )?%([\w.-]+) =", entry, re.MULTILINE))

    def state(self, notes: dict[str, Any]) -> TrainingState:
        """Returns the content of a save at this step."""
        return TrainingState(self._taken, self.prompt, self._optimizer, notes)


def of_random_weights(
    arguments: argparse.Namespace, folder: str | os.PathLike[str]
) -> tuple[TrainingLoop, batching.Batch]:
    """Returns a loop over a model with random weights, written to `folder`, and a batch for it."""
    weights = random_t5.write(arguments, folder)
    loop = TrainingLoop(random_t5.make(arguments), weights)
    return loop, random_t5.batch(np.random.default_rng(0), arguments)


def device_facts() -> dict[str, Any]:
    """Returns the device's name, and the peak of its own memory if it reports that."""
    device = jax.devices()[0]
    facts: dict[str, Any] = {"device": device.device_kind, "platform": device.platform}
    used = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return facts if used is None else {**facts, "peak_device_mb": round(used / 2**20, 1)}
