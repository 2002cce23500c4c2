"""Hooks, initializers and prompt modules of Python files in the working directory, unpackaged."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re

import pytest
import safetensors.numpy
from tiny import TINY, gin_flags, training_flags

from prompt_tuning_core.commands.main import main as run_main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]

HOOKS = """
import dataclasses
import gin
from prompt_tuning_core.hookspecs import hookimpl

@dataclasses.dataclass
class Seen:
    steps: "list[int]"

SEEN = Seen([])

@gin.configurable(module="hooks_of_mine")
def word(value="said"):
    return value

@hookimpl
def step_logged(step):
    SEEN.steps.append(step)
    return step == 2

@hookimpl
def run_finished(run):
    print(word(), SEEN.steps)
"""
PARTS = """
import jax.numpy as jnp
from prompt_tuning_core.prompts import InputPrompt

def halves(scale=1.0):
    return lambda rng, shape: jnp.full(shape, scale / 2)

class Scaled(InputPrompt):
    factor: float = 2.0

    def setup(self):
        self.own = self.parameter("own", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens, embedded):
        return self.factor * self.own[None]
"""
MODULE_GIN = """
from __gin__ import dynamic_registration
import parts_of_mine

PROMPT = @parts_of_mine.Scaled
parts_of_mine.Scaled.factor = 3.0
"""
GIN = f"""{MODULE_GIN}
import hooks_of_mine
from prompt_tuning_core import prompts

prompts.make.prompt_init = @parts_of_mine.halves()
parts_of_mine.halves.scale = 0.5
HOOKS = ['tools/hooks_of_mine.py']
hooks_of_mine.word.value = 'wrote'
"""


@pytest.fixture(scope="module")
def run_once(make_project):
    """The folder of a run with all of them, and the run's output."""
    folder = make_project()
    (folder / "parts_of_mine.py").write_text(PARTS)
    path = folder / "tools" / "hooks_of_mine.py"
    path.parent.mkdir()
    path.write_text(HOOKS)
    (folder / "module.gin").write_text(MODULE_GIN)
    (folder / "own.gin").write_text(GIN)
    # The flag is another path of the same file.
    flags = ["--gin_file=own.gin", f"--hooks={path}", "--gin.RECORD_SETTINGS=False"]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as output:
        assert run_main(["train", *training_flags(), *flags]) == 0
    return folder, output.getvalue()


def test_hooks_of_a_file_run_and_are_recorded(run_once):
    folder, output = run_once
    assert "wrote [1, 2]\n" in output
    source = (folder / "tools" / "hooks_of_mine.py").read_bytes()
    record = {"kind": "hooks", "name": "hooks_of_mine"}
    record["version"] = f"sha256:{hashlib.sha256(source).hexdigest()}"
    of_run, of_prompt = (
        [
            one
            for one in json.loads((folder / "run" / name).read_text())["plugins"]
            if one["kind"] == "hooks"
        ]
        for name in ("run.json", "prompt_2.json")
    )
    assert of_run[0] == {**record, "distribution": "tools/hooks_of_mine.py"}
    # RECORD_SETTINGS leaves paths out.
    assert of_prompt[0] == {**record, "distribution": "hooks_of_mine.py"}


def test_an_initializer_and_a_prompt_module_of_a_file_train_and_are_used(run_once, run_here):
    folder, _ = run_once
    arrays = safetensors.numpy.load_file(folder / "run" / "prompt_0.safetensors")
    assert (arrays["encoder/prompt/own"] == 0.25).all()
    macros = {**TINY, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run", "EVAL_OUTPUT_DIR": "out"}
    files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_eval.gin"]
    evaluate = ["eval", *(f"--gin_file={file}" for file in files), *gin_flags(**macros)]
    finished = run_here([*evaluate, "--gin_file=module.gin"], folder)
    assert finished.returncode == 0, finished.stderr
    found, expected = (
        json.loads((folder / name).read_text())["exact_match"]
        for name in ("out/toy-test-metrics.json", "run/toy-validation-metrics.json")
    )
    assert found == expected
    # A file is never a reason to import a module.
    finished = run_here(evaluate, folder)
    assert finished.returncode == 2
    assert "write PROMPT = @parts_of_mine.Scaled" in finished.stderr


MARK = "from prompt_tuning_core.hookspecs import hookimpl\n@hookimpl\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, r"--hooks: hooks file faulty_hooks.py: there is no such file$"),
        ("\n\nx = 1 / 0\n", r"hooks.py fails to import: ZeroDivision.*/faulty_hooks.py:3\)"),
        ("def f(:\n", r"fails to import: SyntaxError: invalid syntax \(faulty_hooks.py, line 1\)$"),
        ("raise SystemExit\n", r"hooks.py fails to import: SystemExit \(.*faulty_hooks.py:1\)"),
        (
            f"{MARK}def step_loged(step): pass\n",
            r"file faulty_hooks.py has an invalid hook: .*'step_loged'.*/faulty_hooks.py:2\)$",
        ),
        (f"{MARK}def step_logged(stp): pass\n", r"invalid hook: .*'stp'.*/faulty_hooks.py:2\)$"),
        ("x = 1\n", "faulty_hooks.py has no function marked by .*hookimpl"),
        (
            f"{MARK}def prompt_initialized(prompt):\n    1 / 0\n",
            r"hooks file faulty_hooks.py fails at \S+/faulty_hooks.py:4: ZeroDivisionError",
        ),
    ],
)
def test_a_fault_of_a_file_is_one_line_with_its_place(project, main, monkeypatch, source, expected):
    monkeypatch.chdir(project)
    if source is not None:
        (project / "faulty_hooks.py").write_text(source)
    code, _, error = main("train", *training_flags(TRAIN_STEPS=1), "--hooks=faulty_hooks.py")
    assert code == 2
    (line,) = [one for one in error.splitlines() if ": warning: " not in one]
    assert re.search(expected, line), line


def test_a_list_of_allowed_plugins_is_for_files_too(project, main, monkeypatch):
    monkeypatch.chdir(project)
    (project / "unwanted_hooks.py").write_text(f"{MARK}def step_logged(step): pass\n")
    flags = [*training_flags(), "--hooks=unwanted_hooks.py", "--block-plugin=unwanted_hooks"]
    code, _, error = main("train", *flags)
    assert code == 2
    assert "hooks file unwanted_hooks.py may not be used: 'unwanted_hooks' is blocked" in error
