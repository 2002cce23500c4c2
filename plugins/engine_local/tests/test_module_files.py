"""A stranger's prompt module that is not plain: trained, resumed and evaluated from its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from tiny import TINY, gin_flags, training_flags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]

# It acts within layers, has a list of submodules called `layers`, which `prefix` alone calls, and a
# part that is not trained.
MODULE = """
import jax.numpy as jnp
from flax import linen as nn
from prompt_tuning_core.prompts import InputPrompt, each

class Strange(InputPrompt):
    strength: float = 0.01

    def setup(self):
        width = self.stack.width
        shape = (self.stack.layers, self.length, width)
        self.rows_of = self.parameter("rows", each(self.prompt_init, self.stack.layers), shape)
        self.first = self.parameter("first", nn.initializers.ones, (width,))
        self.layers = [nn.Dense(8), nn.Dense(2 * self.stack.heads * self.stack.head_width)]

    def rows(self, tokens, embedded):
        return self.rows_of[:1]

    def layer(self, layer, hidden, state):
        added = self.rows_of[layer].astype(hidden.dtype)
        return hidden.at[:, : self.length].add(added)

    def prefix(self, layer, attention, state):
        made = self.layers[1](nn.tanh(self.layers[0](self.rows_of[layer])))
        parts = made.reshape(1, self.length, 2, self.stack.heads, self.stack.head_width)
        return parts[:, :, 0], parts[:, :, 1]

    def penalty(self):
        return self.strength * jnp.mean(jnp.square(self.rows_of - self.first))

    def is_trained(self, path):
        return path != "first"

class Other(InputPrompt):
    def setup(self):
        self.prompt = self.parameter("prompt", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens, embedded):
        return self.prompt[None]
