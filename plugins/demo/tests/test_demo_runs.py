"""The demo's model and task, with every initializer and in all three commands."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import gin
import numpy as np
import pytest

import prompt_tuning_tasks as tasks
from prompt_tuning_core import gin_config
from prompt_tuning_core.commands.main import main
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_demo import baselines, compare_initializers, demo_table, reviews
from prompt_tuning_engine_local.runs import options, training

pytestmark = pytest.mark.slow

# Characters of a sentence. With short ones alone, few lengths are compiled.
SHORT = 45


@pytest.fixture
def few_sentences():
    """The demo's task with short sentences, and few for validation, so that a run is quick."""
    from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS

    return tasks.register(
        tasks.TextTask(
            "demo_few",
            {"train": _short_rows, "validation": _few_rows},
            inputs=DEMO_REVIEWS.inputs,
            targets=DEMO_REVIEWS.targets,
        )
    ).name


def _short_rows(split="train"):
    from prompt_tuning_demo.demo_tasks import review_rows

    return [row for row in review_rows(split) if len(row["text"]) < SHORT]


def _few_rows():
    return _short_rows("validation")[:32]


@pytest.mark.parametrize("initializer", compare_initializers.SCHEMES)
def test_each_initializer_trains_the_demo(initializer, few_sentences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scheme = compare_initializers.SCHEMES[initializer]
    trained = tmp_path / compare_initializers.OTHER_TASK / "prompt_1.npy"
    trained.parent.mkdir()
    np.save(trained, np.zeros((20, 128), np.float32))
    flags = RunFlags(
        gin_files=("runs/demo.gin", scheme.gin_file),
        gin_bindings=(
            "MODEL_DIR = 'run'",
            "TRAIN_STEPS = 20",
            "HOOKS = ()",
            f"MIXTURE_OR_TASK_NAME = '{few_sentences}'",
            *scheme.bindings,
        ),
    )
    gin_config.parse(flags, engine="local")
    run = training.train(gin.get_configurable(options.TrainingOptions)())
    loss = run.history["train/loss"]
    assert loss[20] < loss[1]
    stored = (tmp_path / "run" / "prompt_20.npy").read_bytes()
    assert stored.startswith(b"\x93NUMPY")
    assert f"@prompt_init/plugins.{initializer}()" in (tmp_path / "run" / "config.gin").read_text()


def command(arguments, folder):
    finished = subprocess.run(
        [sys.executable, "-m", "prompt_tuning_core", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def short_sentences():
    """Lets this process read the short sentences alone; scoring all of them takes a minute."""
    corpus, plot_sentences = reviews.read_corpus(), reviews.plot_sentences
    short = {
        split: tuple(review for review in some if len(review.text) < SHORT)
        for split, some in corpus.reviews.items()
    }
    part = dataclasses.replace(corpus, reviews=short)

    def short_plot_sentences(corpus, split):
        return (text for text in plot_sentences(corpus, split) if len(text) < SHORT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reviews, "read_corpus", lambda: part)
        patch.setattr(reviews, "plot_sentences", short_plot_sentences)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, short_sentences):
    """Few steps of both of the demo's tasks, in a folder of its own, and what they printed.

    What the numbers are is measured by `make demo`.
    """
    folder = tmp_path_factory.mktemp("demo")

    def run(*arguments):
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.chdir(folder):
            assert main(["train", *arguments]) == 0
        return printed.getvalue()

    printed = run("--gin_file=runs/demo.gin", "--gin.MODEL_DIR='run'", "--gin.TRAIN_STEPS=2")
    run(
        "--gin_file=runs/demo_plot_or_review.gin",
        "--gin.MODEL_DIR='other'",
        "--gin.TRAIN_STEPS=1",
        "--gin.RANDOM_SEED=3",
    )
    return SimpleNamespace(
        folder=folder,
        printed=printed,
        result=json.loads((folder / "run" / "held_out.json").read_text()),
        other=json.loads((folder / "other" / "held_out.json").read_text()),
    )


def test_the_demo_from_any_directory_ends_in_its_table(trained):
    result, printed = trained.result, trained.printed
    for name, value in result["rows"].items():
        assert 0 <= value <= 1
        assert f"{value:.3f}" in printed, name
    assert len(result["rows"]) == 5
    held_out = tasks.get("demo_reviews").examples("test")
    assert result["examples"] == len(held_out)
    majority = result["rows"]["always 'positive'"]
    assert majority == pytest.approx(np.mean([e.targets == "positive" for e in held_out]))
    assert f"{len(held_out)} held-out sentences" in printed
    # Below it, what was measured once.
    measured = baselines.read()
    for one in measured.baselines:
        assert re.search(rf"{re.escape(one.name)} \* .* {one.mean:.3f} ", printed), one.name
    assert f"Measured once, on {measured.date}" in printed


def test_the_other_task_is_compared_with_its_own_prefix(trained):
    rows = trained.other["rows"]
    assert trained.other["examples"] > trained.result["examples"]
    assert rows["best text prefix, 'plot or review: '"] > 0.8
    assert rows["untrained prompt"] < 0.1


def test_the_tables_of_several_runs_have_prompts_on_each_others_task(trained, tmp_path, capsys):
    result, other = trained.result, trained.other
    for run in ("run", "other"):
        shutil.copytree(trained.folder / run, tmp_path / run)
    again = tmp_path / "run_again"
    again.mkdir()
    changed = {**result, "seed": 5, "rows": {**result["rows"], "trained prompt": 1.0}}
    (again / "held_out.json").write_text(json.dumps(changed))
    demo_table.main([str(tmp_path)])
    mean = (1 + result["rows"]["trained prompt"]) / 2
    table = capsys.readouterr().out
    assert "seed 5" in table
    assert f"{mean:.3f}" in table
    own, others = other["rows"]["trained prompt"], result["rows"]["trained prompt"]
    for row in (
        rf"prompt for demo_reviews, seed 0 .* {others:.3f} .* 0\.\d{{3}} ",
        rf"prompt for demo_plot_or_review, seed 3 .* 0\.\d{{3}} .* {own:.3f} ",
    ):
        assert re.search(row, table), table


def test_the_prompt_answers_a_persons_own_sentences(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("a wonderful, moving film .\ndull and far too long .\n")
    command(
        [
            "infer",
            "--gin_file=models/demo_prompt.gin",
            "--gin_file=runs/prompt_infer.gin",
            f"--gin.PROMPT_FILE='{trained.folder / 'run'}'",
            "--gin.INFER_INPUT_FILE='mine.txt'",
            "--gin.INFER_OUTPUT_DIR='.'",
        ],
        tmp_path,
    )
    lines = (tmp_path / "mine.txt-predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["inputs"] for line in lines] == [
        "a wonderful, moving film .",
        "dull and far too long .",
    ]
