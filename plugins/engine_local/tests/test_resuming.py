"""A run that was stopped or killed resumes, with the same result as a run that never stopped."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from tiny import run_command, training_flags

from prompt_tuning_core.commands.main import main
from prompt_tuning_engine_local.runs import state_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]

STEPS, PERIOD = 20, 4

# A module whose file is no plain prompt, with a part that is not trained; each label is a task.
MULTITASK = {
    "plugins.prompt_multitask.tasks": 2,
    "plugins.prompt_multitask.sentinel": 63,
    "plugins.prompt_multitask.frozen": ("shared",),
    "toy/tasks.TextTask.inputs": "<extra_id_{label}> {text}",
}

# A hooks plugin that does what a test asks for in an environment variable, once.
SABOTEUR = """
import os, resource, signal, time
from prompt_tuning_core.hookspecs import hookimpl

what, _, when = os.environ.get("SABOTAGE", "").partition(":")
replaced = 0

def act():
    if what in ("step", "saved", "replace"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what in ("SIGTERM", "SIGINT"):
        os.kill(os.getpid(), signal.Signals[what])
    if what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

@hookimpl
def step_logged(step):
    if what and step % 4 == 1:
        time.sleep(0.3)  # As long as a real step takes, in which the save before it ends.
    if what in ("step", "SIGTERM", "SIGINT", "full") and step == int(when):
        act()

@hookimpl
def prompt_saved(provenance):
    # The state is being written in the background now.
    if what == "saved" and provenance["step"] == int(when):
        act()

if what == "replace":
    replace = os.replace
    def counting(*args, **kwargs):
        global replaced
        replaced += 1
        if replaced == int(when):
            act()
        return replace(*args, **kwargs)
    os.replace = counting
"""


def flags(module="prompt_basic", **changes):
    settings = {"TRAIN_STEPS": STEPS, "SAVE_PERIOD": PERIOD, "EVAL_PERIOD": STEPS}
    if module == "prompt_multitask":
        settings |= MULTITASK
    return [*training_flags(**{**settings, **changes}), f"--gin.PROMPT=@plugins.{module}"]


@pytest.fixture
def sabotage(project, site):
    """Runs the training of `project` with an accident, in a process of its own."""
    site.distribution("saboteur", {"hooks": {"saboteur": "saboteur"}}, {"saboteur.py": SABOTEUR})

    def run(what, module="prompt_basic"):
        return run_command(
            ["train", *flags(module), "--hooks=saboteur"],
            project,
            PYTHONPATH=str(site.folder),
            SABOTAGE=what,
        )

    return run


@pytest.fixture
def go_on(project, run_here):
    """Gives the command of `sabotage` again, without an accident and in this process."""

    def run(module="prompt_basic"):
        finished = run_here(["train", *flags(module), "--hooks=saboteur"], project)
        assert finished.returncode == 0, finished.stderr
        return finished

    return run


@pytest.fixture(scope="module")
def unbroken_arrays(make_project):
    """A function that returns the arrays of a module's run that nothing stops."""

    @functools.cache
    def run(module):
        folder = make_project()
        with contextlib.chdir(folder):
            assert main(["train", *flags(module)]) == 0
        return last_arrays(folder)

    return run


@pytest.fixture
def unbroken(unbroken_arrays):
    return unbroken_arrays("prompt_basic")["prompt"]


def last_arrays(folder):
    """Returns the arrays by name in the last prompt file of the run."""
    (path,) = (folder / "run").glob(f"prompt_{STEPS}.[ns]*")
    if path.suffix == ".npy":
        return {"prompt": np.load(path)}
    return safetensors.numpy.load_file(path)


def resumed_from(finished):
    found = re.search(r"going on from step (\d+)", finished.stdout)
    return int(found[1]) if found else 0


def accidents(count):
    """Kills at random steps, while a state is being written, and while a file is."""
    rng = random.Random(0)
    saves = range(PERIOD, STEPS, PERIOD)
    for number in range(count):
        kind = ("step", "saved", "replace")[number % 3]
        if kind == "step":
            yield f"step:{rng.randint(1, STEPS - 1)}"
        elif kind == "saved":
            yield f"saved:{rng.choice(saves)}"
        else:
            # run.json, config.gin, metrics.jsonl, then two files for each prompt.
            yield f"replace:{rng.randint(1, 3 + 2 * len(saves))}"


@pytest.mark.parametrize(("module", "kills"), [("prompt_basic", 3), ("prompt_multitask", 1)])
def test_killed_anywhere_it_gives_the_same_prompt(
    project, unbroken_arrays, sabotage, go_on, module, kills
):
    unbroken = unbroken_arrays(module)
    assert (
        unbroken.keys()
        == {
            "prompt_basic": {"prompt"},
            "prompt_multitask": {
                f"encoder/prompt/{name}" for name in ("shared", "rows", "columns")
            },
        }[module]
    )
    # More of them by hand: KILLS=20 pytest -k killed
    for accident in accidents(int(os.environ.get("KILLS", kills))):
        shutil.rmtree(project / "run", ignore_errors=True)
        killed = sabotage(accident, module)
        assert killed.returncode == -9, (accident, killed.stderr)
        finished = go_on(module)
        kind, _, when = accident.partition(":")
        if kind != "replace":
            lost = int(when) - resumed_from(finished)
            # A save in the background may be lost with the process, and so the steps since.
            assert lost <= PERIOD, accident
        arrays = last_arrays(project)
        assert arrays.keys() == unbroken.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, unbroken[name], err_msg=f"{accident}, {name}")
        assert not list((project / "run").glob("*.partial"))
        steps = [
            json.loads(line)["step"]
            for line in (project / "run" / "metrics.jsonl").read_text().splitlines()
            if "train/loss" in line
        ]
        assert steps == list(range(1, STEPS + 1)), accident


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -15), ("SIGINT", 130)])
def test_a_polite_stop_saves_and_says_how_to_go_on(project, unbroken, sabotage, go_on, name, code):
    stopped = sabotage(f"{name}:6")
    assert stopped.returncode == code, stopped.stderr
    assert "stopped at step 6; the same command goes on from there" in stopped.stdout
    assert resumed_from(go_on()) == 6
    np.testing.assert_array_equal(np.load(project / "run" / f"prompt_{STEPS}.npy"), unbroken)


