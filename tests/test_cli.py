"""The command line, apart from `list-plugins`: flags, exit codes, and where things are."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import prompt_tuning_core

ENGINE = """\
import dataclasses, json, sys

class Engine:
    def train(self, flags):
        print(json.dumps({"command": "train", **dataclasses.asdict(flags)}))

    def eval(self, flags):
        raise KeyboardInterrupt

    def infer(self, flags):
        raise RuntimeError("a defect")
"""


@pytest.fixture
def engine(site):
    site.distribution(
        "fake", {"engines": {"fake": "fake_engine:Engine"}}, {"fake_engine.py": ENGINE}
    )
    return site


def test_flags_are_those_of_t5x(engine):
    process = engine.command(
        "train",
        "--engine=fake",
        "--gin_file=models/a.gin",
        "--gin_file",
        "runs/b.gin",
        "--gin_search_paths=here,there",
        "--gin_search_paths",
        "elsewhere",
        "--gin.PROMPT_LENGTH=20",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 2}",
        "--gin.plugins.init_vocab.population_size=-1",
        "--gin_bindings=A = 'b=c'",
        "--hooks=one,two",
        "--hooks",
        "three",
        "--tfds_data_dir=/data",
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == {
        "command": "train",
        "gin_files": ["models/a.gin", "runs/b.gin"],
        "gin_search_paths": ["here", "there", "elsewhere"],
        "gin_bindings": [
            "A = 'b=c'",
            "PROMPT_LENGTH = 20",
            "TASK_FEATURE_LENGTHS = {'inputs': 4, 'targets': 2}",
            "plugins.init_vocab.population_size = -1",
        ],
        "hooks": ["one", "two", "three"],
        "extra": ["--tfds_data_dir=/data"],
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'"),
        (["list-plugin"], "did you mean 'list-plugins'"),
        (
            ["train", "--engine=fak"],
            "no engine plugin named 'fak' is installed; did you mean 'fake'?",
        ),
        (["train", "--engine=fake", "--block-plugin=fake"], "may not be used: 'fake' is blocked"),
        (["train", "--engine=fake", "--gin.X"], "'--gin.X' has no value; write --gin.X=VALUE"),
        (["train", "--engine=fake", "--gin.=3"], "not of the form NAME=VALUE"),
        (["train", "--engine=fake", "--gin.X="], "not of the form NAME=VALUE"),
        (["train", "--gin_file"], "argument --gin_file: expected one argument"),
        (["list-plugins", "--jason"], "unknown argument '--jason'; see prompt-tuning list-plugins"),
        (["list-plugins", "--js"], "unknown argument '--js'"),
        (["find-module"], "the following arguments are required: module"),
        (["find-module", "no_such.module"], "no module named 'no_such.module'"),
        (["find-module", "json.no_such"], "no module named 'json.no_such'"),
        (["find-module", "sys"], "built into Python"),
        (["gin-path", "models/no_such.gin"], "gin file 'models/no_such.gin' not found; tried /"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(engine, arguments, expected):
    assert expected in engine.error(*arguments)


def test_interruption_and_defects_are_not_bad_input(engine):
    interrupted = engine.command("eval", "--engine=fake")
    assert (interrupted.returncode, interrupted.stderr) == (130, "prompt-tuning: interrupted\n")
    defect = engine.command("infer", "--engine=fake")
    assert defect.returncode == 1
    assert "Traceback" in defect.stderr
    assert defect.stderr.endswith("RuntimeError: a defect\n")


def test_version_and_help(site):
    version = site.command("--version")
    assert version.stdout == f"prompt-tuning {prompt_tuning_core.__version__}\n"
    for arguments in ((), ("--help",)):
        process = site.command(*arguments)
        assert process.returncode == 0
        assert "list-plugins" in process.stdout
    assert "--gin.NAME=VALUE" in site.command("train", "--help").stdout


def test_modules_in_the_current_directory_can_be_imported(site):
    site.distribution(
        "fake",
        {"engines": {"fake": "fake_engine:Engine"}},
        {"fake_engine.py": ENGINE.replace("import dataclasses", "import my_task, dataclasses")},
    )
    site.write("my_task.py", "")
    script = Path(sys.executable).parent / "prompt-tuning"
    process = site.python(str(script), "train", "--engine=fake")
    assert process.returncode == 0, process.stderr


def test_console_script_is_the_same(site):
    script = Path(sys.executable).with_name("prompt-tuning")
    if not script.exists():
        pytest.skip("the core is not installed beside this Python")
    code = f"import subprocess; print(subprocess.check_output([{str(script)!r}, '--version']))"
    assert prompt_tuning_core.__version__ in site.python("-c", code).stdout


def test_find_module_prints_the_folder_without_importing(site):
    site.folder.joinpath("outer", "inner").mkdir(parents=True)
    for package in ("outer", "outer/inner"):
        site.folder.joinpath(package, "__init__.py").write_text("1 / 0")
    site.folder.joinpath("outer", "module.py").write_text("1 / 0")
    site.folder.joinpath("space", "below").mkdir(parents=True)
    for name, folder in [
        ("outer", "outer"),
        ("outer.inner", "outer/inner"),
        ("outer.module", "outer"),
        ("space.below", "space/below"),
    ]:
        assert site.command("find-module", name).stdout == f"{site.folder / folder}\n"


def test_gin_path_prints_the_packaged_files(site):
    folder = Path(prompt_tuning_core.__file__).parent / "configs"
    assert site.command("gin-path").stdout == f"{folder}\n"
    path = "models/sizes/small.gin"
    for name in (path, f"prompt_tuning_core/configs/{path}"):
        printed = Path(site.command("gin-path", name).stdout.rstrip("\n"))
        assert printed.is_file()
        assert os.path.samefile(printed, folder / path)


def test_a_reader_that_leaves_is_no_error(site):
    # The pipe's reading end is closed before anything is written.
    code = (
        "import os, subprocess, sys\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "process = subprocess.run([sys.executable, '-m', 'prompt_tuning_core', 'list-plugins'],\n"
        "                         stdout=write, stderr=subprocess.PIPE, text=True)\n"
        "print(repr(process.stderr))\n"
    )
    site.distribution("a", {"initializers": {"init_a": "a:a"}})
    assert site.python("-c", code).stdout == "''\n"
