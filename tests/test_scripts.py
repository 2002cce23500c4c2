"""The shell scripts: their style, what they would run, and what they refuse."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
CONFIGS = (
    ROOT / "plugins" / "engine_t5x" / "src" / "prompt_tuning_engine_t5x" / "configs",
    ROOT / "configs" / "prompt_tuning_configs",
)
SEARCHED = ",".join(["/src/t5x", "/src/flaxformer", *map(str, CONFIGS)])
DEMOS = ("sst2_demo.sh", "sst2_demo_eval.sh", "sst2_demo_xxl.sh")


def script(name, *arguments, **variables):
    """Runs a script with no variables of ours but these."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/me",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "T5X_DIR": "/src/t5x",
        "FLAXFORMER_DIR": "/src/flaxformer",
        **variables,
    }
    return subprocess.run(
        [str(SCRIPTS / name), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def commands(name, *arguments, **variables):
    """The commands, as words, that a dry run prints."""
    done = script(name, "--dry-run", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [shlex.split(line) for line in done.stdout.splitlines()]


def flags(words):
    """The flags of a T5X command; those that may be repeated as lists."""
    values = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        values.setdefault(name, []).append(value)
    return {name: each if name == "gin_file" else each[-1] for name, each in values.items()}


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which(
        "shellcheck"
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    files = sorted(str(file) for file in SCRIPTS.glob("*.sh"))
    done = subprocess.run(
        [shellcheck, "--external-sources", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert len(files) > len(DEMOS)


@pytest.mark.parametrize(
    ("name", "size", "more"),
    [
        ("sst2_demo.sh", "base", {}),
        (
            "sst2_demo_xxl.sh",
            "xxl",
            {
                "gin.BATCH_SIZE": "32",
                "gin.partitioning.PjitPartitioner.model_parallel_submesh": "(4, 4, 1, 2)",
            },
        ),
    ],
)
def test_training(name, size, more):
    (words,) = commands(name, "gs://bucket/my run", "gs://bucket/tfds")

    assert words[:3] == [sys.executable, "-m", "t5x.train"]
    assert flags(words[3:]) == {
        "gin_search_paths": SEARCHED,
        "gin_file": [
            f"models/t5_1_1_{size}_prompt.gin",
            "prompts/from_class_labels.gin",
            "runs/prompt_finetune.gin",
        ],
        "gin.CLASS_LABELS": "['positive', 'negative']",
        "gin.MODEL_DIR": "'gs://bucket/my run'",
        "gin.MIXTURE_OR_TASK_NAME": "'taskless_glue_sst2_v200_examples'",
        "gin.MIXTURE_OR_TASK_MODULE": "'prompt_tuning_tasks_glue.glue'",
        "gin.TASK_FEATURE_LENGTHS": "{'inputs': 512, 'targets': 8}",
        "gin.INITIAL_CHECKPOINT_PATH": "'gs://t5-data/pretrained_models/t5x/"
        f"t5_1_1_lm100k_{size}/checkpoint_1100000'",
        "gin.TRAIN_STEPS": "1_150_000",
        "gin.USE_CACHED_TASKS": "False",
        "tfds_data_dir": "gs://bucket/tfds",
        **more,
    }


def test_evaluation():
    (words,) = commands("sst2_demo_eval.sh", "out", "tfds", "run/prompt_3000.npy")
    (released,) = commands("sst2_demo_eval.sh", "out", "tfds")

    assert words[:3] == [sys.executable, "-m", "t5x.eval"]
    assert flags(words[3:]) == {
        "gin_search_paths": SEARCHED,
        "gin_file": [
            "models/t5_1_1_base_prompt.gin",
            "runs/prompt_eval.gin",
        ],
        "gin.MIXTURE_OR_TASK_NAME": "'taskless_glue_sst2_v200_examples'",
        "gin.MIXTURE_OR_TASK_MODULE": "'prompt_tuning_tasks_glue.glue'",
        "gin.TASK_FEATURE_LENGTHS": "{'inputs': 512, 'targets': 8}",
        "gin.CHECKPOINT_PATH": "'gs://t5-data/pretrained_models/t5x/"
        "t5_1_1_lm100k_base/checkpoint_1100000'",
        "gin.EVAL_OUTPUT_DIR": "'out'",
        "gin.utils.DatasetConfig.split": "'validation'",
        "gin.utils.DatasetConfig.batch_size": "128",
        "gin.USE_CACHED_TASKS": "False",
        "gin.PROMPT_FILE": "'run/prompt_3000.npy'",
        "tfds_data_dir": "tfds",
    }
    assert flags(released[3:])["gin.PROMPT_FILE"] == "'t5_1_1_lm100k_base/sst2'"


@pytest.mark.parametrize("name", DEMOS)
def test_demos_take_variables_and_flags_besides(name):
    (words,) = commands(
        name,
        "--",
        "--gin.TRAIN_STEPS=1_100_010",
        MODEL_DIR="run",
        EVAL_DIR="run",
        TFDS_DATA_DIR="tfds",
        PRETRAINED_MODEL="model",
    )
    (by_arguments,) = commands(name, "run", "tfds", PRETRAINED_MODEL="model")

    assert words == [*by_arguments, "--gin.TRAIN_STEPS=1_100_010"]
    assert "'model'" in " ".join(words)


@pytest.mark.parametrize("name", DEMOS)
def test_demos_have_literal_values_and_packaged_gin_files(name):
    (words,) = commands(name, "run", "tfds")
    given = flags(words[3:])
    for flag, value in given.items():
        if flag.startswith("gin."):
            ast.literal_eval(value)
    for file in given["gin_file"]:
        assert any((folder / file).is_file() for folder in CONFIGS), file


def test_a_pod_slice():
    slice_ = {"TPU_NAME": "my-slice", "ZONE": "my-zone"}
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]

    assert commands("tpu_pod.sh", "create", **slice_, ACCELERATOR_TYPE="v4-32") == [
        [
            *(*vm, "create", "my-slice", "--accelerator-type=v4-32"),
            *("--version=tpu-ubuntu2204-base", "--zone=my-zone"),
        ]
    ]
    assert commands("tpu_pod.sh", "copy", "my task.gin", **slice_) == [
        [*vm, "scp", "my task.gin", "my-slice:", "--worker=all", "--zone=my-zone"]
    ]
    assert commands("tpu_pod.sh", "delete", **slice_) == [
        [*vm, "delete", "my-slice", "--zone=my-zone"]
    ]


@pytest.mark.parametrize(
    ("arguments", "remote"),
    [
        (
            ["install", "https://host/repository", "my-branch"],
            "git clone --quiet --branch=my-branch https://host/repository prompt-tuning-core && "
            "prompt-tuning-core/scripts/tpu_vm_install.sh",
        ),
        (
            ["run", "scripts/sst2_demo_xxl.sh", "a b", "c", "--", "--gin.BATCH_SIZE=16"],
            'source "$HOME/prompt-tuning-env/bin/activate" && cd prompt-tuning-core && '
            r"scripts/sst2_demo_xxl.sh a\ b c --gin.BATCH_SIZE=16",
        ),
        (
            ["kill"],
            "sudo lsof -t /dev/accel* /dev/vfio/* 2>/dev/null | sort -u | "
            "xargs --no-run-if-empty sudo kill -9",
        ),
    ],
)
def test_commands_of_all_workers(arguments, remote):
    (words,) = commands("tpu_pod.sh", *arguments, TPU_NAME="my-slice", ZONE="my-zone")

    assert words[4:] == ["ssh", "my-slice", "--worker=all", f"--command={remote}", "--zone=my-zone"]


def test_installation_on_a_tpu_vm():
    made = commands("tpu_vm_install.sh", "/env", "abc123")

    assert made[1] == [sys.executable, "-m", "uv", "venv", "--quiet", "--python", "3.12", "/env"]
    assert ["git", "-C", "/env/src/t5x", "checkout", "--quiet", "abc123"] in made
    (installed,) = (words for words in made if "install" in words and "jax[tpu]>=0.12" in words)
    plugins = {
        str(file.parent)
        for pattern in ("configs", "libraries/*", "plugins/*")
        for file in ROOT.glob(f"{pattern}/pyproject.toml")
    }
    assert {str(ROOT), *plugins} <= set(installed)
    assert made[-1][-4:] == [f"/env/src/{n}" for n in ("t5x", "flaxformer", "airio", "jestimator")]


def test_checkouts_of_t5x_are_at_the_commits_that_the_documentation_names():
    tested, heads = (commands("t5x_checkouts.sh", "src", which) for which in ("tested", "heads"))

    page = (ROOT / "docs" / "t5x.md").read_text()
    checked_out = {words[2]: words[-1] for words in tested if "checkout" in words}
    names = ("t5x", "flaxformer", "airio", "jestimator")
    assert list(checked_out) == [f"src/{name}" for name in names]
    assert [commit[:7] for commit in checked_out.values() if commit[:7] not in page] == []
    assert [words[-1] for words in heads if "checkout" in words] == ["HEAD"] * 4


@pytest.mark.parametrize(
    ("name", "arguments", "variables", "said"),
    [
        ("sst2_demo.sh", [], {}, "MODEL_DIR is not set"),
        ("sst2_demo.sh", ["run"], {}, "TFDS_DATA_DIR is not set"),
        ("sst2_demo.sh", ["run", "tfds", "more"], {}, "more than two arguments: more"),
        ("sst2_demo.sh", ["--gin.X=1"], {}, "unknown option --gin.X=1; flags of the command"),
        ("sst2_demo_eval.sh", [], {"TFDS_DATA_DIR": "tfds"}, "EVAL_DIR is not set"),
        ("sst2_demo_xxl.sh", ["run"], {}, "TFDS_DATA_DIR is not set"),
        ("tpu_vm_install.sh", ["a", "b", "c", "d"], {}, "more than three arguments: d"),
        ("t5x_checkouts.sh", [], {}, "folder is not set"),
        ("t5x_checkouts.sh", ["a", "newest"], {}, "unknown commits newest"),
        ("tpu_pod.sh", [], {}, "no command is given"),
        ("tpu_pod.sh", ["delete"], {}, "TPU_NAME is not set"),
        ("tpu_pod.sh", ["delete"], {"TPU_NAME": "a"}, "ZONE is not set"),
        ("tpu_pod.sh", ["stop"], {"TPU_NAME": "a", "ZONE": "b"}, "unknown command stop"),
        ("tpu_pod.sh", ["run"], {"TPU_NAME": "a", "ZONE": "b"}, "run takes the command to run"),
        ("tpu_pod.sh", ["install"], {"TPU_NAME": "a", "ZONE": "b"}, "install takes URL and maybe"),
    ],
)
def test_what_is_missing_is_said_with_the_usage(name, arguments, variables, said):
    done = script(name, *arguments, **variables)

    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith(f"{name}: {said}")
    assert second.startswith(f"usage: {name} [--dry-run] ")


def test_a_missing_module_ends_a_script_before_it_runs_anything(tmp_path):
    python = tmp_path / "python"  # in whose environment T5X is missing, whatever this one has
    python.write_text("#!/bin/sh\necho \"no module named '$4' is installed\" >&2\nexit 2\n")
    python.chmod(0o755)

    done = script("sst2_demo.sh", "run", "tfds", T5X_DIR="", PYTHON=str(python))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "no module named 't5x' is installed\n"