def test_train_steps_may_be_raised(project, unbroken, run_here):
    for steps in (8, STEPS):
        finished = run_here(["train", *flags(TRAIN_STEPS=steps)], project)
        assert finished.returncode == 0, finished.stderr
    assert resumed_from(finished) == 8
    np.testing.assert_array_equal(np.load(project / "run" / f"prompt_{STEPS}.npy"), unbroken)
    lowered = run_here(["train", *flags(TRAIN_STEPS=8)], project)
    assert lowered.returncode == 2
    assert f"TRAIN_STEPS is 8, and the run in run has reached step {STEPS}" in lowered.stderr


@pytest.fixture
def train(project, run_here):
    """Trains in this process; returns the exit code and standard error."""

    def command(*more, **changes):
        finished = run_here(["train", *training_flags(**changes), *more], project)
        return finished.returncode, finished.stderr

    return command


def test_a_change_that_reaches_the_steps_is_refused_unless_it_is_allowed(project, train):
    schedule = ["--gin.LEARNING_RATE_SCHEDULE='cosine'", "--gin.DECAY_STEPS=%TRAIN_STEPS"]
    assert train(*schedule, TRAIN_STEPS=2)[0] == 0
    code, error = train(*schedule, TRAIN_STEPS=4)
    assert code == 2
    assert (
        "there TRAIN_STEPS is 2, and here 4 (which sets schedules.learning_rate.decay_steps); "
        "give another directory, or the same value, or allow it: ALLOW_CHANGES = ['TRAIN_STEPS']"
    ) in error
    code, error = train(*schedule, TRAIN_STEPS=4, ALLOW_CHANGES=["TRAIN_STEP"])
    assert code == 2
    assert "ALLOW_CHANGES has 'TRAIN_STEP', and no binding" in error
    assert "did you mean 'TRAIN_STEPS'" in error
    code, error = train(*schedule, TRAIN_STEPS=4, ALLOW_CHANGES=["TRAIN_STEPS"])
    assert code == 0, error
    facts = json.loads((project / "run" / "prompt_4.json").read_text())
    assert facts["changes"] == [{"step": 2, "name": "TRAIN_STEPS", "before": "2", "after": "4"}]
    # What is only reported may change, and the changes of before stay on record.
    reported = {"toy/tasks.TextTask.metrics": ["accuracy"], "EVAL_PERIOD": 1, "TRAIN_STEPS": 4}
    code, error = train(*schedule, **reported)
    assert code == 0, error
    facts = json.loads((project / "run" / "run.json").read_text())
    assert [change["step"] for change in facts["changes"]] == [2]


