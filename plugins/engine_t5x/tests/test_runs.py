"""Runs with T5X: saves in each form, going on, evaluation and inference, devices and processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import runs

from prompt_tuning_files import prompt_files

pytestmark = pytest.mark.t5x

FORMS: dict[str, dict[str, object]] = {
    "orbax": {},
    "legacy": {"USE_ORBAX": False},
    "only_prompt": {"ONLY_PROMPT": True},
}
"""Settings of each form in which T5X saves."""


def t5x(action: str, flags: list[str]) -> list[str]:
    return runs.command([action, "--engine=t5x", *flags])


def prompts(directory: Path) -> dict[int, np.ndarray]:
    """Reads the prompts of a run, each against its checksum, by step."""
    found = {}
    for path in prompt_files.by_step(directory):
        array, provenance = prompt_files.read(path)
        found[provenance["step"]] = array
        assert path.name == prompt_files.name_at(provenance["step"])
    return found


@pytest.fixture(scope="module")
def trained(shared_project: Path) -> Path:
    """A folder with a finished run in each form."""
    for form, macros in FORMS.items():
        flags = runs.training_flags(MODEL_DIR=f"run_{form}", **macros)
        runs.run(t5x("train", flags), shared_project)
    return shared_project


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_appears_at_each_save(trained, form):
    found = prompts(trained / f"run_{form}")
    assert list(found) == [0, 2, 4]
    np.testing.assert_array_equal(found[0], np.load(trained / "prompt.npy"))
    for step in (2, 4):
        assert np.abs(found[step] - found[step - 2]).max() > 0.1
    provenance = prompt_files.read_provenance(trained / f"run_{form}" / "prompt_4.npy")
    assert provenance["seed"] == 0
    assert provenance["task"]["name"] == "toy"
    assert provenance["model"]["path"].endswith("checkpoint_0")
    assert any("init_file.path" in line for line in provenance["initializer"])
    assert "plugins.prompt_basic" in provenance["config"]


def test_the_form_of_a_save_does_not_change_the_prompt(trained):
    for form in ("legacy", "only_prompt"):
        np.testing.assert_array_equal(
            prompts(trained / f"run_{form}")[4], prompts(trained / "run_orbax")[4]
        )


@pytest.mark.parametrize("name", ["t5x_checkpoint_2021", "t5x_checkpoint_2021_bf16"])
def test_a_checkpoint_of_2021_is_trained_like_todays(trained, name):
    """The check before the start passes, and T5X reads it."""
    golden = Path(__file__).parents[2] / "format_t5x" / "tests" / "golden"
    with tarfile.open(golden / f"{name}.tar.gz") as archive:
        archive.extractall(trained, filter="data")
    flags = runs.training_flags(
        MODEL_DIR=f"run_{name}", INITIAL_CHECKPOINT_PATH=f"{name}/checkpoint_0", ONLY_PROMPT=True
    )
    runs.run(t5x("train", flags), trained)
    found, expected = prompts(trained / f"run_{name}"), prompts(trained / "run_orbax")
    assert list(found) == [0, 2, 4]
    # Steps of 0.3 on random weights soon part what rounding changed.
    if not name.endswith("bf16"):
        np.testing.assert_array_equal(found[4], expected[4])


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_only_the_prompt_is_saved_if_that_is_asked(trained):
    whole = size_of(trained / "run_orbax" / "checkpoint_4")
    small = size_of(trained / "run_only_prompt" / "prompt_checkpoints" / "checkpoint_4")
    assert not (trained / "run_only_prompt" / "checkpoint_4").exists()
    # The model's 62,368 parameters take 4 bytes each.
    assert whole > 4 * 62_368 > 10 * small


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_run_goes_on_from_its_last_save(project, form):
    flags = runs.training_flags(TRAIN_STEPS=400, EVAL_PERIOD=400, **FORMS[form])
    process = subprocess.Popen(
        t5x("train", flags), cwd=project, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    where = project / "run" / ("prompt_checkpoints" if form == "only_prompt" else ".")
    deadline = time.monotonic() + 180
    while not any(c.name.split("_")[-1] in {"4", "6", "8"} for c in where.glob("checkpoint_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [int(path.name.split("_")[-1]) for path in where.glob("checkpoint_*[0-9]")]
    saved = max(steps)
    before = prompts(project / "run")
    last = saved + 4
    flags = runs.training_flags(TRAIN_STEPS=last, EVAL_PERIOD=2, **FORMS[form])
    process = runs.run(t5x("train", flags), project)
    after = prompts(project / "run")
    assert set(range(0, last + 1, 2)) <= set(after)
    np.testing.assert_array_equal(after[saved], before[saved])
    # Training went on from the saved prompt and not from a new one.
    assert np.abs(after[saved + 2] - before[saved]).max() < np.abs(after[saved + 2]).max()
    assert np.abs(after[saved + 2] - after[0]).max() > np.abs(after[saved + 2] - after[saved]).max()


STRANGER = """
import jax.numpy as jnp

def init_sevens(value):
    return lambda rng, shape: jnp.full(shape, value, jnp.float32)
"""
STRANGERS_FILE = """
from __gin__ import dynamic_registration
from prompt_tuning_core import plugins

PROMPT = @plugins.prompt_basic
plugins.prompt_basic:
  length = %PROMPT_LENGTH
  prompt_init = @plugins.init_sevens()
