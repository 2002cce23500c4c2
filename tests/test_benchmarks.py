"""The benchmarks run; what they measure is in benchmarks/results."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import prompt_tuning_tasks as tasks
from prompt_tuning_demo import model
from prompt_tuning_files import vocabularies

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of benchmarks/ by its bare name, as the scripts import each other."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_the_floating_point_operations_of_a_step_are_those_that_xla_counts(script):
    small = script("shapes").SIZES["small"]
    # XLA's own count, of the compiled step at the shape of T5 1.1 small, elementwise work included.
    assert script("flop").training_step(small, 8, 128, 100, 8) == pytest.approx(187.55e9, rel=0.01)


def test_rows_of_a_checkpoint_are_those_of_the_whole_table(script, monkeypatch, tmp_path):
    checkpoint_rows = script("checkpoint_rows")
    monkeypatch.setattr(checkpoint_rows, "VOCABULARY", 200)
    monkeypatch.setattr(checkpoint_rows, "WIDTH", 8)
    checkpoint_rows.write_checkpoint(tmp_path, (50, 4))
    rows, whole = (checkpoint_rows.take(way, str(tmp_path)) for way in ("rows", "whole table"))
    assert rows.shape == (100, 8)
    assert (rows == whole).all()
    assert checkpoint_rows.measure("rows", str(tmp_path))["second_call_read_bytes"] > 100 * 8 * 4


def test_a_worker_measures_each_time_it_is_asked(script, tmp_path):
    processes = script("processes")
    file = tmp_path / "steps.py"
    file.write_text(
        "import processes\nsteps = iter([3, 4])\nprocesses.answer({'step': lambda: next(steps)})"
    )
    worker = processes.Worker(
        processes.Side([sys.executable, str(file)], {"PYTHONPATH": str(BENCHMARKS)})
    )
    assert [worker.ask("step"), worker.ask("step")] == [3, 4]
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        worker.ask("step")
    worker.close()


def test_parity_records_the_largest_difference_and_still_fails(script):
    differences = script("parity").Differences()
    differences.pytest_runtest_setup(SimpleNamespace(name="test_losses[short]"))
    differences.assert_allclose([2.0, -np.inf], [4.0, -np.inf], atol=2)
    differences.assert_array_equal([5], [5])
    with pytest.raises(AssertionError):
        differences.assert_allclose(1.0, 2.0, rtol=1e-6)
    assert differences.found == {"test_losses": [0.5, 0.0]}


def test_scaling_varies_one_thing_at_a_time(script):
    scaling = script("scaling")
    reference = scaling.Point("small", 100, 128, 8)
    found = scaling.points(reference, {"batch": [1, 8], "prompt_length": [20]})
    assert found == [
        reference,
        scaling.Point("small", 100, 128, 1),
        scaling.Point("small", 20, 128, 8),
    ]


@pytest.mark.slow
def test_saving_measures_saves_and_writes_them_with_machine_and_versions(
    script, monkeypatch, tmp_path
):
    output = tmp_path / "saving.json"
    flags = ["--size=tiny", "--batch=1", "--input-length=8", "--saves=2", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["saving.py", *flags])
    script("saving").main()
    report = json.loads(output.read_text())
    assert {"date", "machine", "versions", "load_average_after"} <= set(report)
    assert len(report["runs"]["blocked_s"]) == 2
    # A prompt of 100 and a width of 16, once as the prompt file and once in the state.
    assert report["summary"]["bytes"] > 2 * 100 * 16 * 4


def test_a_model_is_loaded_from_each_form(script, tmp_path):
    model_load = script("model_load")
    paths = model_load.write(script("shapes").SIZES["tiny"], tmp_path)
    assert set(paths) == {"one file", "shards", "our own"}
    assert all(model_load.measure(path)["whole_s"] > 0 for path in paths.values())


@pytest.mark.slow
def test_decoding_measures_each_batch_size(script, tmp_path):
    arguments = argparse.Namespace(
        size="tiny", prompt_length=4, dropout=0.1, dtype="bfloat16", batches="1,2", input_length=8,
        generated=5, repeats=1, beams=2,
    )  # fmt: skip
    arguments.weights = script("random_t5").write(arguments, tmp_path)
    found = script("decoding").measure(arguments)["batches"]
    assert {batch: figures["tokens"] for batch, figures in found.items()} == {1: 5, 2: 10}
    assert all(
        len(figures["whole_s"]) == len(figures["first_s"]) == 1 for figures in found.values()
    )


SMALL_TASK = """from __gin__ import dynamic_registration

import prompt_tuning_tasks as tasks

include 'runs/demo.gin'

small/tasks.TextTask:
  splits = {{'train': '{rows}', 'validation': '{rows}', 'test': '{rows}'}}
  inputs = '{{text}}'
  targets = '{{label}}'
MIXTURE_OR_TASK_NAME = 'small'
TASK_FEATURE_LENGTHS = {{'inputs': 8, 'targets': 4}}
"""


@pytest.mark.slow
def test_variants_are_compared_and_finished_runs_are_not_repeated(
    script, monkeypatch, tmp_path, capfd
):
    compare_variants = script("compare_variants")
    rows, gin = tmp_path / "rows.tsv", tmp_path / "small.gin"
    rows.write_text("text\tlabel\n" + "a great film\tpositive\na bad film\tnegative\n" * 32)
    gin.write_text(SMALL_TASK.format(rows=rows))
    monkeypatch.setattr(compare_variants, "TASKS", {"demo_reviews": str(gin)})

    def compare(steps):
        flags = [
            "--variants=prompt_wayward", "--seeds=0", f"--steps={steps}", "--timed-steps=2",
            f"--runs={tmp_path}", f"--output={tmp_path / 'compared.json'}",
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["compare_variants.py", *flags])
        compare_variants.main()
        # All but the time of a step.
        return [
            line.split("|")[1:-2] for line in capfd.readouterr().out.splitlines() if "|" in line
        ]

    table = compare(8)
    report = json.loads((tmp_path / "compared.json").read_text())
    # A prompt of 20 x 128; the wayward one has a target as well, which is not trained.
    assert {name: one["trained_parameters"] for name, one in report["variants"].items()} == {
        "prompt_basic": 2560,
        "prompt_wayward": 2560,
    }
    assert [row[:2] for row in table[2:]] == [
        [" `prompt_basic` ", " 2,560 "],
        [" `prompt_wayward` ", " 2,560 "],
    ]
    assert [run["steps"] for run in report["runs"]] == [8, 8]
    assert all(len(one["step_s"]) == 2 for one in report["variants"].values())
    assert all(run["untrained"] < run["held_out"] for run in report["runs"])

    monkeypatch.setattr(compare_variants.subprocess, "run", None)
    assert compare(8) == table
    with pytest.raises(SystemExit, match="holds a run with other settings"):
        compare(9)


def test_the_multitask_prompt_finds_its_sentinel_in_front_of_the_demo_sentences(script):
    script("sentinel_tasks")
    vocabulary = vocabularies.SentencePieceVocabulary(str(model.vocabulary_path()))
    for name in script("compare_variants").TASKS:
        with_sentinel, without = (
            vocabulary.encode(tasks.get(one).examples("test")[0].inputs)
            for one in (f"{name}_sentinel", name)
        )
        assert with_sentinel == [4095, *without]
