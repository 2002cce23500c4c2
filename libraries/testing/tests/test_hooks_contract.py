"""The contract of hooks plugins: each check finds its faults, and sound plugins pass."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.hookspecs import hookimpl
from prompt_tuning_testing import check_plugin, checks, parametrize_with_checks
from prompt_tuning_testing.hooks_checks import HOOKS, HOOKS_CHECKS, hooks_subject
from prompt_tuning_testing.strangers import STRANGERS

BY_NAME = {check.name: check for check in HOOKS_CHECKS}
FIRST_PARTY = [p.name for p in registry.Registry().discover() if p.kind == "hooks"]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Prompt files are written to disk before they have their names; that is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Sound:
    """Takes all hooks, remembers its first value, and writes a file beside the prompt."""

    def __init__(self):
        self.first = None

    @hookimpl
    def prompt_initialized(self, prompt, parameters):
        assert prompt is None or prompt.shape in {(3, 8), (5, 8)}
        self.first = {name: value.copy() for name, value in parameters.items()}

    @hookimpl
    def step_logged(self, step, metrics):
        return False if metrics["loss"] < 3 else None

    @hookimpl
    def evaluated(self, step, metrics):
        sys.stdout.write(f"{step} {metrics}")

    @hookimpl
    def prompt_saved(self, paths, provenance):
        Path(paths[0]).with_name("mine.txt").write_text(str(provenance["step"]))

    @hookimpl
    def run_finished(self, run):
        (run.directory / "done").touch()


class EndsTraining:
    def __init__(self):
        self.steps = set()

    @hookimpl
    def step_logged(self, step, metrics):
        self.steps.add(step)
        return metrics["loss"] < 5


class MarksNothing:
    def __call__(self):
        return None


class MarksAnUnknownHook:
    @hookimpl
    def prompt_save(self, paths):
        pass


class ForgetsTheMark:
    @hookimpl
    def evaluated(self, step):
        pass

    def step_logged(self, step, metrics):
        pass


class ForgetsTheMarkOfNearlyAHook(MarksNothing):
    @hookimpl
    def evaluated(self, step):
        pass

    def steps_logged(self, step, metrics):
        pass


class WantsMore:
    @hookimpl
    def evaluated(self, step, metrics, task):
        pass


class HasADefault:
    @hookimpl
    def evaluated(self, step, metrics=None):
        pass


class WantsAKeyword:
    @hookimpl
    def evaluated(self, step, *, metrics):
        pass


class NeedsTraining:
    @hookimpl
    def prompt_initialized(self, prompt):
        self.losses = []

    @hookimpl
    def evaluated(self, step):
        self.losses.append(step)


class NeedsAFirstValue:
    @hookimpl
    def prompt_initialized(self, parameters):
        self.first = parameters

    @hookimpl
    def prompt_saved(self, paths):
        return len(self.first)


class NeedsPaths:
    @hookimpl
    def prompt_saved(self, paths):
        return paths[0].stem


class NeedsTexts:
    @hookimpl
    def prompt_saved(self, paths):
        return paths[0].replace(".npy", ".txt")


class NeedsSettings:
    @hookimpl
    def prompt_initialized(self, provenance):
        return provenance["config"]


class Exits:
    @hookimpl
    def step_logged(self, step):
        raise SystemExit(f"step {step}")


class ReturnsOne:
    @hookimpl
    def step_logged(self, step):
        return 1


class ReturnsANumber:
    @hookimpl
    def step_logged(self, metrics):
        return np.float32(metrics["loss"]) < 3


class NeedsAMatrix:
    @hookimpl
    def prompt_initialized(self, prompt):
        return np.linalg.norm(prompt)


class ReadsNpyOnly:
    @hookimpl
    def prompt_saved(self, paths):
        for path in paths:
            np.load(path)


class KeepsTheFirstRun:
    def __init__(self):
        self.first = None

    @hookimpl
    def prompt_initialized(self, prompt):
        self.first = prompt.copy() if self.first is None else self.first
        return prompt - self.first


class ScalesArrays:
    @hookimpl
    def prompt_initialized(self, parameters):
        for value in parameters.values():
            value *= 2


class RemovesFacts:
    @hookimpl
    def prompt_saved(self, provenance):
        provenance["prompt_module"].pop("fields")


class AddsAMetric:
    @hookimpl
    def step_logged(self, metrics):
        metrics["mine"] = 1.0


class OverwritesTheFile:
    @hookimpl
    def prompt_saved(self, paths):
        Path(paths[0]).write_bytes(b"")


class RemovesTheProvenance:
    @hookimpl
    def prompt_saved(self, paths):
        Path(paths[0]).with_suffix(".json").unlink()


class NeedsToWrite:
    @hookimpl
    def prompt_initialized(self, parameters):
        for value in parameters.values():
            value += 0


class NeedsAccuracy:
    @hookimpl
    def evaluated(self, metrics):
        return metrics["accuracy"]


class NeedsAMetric:
    @hookimpl
    def evaluated(self, metrics):
        return max(metrics.values())


class RoundsMetrics:
    @hookimpl
    def evaluated(self, metrics):
        return [round(value) for value in metrics.values()]


class RefusesNaN:
    @hookimpl
    def step_logged(self, metrics):
        if any(map(math.isnan, metrics.values())):
            raise InputError("the loss is no number")


class DividesByTheRun:
    @hookimpl
    def run_finished(self, run):
        return run.directory / 2


class SampleOfAnotherEngine:
    sample_run = staticmethod(lambda folder: object())

    @hookimpl
    def run_finished(self, run):
        return run.history


class Planted(NamedTuple):
    """A plugin with a fault, the check that must find it, and a part of what it says."""

    check: str
    plugin: Any
    says: str


PLANTED = [
    Planted("marked", MarksNothing, "no function is marked"),
    Planted("marked", MarksAnUnknownHook, "there is no hook 'prompt_save'; write prompt_saved"),
    Planted("names", ForgetsTheMark, "'step_logged' without @hookimpl"),
    Planted("names", ForgetsTheMarkOfNearlyAHook, "mark it as the hook 'step_logged'"),
    Planted("arguments", WantsMore, "{'task'}"),
    Planted("arguments", HasADefault, "write 'metrics' without"),
    Planted("arguments", WantsAKeyword, "write 'metrics' without"),
    Planted("eval_alone", NeedsTraining, "evaluated raises AttributeError"),
    Planted("resumed_run", NeedsAFirstValue, "prompt_saved raises AttributeError"),
    Planted("plain_run", NeedsPaths, "paths are texts: prompt_saved raises AttributeError"),
    Planted("plain_run", NeedsTexts, "paths are Paths: prompt_saved raises TypeError"),
    Planted("plain_run", NeedsSettings, "prompt_initialized raises KeyError: 'config'"),
    Planted("plain_run", Exits, "step_logged raises SystemExit: step 1"),
    Planted("answers", ReturnsOne, "returned [1]"),
    Planted("answers", ReturnsANumber, "step_logged returned [np.False_]"),
    Planted("module_run", NeedsAMatrix, "no plain prompt, paths are Paths: prompt_initialized"),
    Planted("module_run", ReadsNpyOnly, "prompt_saved raises ValueError"),
    Planted("two_runs", KeepsTheFirstRun, "raises ValueError: operands could not be broadcast"),
    Planted("changes_nothing", ScalesArrays, "changes parameters of prompt_initialized"),
    Planted("changes_nothing", RemovesFacts, "changes provenance of prompt_saved"),
    Planted("changes_nothing", AddsAMetric, "changes metrics of step_logged"),
    Planted("changes_nothing", OverwritesTheFile, "changed the file prompt_0.npy"),
    Planted("changes_nothing", RemovesTheProvenance, "removed prompt_0.json"),
    Planted("changes_nothing", NeedsToWrite, "read-only"),
    Planted("other_metrics", NeedsAccuracy, "evaluated raises KeyError: 'accuracy'"),
    Planted("other_metrics", NeedsAMetric, "evaluated raises ValueError"),
    Planted("not_finite", RoundsMetrics, "evaluated raises ValueError"),
    Planted("not_finite", RefusesNaN, "step_logged raises InputError: the loss is no number"),
    Planted("run_finished", DividesByTheRun, "run_finished raises TypeError"),
    Planted("run_finished", SampleOfAnotherEngine, "no attribute 'history'"),
]


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.plugin.__name__)
def test_each_planted_fault_is_found_by_its_check(case):
    result = checks.run(BY_NAME[case.check], hooks_subject(case.plugin()))
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED} == BY_NAME.keys()


def test_all_hooks_of_the_core_are_known():
    assert set(HOOKS) == {
        "prompt_initialized", "step_logged", "evaluated", "prompt_saved", "run_finished"
    }  # fmt: skip


@parametrize_with_checks(Sound(), kind="hooks")
def test_a_sound_plugin_keeps_the_contract(check, capsys):
    check()
    assert capsys.readouterr() == ("", "")


def test_a_run_ends_when_a_plugin_ends_it():
    plugin = EndsTraining()
    check_plugin(plugin, "hooks").raise_if_failed()
    assert plugin.steps == {1, 2, 3}  # A resumed run begins with step 3.


def test_a_class_is_refused():
    with pytest.raises(InputError, match="Sound: the plugin names a class, and hooks are"):
        check_plugin(Sound, "hooks")


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_our_own_hooks_keep_the_contract(name):
    results = check_plugin(registry.process_registry().load("hooks", name), "hooks")
    results.raise_if_failed()
    skipped = {result.name for result in results if result.outcome == "not tried"}
    # It takes the runs of one engine only.
    assert skipped == ({"run_finished"} if name == "demo_table" else set())
    assert ("declare a function sample_run(folder)" in str(results)) == (name == "demo_table")


def test_there_are_hooks_of_our_own():
    assert FIRST_PARTY == ["demo_table", "recorded_events"]


def test_a_run_that_the_author_gives():
    class WantsATask:
        @hookimpl
        def run_finished(self, run):
            seen.append(run["task"])

    seen: list[str] = []
    results = check_plugin(WantsATask(), "hooks", lambda folder: {"task": folder.is_dir()})
    assert {result.outcome for result in results} == {"passed"}
    assert seen
    assert set(seen) == {True}


def test_a_strangers_hooks_keep_the_contract(in_process):
    STRANGERS["hooks"].put(in_process)
    registry.configure()
    plugin = registry.process_registry().load("hooks", "tell")
    results = check_plugin(plugin, "hooks")
    assert {result.outcome for result in results} == {"passed"}, str(results)


def test_a_new_project_keeps_the_contract(new_module):
    results = check_plugin(new_module("hooks_of_a_test", "hooks"), "hooks")
    assert {result.outcome for result in results} == {"passed"}, str(results)
