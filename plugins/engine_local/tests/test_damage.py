"""Damaged files of a run: the same prompt comes out, or a clear error, and never another prompt."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import training_flags

from prompt_tuning_core.commands.main import main as run_main
from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.runs import state_store
from prompt_tuning_engine_local.runs.state_store import StateStore, TrainingState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_a_digit(path):
    data = path.read_bytes()
    digits = [match.start() for match in re.finditer(rb"[0-8]", data)]
    if digits:
        place = random.Random(len(data)).choice(digits)
        data = data[:place] + bytes([data[place] + 1]) + data[place + 1 :]
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def make_unreadable(path):
    """A link to itself: the superuser, too, cannot read it."""
    path.unlink()
    path.symlink_to(path.name)


DAMAGES = [flip_a_bit, change_a_digit, truncate, empty, delete, make_unreadable]


def state_at(step):
    random_values = np.random.default_rng(step)
    return TrainingState(
        step,
        {"prompt": random_values.normal(size=(5, 32)).astype(np.float32)},
        (jnp.asarray(step, jnp.int32), random_values.normal(size=32).astype(np.float32)),
        {"data": "{}", "metrics": {"accuracy": 0.5}, "best": [["accuracy", "test"], 0.5]},
    )


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store = StateStore(folder)
    for step in (4, 8):
        store.save(state_at(step))
        store.wait()
    store.close()
    return folder


def newest_in(folder):
    store = StateStore(folder)
    try:
        return store.newest(like=state_at(0))
    finally:
        store.close()


def same(found, expected):
    return (
        found.step == expected.step
        and np.array_equal(found.prompt["prompt"], expected.prompt["prompt"])
        and np.array_equal(found.optimizer[1], expected.optimizer[1])
        and int(found.optimizer[0]) == int(expected.optimizer[0])
        and dict(found.notes) == dict(expected.notes)
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_never_restored(states, tmp_path, damage):
    files = [p.relative_to(states) for p in sorted((states / "state" / "8").rglob("*"))]
    names = [name for name in files if (states / name).is_file()]
    assert len(names) > 5
    outcomes = set()
    for number, name in enumerate(names):
        run = tmp_path / str(number)
        shutil.copytree(states, run)
        damage(run / name)
        outcomes.add(outcome(run))
    # What Orbax needs of a state is in few of its files; their damage is found.
    assert ("error" if damage is make_unreadable else 4) in outcomes


def outcome(run):
    """Returns the step of the state that is restored from a damaged run, checked, or "error"."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = newest_in(run)
        except InputError as error:
            message, found = str(error), None
    aside = (run / "damaged_state_8_1").exists()
    assert aside != (run / "state" / "8").exists()
    if found is None:
        assert re.search(r"cannot be read: .*\S; nothing was changed", message)
        assert not aside
        return "error"
    if aside:
        assert re.search(r"state of step 8 is damaged .* renamed to", str(told[-1].message))
    assert same(found, state_at(4 if aside else 8))
    return found.step


@pytest.mark.parametrize("content", ["true", '{"x": 1, "custom_metadata": {"y": 2}}'])
def test_metadata_that_orbax_cannot_take_sets_a_state_aside(states, tmp_path, content):
    for step, used in ((8, 4), (4, 8)):
        run = tmp_path / str(step)
        shutil.copytree(states, run)
        (run / "state" / str(step) / "_CHECKPOINT_METADATA").write_text(content)
        with pytest.warns(UserWarning, match=f"state of step {step} is damaged .*and not used"):
            found = newest_in(run)
        assert same(found, state_at(used))


def test_a_state_of_another_optimizer_is_refused(states, tmp_path):
    shutil.copytree(states, tmp_path / "run")
    store = StateStore(tmp_path / "run")
    other = TrainingState(0, state_at(0).prompt, (np.zeros(3, np.float32),), {})
    with pytest.raises(InputError, match="another optimizer saved it; give another MODEL_DIR"):
        store.newest(like=other)
    store.close()
    assert (tmp_path / "run" / "state" / "8").exists()


@pytest.fixture(scope="module")
def run(make_project):
    """A project with a run of four steps, and one of six."""
    folder = make_project()
    for name, steps in (("unbroken", 6), ("run", 4)):
        with contextlib.chdir(folder):
            assert run_main(["train", *flags(MODEL_DIR=name, TRAIN_STEPS=steps)]) == 0
    return folder


def flags(**changes):
    return training_flags(**{"SAVE_PERIOD": 2, "EVAL_PERIOD": 6, "TRAIN_STEPS": 6, **changes})


@pytest.fixture
def train(run, main, monkeypatch):
    """Trains in this process; returns the exit code and standard error."""
    monkeypatch.chdir(run)

    def command(directory):
        code, _, error = main("train", *flags(MODEL_DIR=str(directory)))
        return code, error

    return command


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_beside_the_states_changes_no_prompt(run, tmp_path, train, damage):
    whole = tmp_path / "whole"
    shutil.copytree(run / "run", whole)
    beside = [
        path
        for path in whole.rglob("*")
        if path.is_file() and path.name != "run.json" and "state" not in path.parts
    ]
    names = {path.name for path in beside}
    assert {".lock", "config.gin", "metrics.jsonl", "prompt_4.npy", "prompt_4.json"} < names
    for path in beside:
        if path.name != ".lock" or damage is not make_unreadable:  # That one is refused below.
            damage(path)
    code, error = train(whole)
    assert code == 0, error
    unbroken = np.load(run / "unbroken" / "prompt_6.npy")
    np.testing.assert_array_equal(np.load(whole / "prompt_6.npy"), unbroken)

    of_run = tmp_path / "of_run"
    shutil.copytree(run / "run", of_run)
    damage(of_run / "run.json")
    code, error = train(of_run)
    assert code == 2
    line = error.strip().splitlines()[-1]
    assert line.startswith("prompt-tuning: error: ")
    assert str(of_run) in line
    assert "run.json" in line


def test_states_that_are_gone_are_missed(run, tmp_path, train):
    target = tmp_path / "run"
    shutil.copytree(run / "run", target)
    shutil.rmtree(target / "state")
    code, error = train(target)
    assert code == 2
    assert "holds prompt_4.npy and no state that could be resumed; give another" in error
    (target / "run.json").unlink()
    for path in target.glob("prompt_*"):
        path.unlink()
    shutil.copytree(run / "run" / "state", target / "state", dirs_exist_ok=True)
    code, error = train(target)
    assert code == 2
    assert "holds saved states and no run.json that says which run made it" in error


def test_the_lock_and_the_curves_follow_no_link(run, tmp_path, train):
    for name in (".lock", "tensorboard"):
        target = tmp_path / name
        target.mkdir()
        (target / name).symlink_to(tmp_path / "elsewhere")
        code, error = train(target)
        assert code == 2
        assert f"{target / name} is a symbolic link, expected a fol" in error or "a file" in error
        assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_told_apart(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(state_store.fcntl, "flock", flock)
    with (
        pytest.warns(UserWarning, match=r"its file system has no locks .*not supported"),
        state_store.lock(Path(tmp_path)),
    ):
        pass