@pytest.mark.parametrize(
    ("periods", "found"),
    [
        (2, "encoder/prompt/prompt/prompt is not finite after step 2"),
        (4, "the loss is nan at step 3"),
    ],
)
def test_a_run_that_diverged_goes_on_with_a_lower_rate(project, train, periods, found):
    rate = "LEARNING_RATE"
    # In the first case, the step that diverges is the last one.
    changes = {"TRAIN_STEPS": periods, "EVAL_PERIOD": periods, "SAVE_PERIOD": periods}
    code, error = train(**changes, **{rate: 3e38})
    assert code == 2
    assert f"{found}; the last prompt saved is run/prompt_0.npy; lower the learning rate" in error
    assert f"ALLOW_CHANGES = ['{rate}']" in error
    assert [path.name for path in (project / "run").glob("*.npy")] == ["prompt_0.npy"]
    code, error = train(ALLOW_CHANGES=[rate], **changes, **{rate: 0.3})
    assert code == 0, error
    code, error = train(MODEL_DIR="unbroken", **changes, **{rate: 0.3})
    assert code == 0, error
    resumed, unbroken = (
        np.load(project / name / f"prompt_{periods}.npy") for name in ("run", "unbroken")
    )
    np.testing.assert_array_equal(resumed, unbroken)


OPTIMIZERS = """
import jax
import optax
from optax import contrib

def plateau(rate=None):
    adam = optax.inject_hyperparams(optax.adam)(rate)
    return optax.chain(adam, contrib.reduce_on_plateau(patience=1))

def lbfgs():
    return optax.lbfgs()

def noisy():
    return optax.noisy_sgd(0.1, key=jax.random.key(0))
"""


@pytest.mark.parametrize("name", ["plateau", "lbfgs", "noisy"])
def test_an_optimizer_that_wants_more_than_the_gradient_trains_and_resumes(
    project, train, site, name
):
    """It wants the loss and takes our schedule, or has a typed random key in its state."""
    (site.folder / f"optimizers_{name}.py").write_text(OPTIMIZERS)
    (project / "own.gin").write_text(
        f"from __gin__ import dynamic_registration\nimport optimizers_{name}\n"
        f"OPTIMIZER = @optimizers_{name}.{name}()\n"
        "from prompt_tuning_engine_local.model import schedules\n"
        f"optimizers_{name}.plateau.rate = @schedules.learning_rate()\n"
        "LEARNING_RATE_SCHEDULE = 'linear'\nDECAY_STEPS = 10\n"
    )
    for directory, steps in (("run", 2), ("run", 4), ("unbroken", 4)):
        code, error = train("--gin_file=own.gin", MODEL_DIR=directory, TRAIN_STEPS=steps)
        assert code == 0, error
    first, resumed, unbroken = (
        np.load(project / place)
        for place in ("run/prompt_0.npy", "run/prompt_4.npy", "unbroken/prompt_4.npy")
    )
    np.testing.assert_array_equal(resumed, unbroken)
    assert np.abs(resumed - first).max() > 0
    if name == "plateau":
        curves = (project / "run" / "metrics.jsonl").read_text().splitlines()
        rates = [json.loads(row).get("train/learning_rate") for row in curves]
        np.testing.assert_allclose([rate for rate in rates if rate], [0.3, 0.27, 0.24, 0.21])


def test_the_best_prompt_is_one_with_a_number(project, train, site):
    """The first value is NaN, as a correlation of equal answers is, and JSON has no NaN.

    The call before it is the one that gives the metric's name.
    """
    source = (
        "import math\ncalls = []\n"
        "def odd(targets, predictions):\n"
        "    calls.append(1)\n"
        "    return {'odd': math.nan if len(calls) == 2 else 1 / len(calls)}\n"
    )
    (site.folder / "odd_metric.py").write_text(source)
    (project / "odd.gin").write_text(
        "from __gin__ import dynamic_registration\nimport odd_metric\n"
        "import prompt_tuning_tasks as tasks\ntoy/tasks.TextTask.metrics = [@odd_metric.odd]\n"
    )
    code, error = train("--gin_file=odd.gin", BEST_METRIC="odd")
    assert code == 0, error
    best = json.loads((project / "run" / "best_prompt.json").read_text())
    assert best["step"] == 2
    first = json.loads((project / "run" / "prompt_0.json").read_text())
    assert first["metrics"] == {"validation": {"odd": None}}
    assert "NaN" not in (project / "run" / "metrics.jsonl").read_text()


