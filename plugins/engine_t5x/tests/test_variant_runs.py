"""Runs with T5X of every prompt variant: by T5X's own scripts, and by our command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import runs
from safetensors.numpy import load_file

from prompt_tuning_testing.pytest_plugin import Site

pytestmark = pytest.mark.t5x

# The lines of each variant's README, which T5X's own scripts need.
LINES = """
from __gin__ import dynamic_registration
from prompt_tuning_core import plugins

PROMPT = @plugins.{plugin}
"""

VARIANTS: dict[str, tuple[str, str]] = {
    "deep": ("prompt_deep", "plugins.prompt_deep.sides = ('encoder', 'decoder')"),
    "prefix": ("prompt_prefix", ""),
    "IA3": ("prompt_ia3", ""),
    "LSTM": ("prompt_reparam", "plugins.prompt_reparam.network = 'lstm'"),
    "wayward": (
        "prompt_wayward",
        "plugins.prompt_wayward.target_init = @target/plugins.init_random()\n"
        "target/plugins.init_random.scale = 0.1",
    ),
    # <extra_id_0> is the last piece of the tiny vocabulary.
    "multitask": (
        "prompt_multitask",
        "plugins.prompt_multitask:\n  tasks = 2\n  sentinel = 63",
    ),
    "stranger": ("prompt_stranger", ""),
}
PLAIN = ("LSTM", "wayward")


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(variant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run by T5X's script to step 2, and on to step 4 from its checkpoint."""
    folder = runs.make_project(tmp_path_factory.mktemp("project"))
    Site(folder).distribution(
        "stranger", {"prompts": {"prompt_stranger": "prompt_tuning_testing.strange_prompt:Strange"}}
    )
    plugin, settings = VARIANTS[variant]
    (folder / "variant.gin").write_text(LINES.format(plugin=plugin) + settings + "\n")
    if variant == "multitask":
        text = runs.TASK.replace("'{text}'", "'<extra_id_0> {text}'")
        (folder / "task.gin").write_text(text)
    for steps in (2, 4):
        flags = runs.training_flags(
            "variant.gin",
            MODEL_DIR=str(folder / "run"),
            INITIAL_CHECKPOINT_PATH=str(folder / "t5x_checkpoint" / "checkpoint_0"),
            TRAIN_STEPS=steps,
            EVAL_PERIOD=2,
        )
        run(runs.t5x_itself("train", flags), folder)
        if steps == 2:
            (folder / "before").write_bytes(saved(folder, 2).read_bytes())
    return folder


def run(arguments: list[str], folder: Path) -> None:
    """Runs a command that finds the stranger's distribution, and modules in the folder."""
    runs.run(arguments, folder, PYTHONPATH=os.pathsep.join([str(folder / "site"), str(folder)]))


def saved(folder: Path, step: int) -> Path:
    return folder / "run" / f"prompt_{step}.safetensors"


def test_t5x_itself_trains_saves_and_restores(variant, trained):
    assert (trained / "before").read_bytes() == saved(trained, 2).read_bytes()
    assert (trained / "run" / "prompt_4.npy").exists() == (variant in PLAIN)
    first, second, last = (load_file(saved(trained, step)) for step in (0, 2, 4))
    fixed = {"encoder/prompt/target"} if variant == "wayward" else set()
    for name, leaf in last.items():
        if name == "prompt":  # The plain prompt that the module amounts to; no parameter.
            continue
        assert np.array_equal(leaf, second[name]) == (name in fixed)
        assert np.array_equal(second[name], first[name]) == (name in fixed)
        # Training went on from the saved values: a step moves an array by 0.3 at most, on average.
        assert np.sqrt(np.mean((leaf - second[name]) ** 2)) < 2 * 0.31, name


def answers(folder: Path, engine: str) -> list[str]:
    """Evaluates the prompt's file with an engine; returns the predictions."""
    output = folder / f"evaluation_{engine}"
    flags = runs.evaluation_flags(EVAL_OUTPUT_DIR=str(output), PROMPT_LENGTH=None)
    run(runs.command(["eval", f"--engine={engine}", *flags]), folder)
    found = {
        "local": output / "toy-test-predictions.jsonl",
        "t5x": output / "inference_eval" / "toy-000000.jsonl",
    }
    return [json.loads(row)["prediction"] for row in found[engine].read_text().splitlines()]


def test_both_engines_give_the_same_answers_from_the_file(trained):
    found = answers(trained, "t5x")
    assert found == answers(trained, "local")
    assert len(found) == len(runs.ROWS)
    assert len(set(found)) > 1


def test_t5x_itself_evaluates_and_infers_with_the_runs_checkpoint(trained):
    (trained / "toy_task.py").write_text(runs.TASK_MODULE)
    settings = {
        **runs.TINY,
        "MIXTURE_OR_TASK_MODULE": "toy_task",
        "CHECKPOINT_PATH": str(trained / "run" / "checkpoint_4"),
        "BATCH_SIZE": None,
    }
    for action, output, more in (
        ("eval", "EVAL_OUTPUT_DIR", {}),
        ("infer", "INFER_OUTPUT_DIR", {"utils.RestoreCheckpointConfig.dtype": "float32"}),
    ):
        files = [
            "models/t5_1_1_small_prompt.gin", "variant.gin", "models/decoding/greedy.gin",
            "task.gin", f"t5x/configs/runs/{action}.gin",
        ]  # fmt: skip
        own = {**settings, output: str(trained / f"of_{action}"), **more}
        flags = runs.gin_flags(files, own, {"BATCH_SIZE": None})
        run(runs.t5x_itself(action, flags), trained)
    (file,) = (trained / "of_eval" / "inference_eval").glob("toy-0*.jsonl")
    evaluated, inferred = (
        [json.loads(row)["prediction"] for row in one.read_text().splitlines()]
        for one in (file, trained / "of_infer" / "toy-predict.jsonl-00000-of-00001")
    )
    assert len(evaluated) == len(runs.ROWS)
    assert evaluated == inferred
