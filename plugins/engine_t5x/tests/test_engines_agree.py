"""The same command line with `--engine` exchanged: the same losses, prompts that either can use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import runs

from prompt_tuning_testing.pytest_plugin import Site

pytestmark = pytest.mark.t5x

STEPS = 20

# A hooks plugin that records its arguments.
RECORDER = """
import json
from prompt_tuning_core.hookspecs import hookimpl

@hookimpl
def step_logged(step, metrics):
    with open("losses.jsonl", "a") as file:
        file.write(json.dumps([step, metrics["loss"]]) + "\\n")

@hookimpl
def evaluated(step, metrics):
    with open("evaluated.json", "w") as file:
        json.dump({"step": step, **metrics}, file)
"""


@pytest.fixture(scope="module")
def trained(shared_project: Path) -> Path:
    """A folder with a run of each engine, and the losses of their steps."""
    site = Site(shared_project)
    site.distribution("recorder", {"hooks": {"recorder": "recorder"}}, {"recorder.py": RECORDER})
    for engine in ("local", "t5x"):
        train(shared_project, engine, engine, TRAIN_STEPS=STEPS)
    return shared_project


def train(folder: Path, engine: str, name: str, **macros: object) -> None:
    """Trains to `run_NAME`, and keeps the losses in `losses_NAME.jsonl`."""
    flags = runs.training_flags(MODEL_DIR=f"run_{name}", EVAL_PERIOD=STEPS, SAVE_PERIOD=1, **macros)
    runs.run(
        runs.command(["train", f"--engine={engine}", "--hooks=recorder", *flags]),
        folder,
        PYTHONPATH=str(folder / "site"),
    )
    (folder / "losses.jsonl").rename(folder / f"losses_{name}.jsonl")


def losses(folder: Path, engine: str) -> dict[int, float]:
    lines = (folder / f"losses_{engine}.jsonl").read_text().splitlines()
    return dict(json.loads(line) for line in lines)


def test_each_step_has_the_same_loss(trained):
    local, t5x = losses(trained, "local"), losses(trained, "t5x")
    assert sorted(local) == sorted(t5x) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        [t5x[step] for step in sorted(t5x)], [local[step] for step in sorted(local)], rtol=1e-3
    )
    assert local[STEPS] < local[1]


def test_bfloat16_is_as_far_from_float32_in_either(trained):
    exact = losses(trained, "local")
    errors = {}
    for engine in ("local", "t5x"):
        train(trained, engine, f"{engine}_bf16", TRAIN_STEPS=5, ACTIVATION_DTYPE="bfloat16")
        found = losses(trained, f"{engine}_bf16")
        errors[engine] = [abs(found[step] / exact[step] - 1) for step in range(1, 6)]
    # It rounds at all, and the products of either are rounded once.
    assert all(0 < max(of_engine) < 2e-2 for of_engine in errors.values()), errors
    assert np.mean(errors["local"]) < 2 * np.mean(errors["t5x"]) + 1e-3, errors


def test_each_save_of_either_has_the_same_prompt(trained):
    for step in range(1, STEPS + 1):
        local, t5x = (
            np.load(trained / f"run_{e}" / f"prompt_{step}.npy") for e in ("local", "t5x")
        )
        np.testing.assert_allclose(t5x, local, rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def predictions(trained: Path) -> dict[tuple[str, str], list[str]]:
    """Returns each engine's answers with each engine's prompt, and its metrics."""
    found = {}
    for prompt in ("local", "t5x"):
        for engine in ("local", "t5x"):
            output = trained / f"evaluation_{prompt}_{engine}"
            # Each takes the rest from the provenance that either engine wrote.
            rest = (
                "PROMPT_LENGTH", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "VOCABULARY_FILE",
                "VOCABULARY_EXTRA_IDS",
            )  # fmt: skip
            flags = runs.evaluation_flags(
                PROMPT_FILE=f"run_{prompt}", EVAL_OUTPUT_DIR=str(output), **dict.fromkeys(rest)
            )
            runs.run(
                runs.command(["eval", f"--engine={engine}", "--hooks=recorder", *flags]),
                trained,
                PYTHONPATH=str(trained / "site"),
            )
            if engine == "local":
                metrics = json.loads((output / "toy-test-metrics.json").read_text())
                rows = (output / "toy-test-predictions.jsonl").read_text().splitlines()
            else:
                folder = output / "inference_eval"
                metrics = json.loads((folder / "toy-metrics.jsonl").read_text())
                rows = (folder / "toy-000000.jsonl").read_text().splitlines()
            answers = [json.loads(row)["prediction"] for row in rows]
            told = json.loads((trained / "evaluated.json").read_text())
            known = {name: metrics[name] for name in ("exact_match", "accuracy")}
            assert told == {"step": STEPS, **known}
            found[prompt, engine] = (metrics["exact_match"], metrics["accuracy"], answers)
    return found


@pytest.mark.parametrize("prompt", ["local", "t5x"])
def test_a_prompt_of_either_is_worth_the_same_in_both(predictions, prompt):
    local, t5x = predictions[prompt, "local"], predictions[prompt, "t5x"]
    assert t5x[:2] == pytest.approx(local[:2])
    assert t5x[2] == local[2]
    assert len(local[2]) == len(runs.ROWS)
    assert len(set(local[2])) > 3
