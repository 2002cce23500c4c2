"""Faults of a stranger's plugin: each is one line that names it, with file and line."""

from __future__ import annotations

import re
import textwrap

import pytest
from tiny import training_flags

from prompt_tuning_core import registry

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

INITIALIZER = """
import sys
import jax.numpy as jnp
import numpy as np

def factory():
    {factory}
    def initializer(rng, shape):
        {initializer}
        return jnp.zeros(shape)
    return initializer
"""

PROMPT = """
import jax.numpy as jnp
from prompt_tuning_core.prompts import InputPrompt

class factory(InputPrompt):
    def setup(self):
        self.own = self.parameter("own", self.prompt_init, (self.length, self.stack.width))
        {setup}
    def rows(self, tokens, embedded):
        {rows}
        return self.own[None]
    def penalty(self):
        {penalty}
        return 0.0
    def report(self):
        {report}
        return {{}}
    def matrix(self):
        {matrix}
        return self.own
    def is_trained(self, path):
        {is_trained}
        return True
"""

HOOKS = """
import sys
from prompt_tuning_core.hookspecs import hookimpl
{module}
@hookimpl
def prompt_initialized(prompt):
    {prompt_initialized}
    pass
@hookimpl
def step_logged(step):
    {step_logged}
    pass
@hookimpl
def evaluated(step):
    {evaluated}
    pass
@hookimpl
def prompt_saved(provenance):
    {prompt_saved}
    pass
@hookimpl
def run_finished(run):
    {run_finished}
    pass
"""

TASKS = """
import sys
import prompt_tuning_tasks as tasks
{module}
def rows():
    {rows}
    return [{{"text": "this is", "label": "that"}}] * 3
def metric(targets, predictions):
    {metric}
    return {{"mine": 1.0}}
tasks.register(tasks.TextTask(
    "{name}", {{"train": rows, "validation": rows}}, inputs="{{text}}", targets="{{label}}",
    metrics=[metric],
))
"""

PLUGIN = r"plugin '\w+' of stranger-\d+ 1.0"
FAILS = rf"{PLUGIN} fails at \S+module_\d+\.py:\d+"

# What code raises, and the message. A ValueError may be about a user's value.
RAISES = {
    "raise ValueError('too odd')": rf"{PLUGIN}: too odd \(\S+module_\d+\.py:\d+\)",
    "np.linalg.inv(np.zeros((2, 3)))": rf"{PLUGIN}: Last 2 dimensions .* \(\S+\.py:\d+\)",
    "{}['gone']": f"{FAILS}: KeyError: 'gone'; --traceback shows all",
    "open('/no/such')": f"{FAILS}: FileNotFoundError: .*No such file",
    "sys.exit(0)": f"{FAILS}: SystemExit: 0",
    "assert False, 'odd'": f"{FAILS}: AssertionError: odd",
}

FAULTS = [
    # An initializer: its factory, itself, and what it returns.
    *(
        ("initializer", {place: code}, message)
        for place in ("factory", "initializer")
        for code, message in RAISES.items()
    ),
    ("initializer", {"initializer": "return jnp.zeros((6, 32))"},
     r"initializer of 'prompt' returned float32 \[6, 32\], expected .* shape \[5, 32\]"),
    ("initializer", {"initializer": "return jnp.zeros((5, 31))"}, r"returned float32 \[5, 31\]"),
    ("initializer", {"initializer": "return jnp.zeros(shape, int)"}, "returned int32"),
    ("initializer", {"initializer": "return jnp.zeros(shape, complex)"}, "returned complex64"),
    ("initializer", {"initializer": "return jnp.zeros(shape, bool)"}, "returned bool"),
    ("initializer", {"initializer": "return jnp.full(shape, jnp.nan)"},
     "'prompt/prompt' has values that are not finite; set another initializer"),
    ("initializer", {"initializer": "return [[0] * 32] * 5"}, "returned int32"),
    ("initializer", {"initializer": "return [[0.5]]"}, r"returned float32 \[1, 1\]"),
    ("initializer", {"initializer": "return 'text'"}, "'text'|text"),
    ("initializer", {"initializer": "return None"}, "None"),
    ("initializer", {"factory": "return 3"}, "takes no key and shape .3 is not a callable"),
    # A prompt module: each of its methods.
    *(
        ("prompt", {method: "raise RuntimeError('cannot')"},
         f"prompt {FAILS}: RuntimeError: cannot")
        for method in ("setup", "rows", "penalty", "report", "matrix", "is_trained")
    ),
    ("prompt", {"penalty": "return jnp.zeros(3)"}, r"penalty returned float32 \[3\], expected a"),
    ("prompt", {"penalty": "return jnp.nan"}, "penalty returned nan, expected a finite number"),
    ("prompt", {"report": "return {'x': jnp.ones(2)}"}, r"report of 'x' returned float32 \[2\]"),
    ("prompt", {"rows": "return self.own"}, r"rows returned the shape \[5, 32\], expected"),
    ("prompt", {"matrix": "return self.own[:2]"}, r"matrix returned float32 \[2, 32\], expected"),
    # Hooks: each of them, and the module.
    *(
        ("hooks", {hook: "raise RuntimeError('cannot')"},
         f"hooks {FAILS}: RuntimeError: cannot")
        for hook in
        ("prompt_initialized", "step_logged", "evaluated", "prompt_saved", "run_finished")
    ),
    ("hooks", {"module": "sys.exit(0)"}, f"{PLUGIN} fails to import: SystemExit: 0"),
    # Tasks: the module, the rows and a metric.
    ("tasks", {"module": "1 / 0"}, f"{PLUGIN} fails to import: ZeroDivisionError"),
    ("tasks", {"module": "sys.exit(0)"}, f"{PLUGIN} fails to import: SystemExit: 0"),
    ("tasks", {"rows": "raise RuntimeError('cannot')"}, f"{FAILS}: RuntimeError: can"),
    ("tasks", {"rows": "sys.exit(0)"}, f"{FAILS}: SystemExit: 0"),
    ("tasks", {"rows": "return 3"}, "3|int"),
    ("tasks", {"rows": "return [3]"}, "3|int"),
    ("tasks", {"metric": "raise RuntimeError('cannot')"}, f"{FAILS}: RuntimeError: c"),
    ("tasks", {"metric": "return 0.5"}, "metric"),
    ("tasks", {"metric": "return {'mine': 'high'}"}, "metric"),
]  # fmt: skip