"""


@pytest.fixture
def command(project, site, main, monkeypatch):
    """A function that runs a command in the project's folder, which has the stranger's modules."""
    points = {"prompt_strange": "strange:Strange", "prompt_other": "strange:Other"}
    site.distribution("a-strange-one", {"prompts": points}, {"strange.py": MODULE}, version="1.2")
    # The same by another name: gin keeps the class that it has seen first in this process.
    points = {"prompts": {"prompt_odd": "odd:Strange"}}
    site.distribution("an-odd-one", points, {"odd.py": MODULE}, version="1.2")
    monkeypatch.chdir(project)

    def run(*arguments):
        code, out, error = main(*arguments)
        assert code == 0, error
        return out

    return run


def evaluation(*extra, **macros):
    names = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_eval.gin"]
    values = {
        **TINY, "PROMPT_LENGTH": None, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run",
        "EVAL_OUTPUT_DIR": "out", **macros,
    }  # fmt: skip
    return ["eval", *(f"--gin_file={name}" for name in names), *gin_flags(**values), *extra]


def arrays(path):
    return safetensors.numpy.load_file(path)


STRANGE = "--gin.PROMPT=@plugins.prompt_strange"


def test_trained_resumed_evaluated_and_trained_further(command, project, main):
    command("train", *training_flags(TRAIN_STEPS=2), STRANGE)
    command("train", *training_flags(TRAIN_STEPS=4), STRANGE)
    names = sorted(path.name for path in (project / "run").glob("prompt_*"))
    assert names == [
        f"prompt_{step}.{ending}" for step in (0, 2, 4) for ending in ("json", "safetensors")
    ]
    first, last = (arrays(project / "run" / f"prompt_{n}.safetensors") for n in (0, 4))
    changed = {name for name in last if not np.array_equal(first[name], last[name])}
    assert {name.removeprefix("encoder/prompt/") for name in last} == {
        "rows", "first",
        *(f"layers_{n}/{part}" for n in (0, 1) for part in ("kernel", "bias")),
    }  # fmt: skip
    assert set(last) - changed == {"encoder/prompt/first"}
    # An unbroken run ends in the same.
    command("train", *training_flags(TRAIN_STEPS=4, MODEL_DIR="whole"), STRANGE)
    whole = arrays(project / "whole" / "prompt_4.safetensors")
    for name, array in whole.items():
        np.testing.assert_array_equal(array, last[name])

    provenance = json.loads((project / "run" / "prompt_4.json").read_text())
    assert provenance["prompt_module"] == {
        "plugin": "prompt_strange", "distribution": "a-strange-one", "version": "1.2",
        "fields": {
            "length": 5, "sides": ["encoder"], "combine": "prefix", "dropout_rate": 0.0,
            "strength": 0.01,
        },
    }  # fmt: skip
    command(*evaluation(EVAL_SPLIT="validation"))
    metrics = json.loads((project / "out" / "toy-validation-metrics.json").read_text())
    expected = provenance["metrics"]["validation"]
    assert {name: metrics[name] for name in expected} == expected

    # Its values are where another run begins, and its module decides.
    flags = training_flags("prompts/from_file.gin", PROMPT_FILE="run", MODEL_DIR="further")
    command("train", *flags)
    begun = arrays(project / "further" / "prompt_0.safetensors")
    for name, array in begun.items():
        np.testing.assert_array_equal(array, last[name])

    shown = command("prompt", "show", "run")
    assert "prompt_strange of a-strange-one 1.2" in shown
    assert "encoder/prompt/layers_1/kernel" in shown
    for arguments, complaint in [
        (
            evaluation("--gin.PROMPT=@plugins.prompt_other"),
            "PROMPT makes a Other, and PROMPT_FILE run holds one of 'prompt_strange'",
        ),
        (
            evaluation("--gin.plugins.prompt_strange.strength=0.5"),
            "prompt_strange.strength is 0.5, and in the prompt run it is 0.01",
        ),
        (evaluation(PROMPT_LENGTH=3), "PROMPT_LENGTH is 3, and the prompt run"),
        (["prompt", "convert", "run", "x.npy"], "has no equivalent plain prompt"),
    ]:
        code, _, error = main(*arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert complaint in error


def test_a_module_with_a_matrix_is_saved_in_both_forms(command, project):
    flags = training_flags(TRAIN_STEPS=2)
    command("train", *flags, "--gin.PROMPT=@plugins.prompt_reparam")
    names = {path.suffix for path in (project / "run").glob("prompt_2.*")}
    assert names == {".npy", ".safetensors", ".json"}
    assert "safetensors" not in command(*evaluation())
    command(*evaluation(PROMPT_FILE="run/prompt_2.safetensors", EVAL_OUTPUT_DIR="by_module"))
    answers = [
        (project / folder / "toy-test-predictions.jsonl").read_text()
        for folder in ("out", "by_module")
    ]
    assert answers[0] == answers[1]
    command("prompt", "convert", "run/prompt_2.safetensors", "x.npy")
    np.testing.assert_array_equal(
        np.load(project / "x.npy"), np.load(project / "run" / "prompt_2.npy")
    )


def test_a_prompt_after_the_input_is_evaluated_there(command, project):
    place = "--gin.plugins.prompt_basic.combine='suffix'"
    command("train", *training_flags(TRAIN_STEPS=2), place)
    assert [path.suffix for path in (project / "run").glob("prompt_2.[ns]*")] == [".safetensors"]
    command(*evaluation(EVAL_SPLIT="validation"))
    metrics = json.loads((project / "out" / "toy-validation-metrics.json").read_text())
    provenance = json.loads((project / "run" / "prompt_2.json").read_text())
    expected = provenance["metrics"]["validation"]
    assert {name: metrics[name] for name in expected} == expected


def test_files_that_cannot_be_used(command, project, main):
    command("train", *training_flags(TRAIN_STEPS=0), "--gin.PROMPT=@plugins.prompt_odd")
    path = project / "run" / "prompt_0.safetensors"
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    module, tensors = json.loads(metadata["module"]), arrays(path)
    for change, expected in [
        (
            {"plugin": "prompt_gone"},
            "'prompt_gone', which is not installed; install an-odd-one 1.2",
        ),
        ({"version": "2.0"}, "was written with an-odd-one 2.0, and an-odd-one 1.2 is installed"),
        ({"sha256": "00"}, "its arrays do not match the checksum in its metadata"),
        ({"fields": {"color": 1}}, "has other fields than ['color']"),
        ({"fields": 3}, "the prompt module in its metadata cannot be read"),
    ]:
        metadata["module"] = json.dumps({**module, **change})
        safetensors.numpy.save_file(tensors, path, metadata)
        code, _, error = main(*evaluation())
        assert (code, error.count("\n")) == (2, 1), error
        assert expected in error
