"""Every prompt variant of this repository, small, and a batch for it: for tests of all engines."""

from __future__ import annotations

import jax
import numpy as np

from prompt_tuning_core import registry
from prompt_tuning_core.prompts import InputPrompt
from prompt_tuning_testing.strange_prompt import Strange

P, TASK_0 = 3, 60
BOTH = ("encoder", "decoder")


def normal(rng, shape):
    return jax.random.normal(rng, tuple(shape)) * 0.5


class DecoderSide(InputPrompt):
    """A stranger's: an input prompt in the decoder."""

    sides: tuple[str, ...] = ("decoder",)

    def setup(self):
        self.prompt = self.parameter("prompt", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens, embedded):
        del tokens, embedded
        return self.prompt[None]


VARIANTS = {
    "basic": ("prompt_basic", {}),
    "basic, after the input": ("prompt_basic", {"combine": "suffix"}),
    "deep": ("prompt_deep", {}),
    "deep, added on both sides": ("prompt_deep", {"added": True, "sides": BOTH}),
    "prefix": ("prompt_prefix", {}),
    "prefix by a network": ("prompt_prefix", {"middle": 5}),
    "residual network": ("prompt_reparam", {"bottleneck": 4}),
    "network of two layers": ("prompt_reparam", {"network": "mlp"}),
    "LSTM": ("prompt_reparam", {"network": "lstm"}),
    "IA3": ("prompt_ia3", {}),
    "wayward": ("prompt_wayward", {"target_init": normal, "gamma": 0.1}),
    "multitask": ("prompt_multitask", {"tasks": 2, "sentinel": TASK_0}),
    **{
        f"multitask, {how}": (
            "prompt_multitask",
            {
                "tasks": 2, "sentinel": TASK_0, "how": how, "task_features": 5,
                "task_inits": (normal,), "frozen": ("shared",),
            },
        )
        for how in ("add", "concatenate", "concatenate_features", "project")
    },
    "decoder": (DecoderSide, {}),
}  # fmt: skip
FROZEN = {"wayward": {"target"}, **{n: {"shared"} for n in VARIANTS if n.startswith("multitask, ")}}


def factory(variant, **fields):
    """Returns the factory of a variant's prompt module."""
    plugin, own = (Strange, {}) if variant == "stranger" else VARIANTS[variant]
    if isinstance(plugin, str):
        plugin = registry.process_registry().load("prompt", plugin)
    return lambda: plugin(P, **{"prompt_init": normal, **own, **fields})


def batch_of(rows, length=None):
    """Makes a batch of inputs that begin with a task's token; targets are their own reverse."""
    length = length or max(map(len, rows))
    inputs = np.zeros((len(rows), length), np.int32)
    targets = np.zeros((len(rows), 5), np.int32)
    for number, row in enumerate(rows):
        inputs[number, : len(row)] = row
        targets[number, : len(row[1:5])] = row[1:5][::-1]
    starts = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    return {
        "encoder_input_tokens": inputs, "decoder_input_tokens": starts,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }  # fmt: skip


ROWS = [[60, 9, 8, 7, 6, 1], [59, 5, 1], [60, 33, 34, 1]]