TEMPLATES = {"initializer": INITIALIZER, "prompt": PROMPT, "hooks": HOOKS, "tasks": TASKS}


@pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning")  # Its table is tiny.
def test_each_fault_is_one_line(project, site, main, monkeypatch):
    monkeypatch.chdir(project)
    for number, (kind, faults, _) in enumerate(FAULTS):
        write_plugin(site, number, kind, faults)
    registry.configure()
    wrong = []
    for number, (kind, faults, expected) in enumerate(FAULTS):
        code, _, error = main("train", *arguments_of(kind, f"{kind}_{number}", f"run_{number}"))
        lines = [n for n in error.splitlines() if not n.startswith("prompt-tuning: warning")]
        if code != 2 or len(lines) != 1 or not re.search(expected, lines[0]):
            wrong.append(f"{kind} {faults}: {code} {textwrap.shorten(error, 400)}")
    assert not wrong, "\n".join(wrong)


def write_plugin(site, number, kind, faults):
    """Writes the distribution of a plugin with faults."""
    name, template = f"{kind}_{number}", TEMPLATES[kind]
    holes = dict.fromkeys(re.findall(r"(?<!{){(\w+)}(?!})", template), "")
    source = template.format(**{**holes, **faults, "name": name})
    group = {"initializer": "initializers", "prompt": "prompts"}.get(kind, kind)
    value = f"module_{number}" + (":factory" if group != kind else "")
    site.distribution(f"stranger-{number}", {group: {name: value}}, {f"module_{number}.py": source})


def arguments_of(kind, name, directory):
    """Returns the flags of a run that uses a plugin."""
    changes = {"MODEL_DIR": directory, "TRAIN_STEPS": 1, "BATCH_SIZE": 2}
    if kind == "initializer":
        flags = training_flags("prompts/from_random_uniform.gin", **changes)
        return [*flags, f"--gin.prompts.make.prompt_init=@{name}()"]
    if kind == "tasks":
        changes |= {"MIXTURE_OR_TASK_MODULE": name, "MIXTURE_OR_TASK_NAME": name}
    more = {"prompt": [f"--gin.PROMPT=@{name}"], "hooks": [f"--hooks={name}"]}
    return [*training_flags(**changes), *more.get(kind, [])]


STOPPER = """
from prompt_tuning_core.hookspecs import hookimpl

@hookimpl
def step_logged(step):
    return step == 3
"""


@pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning")  # Its table is tiny.
def test_a_hook_may_end_a_run(project, site, main, monkeypatch):
    monkeypatch.chdir(project)
    site.distribution("stopper", {"hooks": {"stopper": "stopper"}}, {"stopper.py": STOPPER})
    registry.configure()
    code, output, error = main("train", *training_flags(TRAIN_STEPS=9), "--hooks=stopper")
    assert code == 0, error
    assert output.count("step 3: ") == 1
    run = project / "run"
    assert sorted(path.name for path in run.glob("*.npy")) == [
        "prompt_0.npy", "prompt_2.npy", "prompt_3.npy",
    ]  # fmt: skip
    code, output, error = main("train", *training_flags(TRAIN_STEPS=4))
    assert code == 0, error
    assert "going on from step 3" in output


def test_nothing_of_a_stranger_reaches_the_terminal_raw(site, main):
    site.distribution(
        "painter",
        {"initializers": {"init_painter": "painter:make"}},
        {"painter.py": "make = print"},
        summary="\x1b[2J\x1b]0;title\x07" + "x" * 5000 + "\x9b2J\u202e",
    )
    registry.configure()
    code, output, error = main("list-plugins")
    assert code == 0, error
    (row,) = (line for line in output.splitlines() if "init_painter" in line)
    assert "?[2J?]0;title?xxx" in row
    assert len(row) < 600
    _, output, _ = main("list-plugins", "--json")
    assert output.replace("\n", "").isprintable()
    code, _, error = main("train", "--engine=\x1b[31mred")
    assert code == 2
    assert "\x1b" not in error
