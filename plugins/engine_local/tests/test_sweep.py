"""A grid of runs from one command."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import training_flags

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.model import model_files
from prompt_tuning_engine_local.runs import sweep, training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]

FLAGS = ["sweep", *training_flags(TRAIN_STEPS=2, RANDOM_SEED=None)]
GRID = ["--vary", "RANDOM_SEED=3,4", "--vary", "BATCH_SIZE=3"]


def prompts(folder):
    return {path.parent.name: np.load(path).tobytes() for path in folder.glob("run/*/prompt_2.npy")}


def test_a_sweep_trains_each_combination_with_one_model_and_goes_on(
    run_here, project, make_project, tmp_path_factory, monkeypatch
):
    loaded = []
    load = model_files.load
    monkeypatch.setattr(model_files, "load", lambda *args: loaded.append(args) or load(*args))
    whole = run_here([*FLAGS, *GRID], project)
    assert whole.returncode == 0, whole.stderr
    assert "2 of 2 runs finished" in whole.stdout
    assert len(loaded) == 1
    expected = prompts(project)
    assert set(expected) == {f"RANDOM_SEED={seed},BATCH_SIZE=3" for seed in (3, 4)}
    assert len(set(expected.values())) == 2

    broken = make_project(tmp_path_factory.mktemp("broken"))
    train, begun = training.train, []

    def interrupted(options):
        begun.append(options)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train(options)

    monkeypatch.setattr(training, "train", interrupted)
    assert run_here([*FLAGS, *GRID], broken).returncode == 130
    monkeypatch.setattr(training, "train", train)
    assert len(prompts(broken)) == 1
    assert run_here([*FLAGS, *GRID], broken).returncode == 0
    assert prompts(broken) == expected


def test_a_run_that_fails_leaves_the_others(run_here, project):
    models = "INITIAL_CHECKPOINT_PATH='nowhere','model'"
    finished = run_here([*FLAGS, "--gin.RANDOM_SEED=0", "--vary", models], project)
    assert finished.returncode == 1
    assert "error: INITIAL_CHECKPOINT_PATH=_nowhere_: model nowhere: there is no" in finished.stderr
    assert "1 of 2 runs finished" in finished.stdout
    assert list(prompts(project)) == ["INITIAL_CHECKPOINT_PATH=_model_"]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ([], "nothing varies; give --vary"),
        (["RANDOM_SEED"], "expected NAME=VALUE,VALUE"),
        (["RANDOM_SEED=1,,2", "BATCH_SIZE="], "expected NAME=VALUE,VALUE"),
        (["RANDOM_SEED=1,1"], "a value is there twice"),
        (["RANDOM_SEED=0,-1"], "RANDOM_SEED"),
        (["RANDM_SEED=0,1"], "did you mean 'RANDOM_SEED'"),
        (["gin_file=prompts/from_random_unifrm.gin"], "from_random_unifrm.gin"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run_here, project, vary, message):
    finished = run_here([*FLAGS, *(f"--vary={one}" for one in vary)], project)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (project / "run").exists()


def test_commas_within_quotes_and_brackets_separate_no_values():
    name, values = sweep.parsed("CLASS_LABELS=['a, b', 'c'], ['d'],(1, {'x': 2, 'y': [3]})")
    assert name == "CLASS_LABELS"
    assert values == ["['a, b', 'c']", "['d']", "(1, {'x': 2, 'y': [3]})"]
    assert sweep.parsed("PROMPT=@plugins.prompt_basic,@plugins.prompt_deep")[1] == [
        "@plugins.prompt_basic",
        "@plugins.prompt_deep",
    ]
    with pytest.raises(InputError):
        sweep.parsed("=1,2")
