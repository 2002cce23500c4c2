"""Scores prompt files on the held-out films, with the same frozen model for each task."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_demo import base, model
from prompt_tuning_engine_local.model import model_files
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor
from prompt_tuning_files import prompt_files
from prompt_tuning_tasks import TextTask
from prompt_tuning_tasks.feature_lengths import FeatureLengths

# As in `runs/demo_plot_or_review.gin`, the task with the longer sentences.
_LENGTHS = FeatureLengths(inputs=224, targets=4)
_BATCH_SIZE = 64


class HeldOut:
    """The demo's frozen model, for prompts of the demo's length."""

    def __init__(self) -> None:
        prompted = base.make_model(nn.initializers.zeros)
        frozen = model_files.load(model.checkpoint_path(), prompted.frozen_parameters, jnp.asarray)
        ((self._name, self._zeros),) = prompted.init_prompt(jax.random.key(0)).items()
        self._predictor = Predictor(prompted, frozen.params, _LENGTHS, _BATCH_SIZE, Placement())

    def score(self, prompt_file: Path, task: TextTask, metric: str) -> float:
        """Returns the metric of a prompt on the split `test` of a task.

        Raises:
          InputError: If the prompt cannot be read, or does not have the shape of the demo's
            prompts.
        """
        length, width = self._zeros.shape
        prompt = {self._name: prompt_files.load(prompt_file, (length, width))}
        return self._predictor.evaluate(task, "test", prompt).metrics[metric]