plugins.init_sevens.value = 7.0
"""


def test_t5x_itself_trains_with_a_strangers_plugin(project, site):
    points = {"initializers": {"init_sevens": "init_sevens:init_sevens"}}
    site.distribution("init_sevens", points, {"init_sevens.py": STRANGER})
    (project / "sevens.gin").write_text(STRANGERS_FILE)
    flags = runs.training_flags(
        "sevens.gin",
        MODEL_DIR=str(project / "run"),
        INITIAL_CHECKPOINT_PATH=str(project / "t5x_checkpoint" / "checkpoint_0"),
    )
    runs.run(runs.t5x_itself("train", flags), project, PYTHONPATH=str(site.folder))
    found = prompts(project / "run")
    assert list(found) == [0, 2, 4]
    np.testing.assert_array_equal(found[0], np.full((5, 32), 7, np.float32))
    assert np.abs(found[4] - 7).max() > 0.1
    provenance = prompt_files.read_provenance(project / "run" / "prompt_4.npy")
    assert {"kind": "initializer", "name": "init_sevens", "distribution": "init_sevens",
            "version": "1.0"} in provenance["plugins"]  # fmt: skip


def metrics(directory: Path) -> dict[str, float]:
    rows = (directory / "inference_eval" / "toy-metrics.jsonl").read_text().splitlines()
    return {k: v for k, v in json.loads(rows[-1]).items() if k in ("exact_match", "accuracy")}


def test_a_prompt_file_and_the_runs_own_checkpoint_evaluate_alike(trained):
    runs.run(t5x("eval", runs.evaluation_flags(PROMPT_FILE="run_orbax")), trained)
    # By T5X itself, with its own configuration for a whole checkpoint.
    (trained / "toy_task.py").write_text(runs.TASK_MODULE)
    arguments = runs.gin_flags(
        [
            "models/t5_1_1_small_prompt.gin",
            "models/decoding/greedy.gin",
            "task.gin",
            "t5x/configs/runs/eval.gin",
        ],
        {
            **runs.TINY,
            "MIXTURE_OR_TASK_MODULE": "toy_task",
            "CHECKPOINT_PATH": str(trained / "run_orbax" / "checkpoint_4"),
            "EVAL_OUTPUT_DIR": str(trained / "of_checkpoint"),
        },
        {"BATCH_SIZE": None},
    )
    runs.run(runs.t5x_itself("eval", arguments), trained, PYTHONPATH=str(trained))
    assert metrics(trained / "of_checkpoint") == metrics(trained / "evaluation")


def test_texts_of_a_file_are_answered(trained):
    texts = [row["text"] for row in runs.ROWS]
    (trained / "questions.txt").write_text("\n".join(texts) + "\n")
    flags = runs.gin_flags(
        [
            "models/t5_1_1_small_prompt.gin",
            "models/decoding/greedy.gin",
            "task.gin",
            "runs/prompt_infer.gin",
        ],
        {
            **runs.TINY,
            "CHECKPOINT_PATH": "t5x_checkpoint/checkpoint_0",
            "INFER_OUTPUT_DIR": "answers",
            "INFER_INPUT_FILE": "questions.txt",
            "PROMPT_FILE": "run_orbax",
        },
        {},
    )
    runs.run(t5x("infer", flags), trained)
    written = trained / "answers" / "questions-predict.jsonl-00000-of-00001"
    found = [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["inputs"]["inputs_pretokenized"] for row in found] == texts
    runs.run(runs.command(["infer", "--engine=local", *flags]), trained)
    own = (trained / "answers" / "questions.txt-predictions.jsonl").read_text().splitlines()
    assert [row["prediction"] for row in found] == [json.loads(r)["prediction"] for r in own]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The prompt of the same run on 8 simulated devices, in three layouts, and on one device."""
    folder = runs.make_project(tmp_path_factory.mktemp("layouts"))
    found = {}
    for name, devices, partitions in [("1", 1, 1), ("8x1", 8, 1), ("4x2", 8, 2), ("2x4", 8, 4)]:
        # Of the process's devices (the second axis), so many hold parts of one model.
        submesh = {"partitioning.PjitPartitioner.model_parallel_submesh": (1, partitions)}
        flags = runs.training_flags(MODEL_DIR=f"run_{name}", **submesh)
        runs.run(
            t5x("train", flags),
            folder,
            XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        )
        found[name] = prompts(folder / f"run_{name}")[4]
    return found


@pytest.mark.parametrize("layout", ["8x1", "4x2", "2x4"])
def test_the_layout_of_devices_does_not_change_the_prompt(layouts, layout):
    np.testing.assert_allclose(layouts[layout], layouts["1"], rtol=0, atol=1e-4)


def test_two_processes_train_one_prompt(project):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = runs.training_flags(ONLY_PROMPT=True)
    processes = [
        subprocess.Popen(
            t5x(
                "train",
                [
                    *flags, "--multiprocess_gpu", f"--coordinator_address=127.0.0.1:{port}",
                    "--process_count=2", f"--process_index={index}",
                ],
            ),
            cwd=project,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    together = prompts(project / "run")
    flags = runs.training_flags(MODEL_DIR="alone")
    runs.run(t5x("train", flags), project)
    np.testing.assert_allclose(together[4], prompts(project / "alone")[4], rtol=0, atol=1e-4)
