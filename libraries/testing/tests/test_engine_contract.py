"""The contract of engines: each check finds its faults, and our own engine passes."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from prompt_tuning_core import registry
from prompt_tuning_testing import check_plugin, checks
from prompt_tuning_testing.engine_checks import ENGINE_CHECKS, engine_subject

BY_NAME = {check.name: check for check in ENGINE_CHECKS}

SOUND = '''\
import json
from pathlib import Path

import numpy as np

from prompt_tuning_core import gin_config, registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import prompt_files

GIN = """
from __gin__ import dynamic_registration
import MODULE
MODULE.Settings.steps = 3
MODULE.Settings.directory = %MODEL_DIR
"""


class Settings:
    def __init__(self, steps, directory):
        self.steps, self.directory = steps, Path(directory)


class Engine:
    @staticmethod
    def sample_flags(folder):
        (folder / "sample.gin").write_text(GIN)
        return {"train": ["--gin_file=sample.gin"], "eval": ["--gin_file=sample.gin"]}

    def missing(self):
        return None

    def train(self, flags):
        refuse(flags)
        parsed = gin_config.parse(flags, "NAME")
        settings = make_settings()
        hook = registry.process_registry().load_hooks(parsed.hooks)
        prompt = np.zeros((2, 3), np.float32)
        hook.prompt_initialized(prompt=prompt, parameters={"p": prompt}, provenance={})
        step = 0
        while step < settings.steps:
            step, prompt = step + 1, prompt + np.float32(0.5)
            if True in hook.step_logged(step=step, metrics={"loss": 1.0}):
                break
        path = settings.directory / f"prompt_{step}.npy"
        prompt_files.save(path, prompt, {"step": step})
        hook.prompt_saved(paths=[path], provenance=prompt_files.read_provenance(path))
        hook.run_finished(run=path)

    def eval(self, flags):
        refuse(flags)
        hook = registry.process_registry().load_hooks(flags.hooks)
        path = prompt_files.newest("run")
        Path("metrics.json").write_text(json.dumps({"mean": float(np.load(path).mean())}))
        hook.evaluated(step=3, metrics={"mean": float(np.load(path).mean())})

    def infer(self, flags):
        refuse(flags)
        raise InputError("it has no model to infer with")


def make_settings():
    import gin

    return gin.get_configurable(Settings)()


def refuse(flags):
    if flags.extra:
        raise InputError(f"unknown flag {flags.extra[0]}")
'''
SAVE = '        prompt_files.save(path, prompt, {"step": step})\n'
INITIALIZED = (
    '        hook.prompt_initialized(prompt=prompt, parameters={"p": prompt}, provenance={})\n'
)
FINISHED = "        hook.run_finished(run=path)\n"


class Planted(NamedTuple):
    """A change of the sound engine, the check that must find it, and a part of what it says."""

    check: str
    old: str
    new: str
    says: str


PLANTED = [
    Planted("made", "def train(self, flags):", "def train(self, flags, more):", "does not take"),
    Planted("made", "def missing(self):\n        return None", "def missing(self):\n"
            "        return False", "missing() returns False"),
    Planted("trains", SAVE, "", "writes no prompt_STEP.npy"),
    Planted("trains", "prompt_{step}.npy", "weights_{step}.npy", "writes no prompt_STEP.npy"),
    Planted("trains", SAVE, SAVE + "        path.with_suffix('.json').unlink()\n", "no provenance"),
    Planted("trains", SAVE, SAVE + "        Path('sample.gin').write_text('')\n", "sample.gin"),
    Planted("trains", "np.float32(0.5)", "np.float32('nan')", "is not finite"),
    Planted("trains", "settings.directory /", "Path('run_of_mine') /", "writes no prompt_STEP.npy"),
    Planted("trains", 'parse(flags, "NAME")', 'parse(flags.__class__(flags.gin_files, '
            'flags.gin_bindings, (), flags.hooks), "NAME")', "own.gin"),
    Planted("repeats", "np.zeros((2, 3), np.float32)",
            "np.random.default_rng().random((2, 3), np.float32)", "has other values"),
    Planted("calls_hooks", "load_hooks(parsed.hooks)", "load_hooks(())",
            "calls prompt_initialized 0"),
    Planted("calls_hooks", FINISHED, FINISHED + FINISHED, "calls run_finished 2 times"),
    Planted("calls_hooks", FINISHED, "", "calls run_finished 0 times"),
    Planted("calls_hooks", INITIALIZED, INITIALIZED + INITIALIZED, "calls prompt_initialized 2"),
    Planted("gives_hooks", 'parameters={"p": prompt}', "parameters={}", "gets no parameters"),
    Planted("gives_hooks", 'parameters={"p": prompt}', 'parameters={"p": prompt.astype(float)}',
            "as float64, expected float32"),
    Planted("gives_hooks", '{"loss": 1.0}', '{"loss": float("inf")}', "the metric 'loss' as inf"),
    Planted("gives_hooks", '{"loss": 1.0}', '{"loss": np.ones(2)}', "the metric 'loss' as array"),
    Planted("gives_hooks", "provenance=prompt_files.read_provenance(path)",
            'provenance={"step": 3}', "gets another provenance"),
    Planted("ends_early", "                break\n", "                pass\n",
            "prompt_3.npy is the last"),
    Planted("refuses_flags", "    if flags.extra:", "    if not flags:", "ends with exit code 0"),
    Planted("refuses_flags", "unknown flag {flags.extra[0]}", "bad flag", "does not name"),
    Planted("refuses_gin", 'parse(flags, "NAME")', 'parse(flags.__class__(flags.gin_files, '
            'flags.gin_bindings[:1], flags.gin_search_paths, flags.hooks), "NAME")',
            "--gin.no_such_function.x=1 ends with exit code 0"),
    Planted("hook_fails", INITIALIZED, "        try:\n    " + INITIALIZED
            + "        except RuntimeError:\n            pass\n", "ends with exit code 0"),
    Planted("hook_fails", INITIALIZED, "        prompt_files.save("
            "settings.directory / 'prompt_3.npy', prompt, {})\n" + INITIALIZED,
            "leaves refused/prompt_3"),
    Planted("evaluates", "        hook.evaluated(", "        (lambda **_: None)(", "never calls"),
    Planted("evaluates", '"mean": float(np.load(path).mean())})\n\n    def infer',
            '"mean": float("nan")})\n\n    def infer', "gives the metrics"),
    Planted("evaluates", 'Path("metrics.json")', 'Path("run/prompt_3.json")', "changes files of"),
    Planted("infers", 'raise InputError("it has no model to infer with")', "return",
            "ends with exit code 0"),
]  # fmt: skip


def installed(site, number, source):
    name = f"engine_with_fault_{number}"
    module = f"module_of_{name}"
    source = source.replace("MODULE", module).replace("NAME", name)
    site.distribution(
        f"d{number}", {"engines": {name: f"{module}:Engine"}}, {f"{module}.py": source}
    )
    registry.configure()
    return registry.process_registry().load("engine", name)


@pytest.mark.parametrize("number", range(len(PLANTED)), ids=lambda n: f"{PLANTED[n].check} {n}")
def test_each_planted_fault_is_found_by_its_check(in_process, number):
    case = PLANTED[number]
    assert case.old in SOUND
    engine = installed(in_process, number, SOUND.replace(case.old, case.new))
    found = checks.run(BY_NAME[case.check], engine_subject(engine))
    assert found.outcome == "failed", found
    assert case.says in found.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED} == BY_NAME.keys()


def test_a_sound_engine_passes(in_process):
    results = check_plugin(installed(in_process, "none", SOUND), "engine")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}


def test_an_engine_that_is_not_installed_or_lacks_something_is_not_tried(in_process):
    class Engine:
        def train(self, flags): ...

        eval = infer = train

    found = {result.name: result for result in check_plugin(Engine, "engine")}
    assert found["made"].outcome == "passed"
    assert "is no installed plugin; run: pip install ." in found["trains"].detail
    lacking = SOUND.replace("return None", "return 'a_framework'")
    results = check_plugin(installed(in_process, "lacks", lacking), "engine")
    found = {result.name: result for result in results}
    assert "needs a_framework, which is not installed" in found["trains"].detail


@pytest.mark.slow
def test_our_own_engine_keeps_the_contract(in_process):
    local = registry.process_registry().load("engine", "local")
    results = check_plugin(local, "engine")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}