def test_a_damaged_state_is_left_for_the_one_before(project, unbroken, run_here):
    stopped = run_here(["train", *flags(TRAIN_STEPS=14)], project)
    assert stopped.returncode == 0, stopped.stderr
    for path in (project / "run" / "state" / "14").rglob("*"):
        if path.is_file() and "d" in path.parts:
            path.write_bytes(path.read_bytes()[:10])
    # In a process of its own: what is left of tensorstore's reading may raise in a thread.
    finished = run_command(["train", *flags()], project)
    assert finished.returncode == 0, finished.stderr
    assert "the state of step 14 is damaged" in finished.stderr
    assert (project / "run" / "damaged_state_14_1").is_dir()
    assert resumed_from(finished) == 12
    np.testing.assert_array_equal(np.load(project / "run" / f"prompt_{STEPS}.npy"), unbroken)


def test_a_full_disk_is_said_and_what_was_saved_stays(project, unbroken, sabotage, go_on):
    stopped = sabotage("full:6")
    assert stopped.returncode == 2, stopped.stderr
    # The other lines warn of the table and of the curves.
    assert stopped.stderr.count("\n") == 3, stopped.stderr
    assert "MODEL_DIR run: cannot be written to" in stopped.stderr
    assert not list((project / "run").glob(".*.partial"))
    assert resumed_from(go_on()) == 4
    np.testing.assert_array_equal(np.load(project / "run" / f"prompt_{STEPS}.npy"), unbroken)


def test_a_disk_without_room_for_files_is_said_before_a_save(project, train, monkeypatch):
    stats = os.statvfs(project)
    few = SimpleNamespace(f_bavail=10**9, f_frsize=4096, f_files=stats.f_files or 1, f_favail=3)
    monkeypatch.setattr(state_store.os, "statvfs", lambda path: few)
    code, error = train(TRAIN_STEPS=1)
    assert code == 2
    assert "MODEL_DIR run: cannot be written to (No space left on device)" in error


def test_a_directory_in_use_is_refused(project, run_here):
    (project / "run").mkdir()
    with (project / "run" / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = run_here(["train", *flags()], project)
    assert second.returncode == 2
    assert "MODEL_DIR run is in use by another run" in second.stderr


def test_another_run_is_refused_with_the_difference(project, golden, train):
    code, error = train(TRAIN_STEPS=1)
    assert code == 0, error

    def refusal(**changes):
        code, error = train(**changes)
        assert code == 2, error
        assert "MODEL_DIR run holds another run: there " in error
        return error

    assert "BATCH_SIZE is 3, and here 4" in refusal(BATCH_SIZE=4)
    assert "RANDOM_SEED is 0, and here 1" in refusal(RANDOM_SEED=1)
    assert "CLASS_LABELS is ['bad', 'this'], and here ['bad']" in refusal(CLASS_LABELS=["bad"])
    assert "toy/tasks.TextTask.inputs is '{text}', and here 'x {text}'" in refusal(
        **{"toy/tasks.TextTask.inputs": "x {text}"}
    )
    params = golden("tiny_params")
    params["encoder/encoder_norm/scale"] = params["encoder/encoder_norm/scale"] + 1
    safetensors.numpy.save_file(params, project / "model" / "model.safetensors")
    assert "the checksum of the model is" in refusal()


def test_kept_prompts_and_the_best_one(project, run_here):
    changes = {"KEEP_CHECKPOINTS": 2, "BEST_METRIC": "exact_match", "EVAL_PERIOD": 4}
    finished = run_here(["train", *training_flags(TRAIN_STEPS=8, **changes)], project)
    assert finished.returncode == 0, finished.stderr
    run = project / "run"
    assert sorted(path.name for path in run.glob("*prompt*.npy")) == [
        "best_prompt.npy", "prompt_6.npy", "prompt_8.npy",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "state").iterdir()) == ["6", "8"]
    values = {
        row["step"]: row["eval/exact_match"]
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "eval/exact_match" in row
    }
    assert list(values) == [0, 4, 8]
    best = json.loads((run / "best_prompt.json").read_text())
    assert best["step"] == max(values, key=lambda step: values[step])
    # The directory means the best one, also to start from.
    flags = training_flags("prompts/from_file.gin", PROMPT_FILE="run", MODEL_DIR="next")
    finished = run_here(["train", *flags], project)
    chosen = f"prompt: run/best_prompt.npy, step {best['step']}, the best of its run\n"
    assert finished.stdout.startswith(chosen)
    first, saved = (np.load(project / p) for p in ("next/prompt_0.npy", "run/best_prompt.npy"))
    np.testing.assert_array_equal(first, saved)


def test_a_state_is_small(project, run_here):
    """At P = 100 and H = 512 a state holds two such arrays; here it is scaled down."""
    finished = run_here(["train", *training_flags(TRAIN_STEPS=1)], project)
    assert finished.returncode == 0, finished.stderr
    files = [p for p in (project / "run" / "state" / "1").rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in files) < 2 * 4 * 5 * 32 + 20_000
