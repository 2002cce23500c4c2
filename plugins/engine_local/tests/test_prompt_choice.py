"""The prompt module and its first value, chosen by gin files in any order, and by PROMPT_FILE."""

from __future__ import annotations

import json

import pytest
from tiny import TINY, TRAINING, gin_flags, run_command, run_python, training_flags

# A stranger's prompt module, which is plain.
MODULES = """
import jax.numpy as jnp
from prompt_tuning_core.prompts import PromptModule

class Rows(PromptModule):
    def setup(self):
        self.rows = self.param("rows", self.prompt_init, (self.length, 32))
    def input(self, tokens, embedded):
        rows = jnp.broadcast_to(self.rows, (embedded.shape[0], *self.rows.shape))
        return jnp.concatenate([rows.astype(embedded.dtype), embedded], axis=1)
    def input_mask(self, tokens):
        ones = jnp.ones((tokens.shape[0], self.length), bool)
        return jnp.concatenate([ones, tokens > 0], axis=1)

class Plain(Rows):
    def matrix(self):
        return self.rows
"""

FILES = [
    "models/t5_1_1_small_prompt.gin", "prompts/from_class_labels.gin", "task.gin", "module.gin"
]  # fmt: skip


@pytest.fixture
def strangers(project, site):
    """The project, with a stranger's modules on PYTHONPATH, and a gin file that names one."""
    entry_points = {"prompt_plain": "strangers:Plain"}
    site.distribution("strangers", {"prompts": entry_points}, {"strangers.py": MODULES})
    (project / "module.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from prompt_tuning_core import plugins\n"
        "PROMPT = @plugins.prompt_plain\n"
    )
    return project


def run(project, *arguments):
    return run_command(arguments, project, PYTHONPATH=str(project / "site"))


def refusal(finished):
    assert finished.returncode == 2, finished.stdout
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr.removeprefix("prompt-tuning: error: ").rstrip()


def test_files_in_any_order_make_the_same_prompt_or_are_refused(strangers):
    bindings = [
        *(f"{name} = {value!r}" for name, value in {**TINY, **TRAINING}.items()),
        "CLASS_LABELS = ['bad', 'this']",
    ]
    script = (
        "import itertools, json, gin\n"
        "from prompt_tuning_core import gin_config, prompts\n"
        "from prompt_tuning_core.protocols import RunFlags\n"
        "found = []\n"
        f"for files in itertools.permutations({FILES!r}):\n"
        "    flags = RunFlags((*files, 'runs/prompt_finetune.gin'), tuple("
        f"{bindings!r}))\n"
        "    try: gin_config.parse(flags, engine='local')\n"
        "    except ValueError as error: found.append([*files, str(error)]); continue\n"
        "    module = gin.get_configurable(prompts.make)()\n"
        "    init = module.prompt_init.__qualname__\n"
        "    found.append([*files, type(module).__name__, module.length, init])\n"
        "print(json.dumps(found))\n"
    )
    finished = run_python(["-c", script], strangers, PYTHONPATH=str(strangers / "site"))
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert len(found) == 24
    for *files, first in (one[:5] for one in found):
        # A later models file would reset PROMPT.
        if files.index("module.gin") < files.index("models/t5_1_1_small_prompt.gin"):
            assert "sets it to None; name the model's file before it" in first
        else:
            assert first == "Plain"
    made = {tuple(one[4:]) for one in found if len(one) > 5}
    assert made == {("Plain", 5, "init_labels.<locals>.initialize")}


def evaluation(*files, **macros):
    names = ["models/t5_1_1_small_prompt.gin", "task.gin", *files]
    values = {
        **TINY, "PROMPT_LENGTH": None, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run",
        "EVAL_OUTPUT_DIR": "out", **macros,
    }  # fmt: skip
    return ["eval", *(f"--gin_file={name}" for name in names), *gin_flags(**values)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning")  # Its table is tiny.
def test_a_strangers_plain_module_is_worth_the_same_in_eval(strangers, run_here):
    flags = [*training_flags(), "--gin.PROMPT=@plugins.prompt_plain"]
    trained = run_here(["train", *flags], strangers)
    assert trained.returncode == 0, trained.stderr
    provenance = json.loads((strangers / "run" / "prompt_4.json").read_text())
    kinds = {(plugin["kind"], plugin["name"]) for plugin in provenance["plugins"]}
    assert ("prompt", "prompt_plain") in kinds
    expected = provenance["metrics"]["validation"]["exact_match"]

    # Whatever else the files say of prompts, and wherever they say it.
    for files in (
        ["runs/prompt_eval.gin"],
        ["runs/prompt_eval.gin", "prompts/from_random_uniform.gin"],
        ["prompts/from_random_uniform.gin", "runs/prompt_eval.gin"],
    ):
        finished = run_here(evaluation(*files), strangers)
        assert finished.returncode == 0, finished.stderr
        metrics = json.loads((strangers / "out" / "toy-test-metrics.json").read_text())
        assert metrics["exact_match"] == expected

    line = refusal(run_here(evaluation("runs/prompt_eval.gin", "module.gin"), strangers))
    assert line == (
        "PROMPT makes a Plain, and PROMPT_FILE run holds a plain prompt; leave PROMPT out, or give "
        "a prompt of this module"
    )


@pytest.mark.slow
def test_a_prompt_that_is_called_is_refused(strangers):
    flags = [*training_flags(), "--gin.PROMPT=@plugins.prompt_plain()"]
    line = refusal(run(strangers, "train", *flags))
    assert line.endswith("PROMPT = @plugins.NAME, without ()")
    assert not list(strangers.glob("run/*"))
