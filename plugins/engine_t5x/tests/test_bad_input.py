"""Bad input gives one line of `prompt-tuning … --engine t5x`, before it uses any device."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import runs

from prompt_tuning_core import gin_config


def refusal(project: Path, flags: list[str], **environment: str) -> str:
    message = runs.refusal(["train", "--engine=t5x", *flags], project, **environment)
    assert not (project / "run").exists()
    return message


def fake(folder: Path, name: str, source: str = "") -> None:
    """Puts a package on a path; a dot in its name stands for a folder."""
    package = folder.joinpath(*name.split("."))
    package.mkdir(parents=True, exist_ok=True)
    for parent in [package, *package.parents]:
        if parent == folder:
            break
        parent.joinpath("__init__.py").touch()
    (package / "__init__.py").write_text(source)


def test_t5x_is_missing(project):
    # A finder that comes first hides what is installed.
    (project / "site").mkdir()
    (project / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = classmethod(\n"
        "    lambda cls, name, *rest: None if name == 't5x' else find(name, *rest)\n"
        ")\n"
    )
    message = refusal(project, runs.training_flags(), PYTHONPATH=str(project / "site"))
    assert message == (
        "--engine t5x needs t5x, which is not installed and not on PyPI; install it by its own "
        "instructions (https://github.com/google-research/t5x), see also docs/t5x.md"
    )


def test_t5x_fails_to_import(project):
    fake(project / "site", "t5x.train", "import no_such_module\n")
    fake(project / "site", "flaxformer")
    message = refusal(project, runs.training_flags(), PYTHONPATH=str(project / "site"))
    assert message.startswith(
        "t5x.train cannot be imported: ModuleNotFoundError: No module named 'no_such_module'; "
    )


def test_t5x_of_another_time(project):
    site = project / "site"
    fake(site, "flaxformer")
    fake(site, "t5x.train")
    fake(site, "t5x.checkpoints", "class LazyArray: pass\n")
    message = refusal(project, runs.training_flags(), PYTHONPATH=str(site))
    assert message == (
        "t5x has no t5x.checkpoints.OrbaxCheckpointManagerInterface; this version of the engine "
        "was tested with t5x at cc342d4 (https://github.com/google-research/t5x)"
    )


@pytest.mark.t5x
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PACK": True}, "PACK is True, and prompt tuning does not support packed examples"),
        ({"BUCKETING": True}, "BUCKETING is True, and T5X pads every batch to"),
        ({"PROMPT_LENGTH": 7}, "prompt prompt.npy: has shape (5, 32), expected (7, 32); set"),
        (
            {"PROMPT_LENGTH": 0},
            "has the shape (0, 32), expected sizes of at least 1: set PROMPT_LENGTH",
        ),
        (
            {"STRICT_LENGTHS": True, "TASK_FEATURE_LENGTHS": {"inputs": 9, "targets": 6}},
            "rows.jsonl:1: the inputs have",
        ),
        ({"NUM_DEVICES": 1}, "--gin.NUM_DEVICES=1: none of the gin files uses %NUM_DEVICES"),
        ({"TRAIN_STEPS": None}, "neither TRAIN_STEPS nor TRAIN_STEPS_RELATIVE is set"),
        ({"EVAL_PERIOD": 3}, "EVAL_PERIOD is 3 and SAVE_PERIOD 2; T5X needs one to be a multiple"),
        ({"MIXTURE_OR_TASK_NAME": "tay"}, "unknown task 'tay'; did you mean 'toy'?"),
        (
            {"MIXTURE_OR_TASK_MODULE": "no_such"},
            "'no_such' is neither a plugin of kind tasks nor a",
        ),
        ({"MLP_DIM": 32}, "has the shape (32, 64), and the model described in gin has (32, 32)"),
        ({"INITIAL_CHECKPOINT_PATH": "none"}, "none"),
        ({"ONLY_PROMPT": True, "USE_ORBAX": False}, "ONLY_PROMPT is True and USE_ORBAX False"),
        ({"MODEL_DIR": None}, "macro %MODEL_DIR has no value; write MODEL_DIR = …"),
        ({"PROMPT": "@init_unknown()"}, "'init_unknown' is neither a plugin"),
    ],
)
def test_values(project, changes, expected):
    flags = runs.training_flags(**changes)
    if "PROMPT" in changes:
        flags[-1] = flags[-1].replace("'", "")  # A reference, not a text.
    assert expected in refusal(project, flags)


@pytest.mark.t5x
def test_a_checkpoint_of_mesh_tensorflow(project):
    """T5X imports none where a function transforms the restored state, as ours does."""
    (project / "model.ckpt-5.index").write_bytes(b"\0")
    message = refusal(project, runs.training_flags(INITIAL_CHECKPOINT_PATH="model.ckpt-5"))
    assert "model.ckpt-5: a TensorFlow checkpoint, as Mesh TensorFlow wrote" in message


@pytest.mark.t5x
def test_vocabularies(project):
    from sentencepiece import sentencepiece_model_pb2

    (project / "folder").mkdir()
    message = refusal(project, runs.training_flags(VOCABULARY_FILE="folder"))
    assert message.startswith("VOCABULARY_FILE folder: T5X reads the SentencePiece model itself")
    path = project / "vocabulary.model"
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    for number in reversed(range(38)):
        model.pieces.add(piece=f"▁<extra_id_{number}>", type=4)
    path.write_bytes(model.SerializeToString())
    message = refusal(project, runs.training_flags())
    assert message == (
        "VOCABULARY_FILE vocabulary.model: VOCABULARY_EXTRA_IDS is 38, and 38 of these extra ids "
        "are in the file, where seqio cannot add them again; set VOCABULARY_EXTRA_IDS to 0"
    )
    model.pieces[0].piece = "<none>"
    path.write_bytes(model.SerializeToString())
    message = refusal(project, runs.training_flags(VOCABULARY_EXTRA_IDS=0))
    assert message.startswith("vocabulary vocabulary.model: its padding id is -1, expected 0")


@pytest.mark.t5x
def test_checkpoint_that_lacks_frozen_parameters(project):
    checkpoint = project / "t5x_checkpoint" / "checkpoint_0"
    index = checkpoint / "checkpoint"
    import msgpack

    content = msgpack.unpackb(index.read_bytes(), raw=False, strict_map_key=False)
    del content["optimizer"]["target"]["encoder"]["layers_1"]["mlp"]
    index.write_bytes(msgpack.packb(content))
    for folder in checkpoint.glob("target.encoder.layers_1.mlp*"):
        shutil.rmtree(folder)
    message = refusal(project, runs.training_flags())
    assert "the checkpoint lacks 3 of the frozen model's 52 parameters" in message
    assert "'encoder/layers_1/mlp/wi_0/kernel'" in message


@pytest.mark.t5x
def test_checkpoint_of_another_form(project):
    import safetensors.numpy
    from golden_arrays import golden

    (project / "own").mkdir()
    safetensors.numpy.save_file(golden("tiny_params"), project / "own" / "model.safetensors")
    message = refusal(project, runs.training_flags(INITIAL_CHECKPOINT_PATH="own"))
    assert "is of the form safetensors, and T5X reads its own checkpoints" in message


@pytest.mark.t5x
def test_file_of_the_other_engine(project):
    local = gin_config.find_module("prompt_tuning_engine_local.configs")
    message = refusal(project, [f"--gin_file={local}/runs/prompt_finetune.gin"])
    assert (
        "belongs to the engine local (prompt-tuning-engine-local), and this is --engine t5x"
        in message
    )


@pytest.mark.t5x
def test_a_module_that_no_prompt_file_can_hold(project):
    (project / "two.py").write_text(
        "from flax import linen as nn\n"
        "from prompt_tuning_core.prompts import PromptModule\n"
        "class Two(PromptModule):\n"
        "    tool: object = print\n"
        "    def setup(self):\n"
        "        self.a = self.parameter('a', nn.initializers.ones, (2, 32))\n"
        "        self.b = self.parameter('b', nn.initializers.ones, (2, 32))\n"
        "    def penalty(self):\n"
        "        return (self.a * self.b).sum()\n"
    )
    (project / "two.gin").write_text(
        "from __gin__ import dynamic_registration\nimport two\nPROMPT = @two.Two\n"
    )
    flags = runs.training_flags("two.gin")
    message = refusal(project, flags, PYTHONPATH=str(project))
    assert "Two.tool is <built-in function print>, and a prompt file can hold numbers" in message
