"""The command line, apart from `list-plugins`: commands, flags, engines, and where things are."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import prompt_tuning_core
from prompt_tuning_core import gin_config, registry

ROOT = Path(__file__).parent.parent

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


BAD_INPUT = [
    (["trian"], "unknown command 'trian'; did you mean 'train'"),
    (["list-plugin"], "did you mean 'list-plugins'"),
    (["model", "shwo"], "unknown command 'model shwo'; did you mean 'model show'"),
    (["train", "--engine=fak"], "no engine plugin named 'fak' is installed; did you mean 'fake'?"),
    (["train", "--engine=fake", "--block-plugin=fake"], "may not be used: 'fake' is blocked"),
    (["train", "--engine=fake", "--gin.X"], "'--gin.X' has no value; write --gin.X=VALUE"),
    (["train", "--engine=fake", "--gin.=3"], "not of the form NAME=VALUE"),
    (["train", "--engine=fake", "--gin.X="], "not of the form NAME=VALUE"),
    (["train", "--gin_file"], "argument --gin_file: expected one argument"),
    (["list-plugins", "--jason"], "unknown argument '--jason'; see prompt-tuning list-plugins"),
    (["list-plugins", "--js"], "unknown argument '--js'"),
    (
        ["gin-path", "models/no_such.gin", "--engine=fake"],
        "'models/no_such.gin' not found; tried /",
    ),
]


def test_bad_input_is_one_line_and_exit_code_2(engine, main):
    assert BAD_INPUT[0][1] in engine.error(*BAD_INPUT[0][0])
    for arguments, expected in BAD_INPUT:
        code, output, error = main(*arguments)
        assert (code, output, error.count("\n")) == (2, "", 1), arguments
        assert error.startswith("prompt-tuning: error: ")
        assert expected in error


def test_interruption_is_not_bad_input(engine):
    interrupted = engine.command("eval", "--engine=fake")
    assert (interrupted.returncode, interrupted.stderr) == (130, "prompt-tuning: interrupted\n")


def test_a_defect_is_one_line_unless_a_traceback_is_wanted(engine):
    defect = engine.command("infer", "--engine=fake")
    assert defect.returncode == 2
    assert re.fullmatch(
        r"prompt-tuning: error: engine plugin 'fake' of \S+ 1.0 fails at \S+fake_engine\.py:11: "
        r"RuntimeError: a defect; --traceback shows all\n",
        defect.stderr,
    )
    for flags, variables in ((["--traceback"], {}), ([], {"PROMPT_TUNING_TRACEBACK": "1"})):
        defect = engine.command("infer", "--engine=fake", *flags, **variables)
        assert defect.returncode == 1
        assert "Traceback" in defect.stderr
        assert defect.stderr.endswith("RuntimeError: a defect\n")


def test_version_and_help(main):
    assert main("--version") == (0, f"prompt-tuning {prompt_tuning_core.__version__}\n", "")
    assert main() == main("--help")
    code, output, error = main("--help")
    assert (code, error) == (0, "")
    assert (
        "  list-plugins  List the installed plugins, or show one, without importing them\n"
        in output
    )


COMMAND = """\
\"\"\"Does a thing.\"\"\"

def add_arguments(parser):
    parser.add_argument("--size", type=int, required=True)

def run(arguments):
    print("the size is", arguments.size)
    return arguments.size
"""


@pytest.fixture
def strangers(site):
    """Commands of two strangers, some of which cannot be used."""
    site.distribution(
        "a-stranger",
        {
            "commands": {
                "thing": "a_thing",
                "group.thing": "a_thing",
                "group.twice": "a_thing",
                "train": "a_thing",
                "raises": "a_raises",
                "empty": "json",
                "greedy": "a_greedy",
            }
        },
        {
            "a_thing.py": COMMAND,
            "a_raises.py": "1/0",
            "a_greedy.py": COMMAND.replace("--size", "--block-plugin"),
        },
        summary="Commands of a stranger",
    )
    site.distribution("b-stranger", {"commands": {"group.twice": "a_thing", "Bad Name": "a_thing"}})
    # A distribution that sorts before the core's and one after it.
    site.distribution("zz-stranger", {"commands": {"train": "a_thing"}})
    return site


def test_a_strangers_command_runs(strangers):
    process = strangers.command("group", "thing", "--size=3")
    assert (process.returncode, process.stdout) == (3, "the size is 3\n"), process.stderr


def test_the_help_of_each_command_has_an_example_that_it_takes():
    pages = "".join(page.read_text("utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))
    installed = registry.process_registry()
    commands = [plugin for plugin in installed.discover() if plugin.kind == "command"]
    assert len(commands) > 15
    for plugin in commands:
        command = installed.load("command", plugin.name)
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        _, found, example = (parser.epilog or "").partition(
            f"Example: prompt-tuning {plugin.name.replace('.', ' ')}"
        )
        assert found, f"{plugin.name} --help has no example"
        _, unknown = parser.parse_known_args(shlex.split(example))
        takes_more = getattr(command, "takes_unknown_flags", False)
        assert not unknown or takes_more, f"{plugin.name} refuses {unknown} of its example"
        assert f"`{plugin.name.replace('.', ' ')}" in pages or plugin.name in ("eval", "infer")
        for flag in parser.format_usage().replace("[", " ").replace("]", " ").split():
            if flag.startswith("--"):
                assert flag in pages, f"{plugin.name}: no page has {flag}"


def test_help_names_strangers_commands_without_importing_them(strangers):
    code = (
        "import sys\n"
        "from prompt_tuning_core.commands.main import main\n"
        "assert main(['--help']) == main(['group']) == main(['group', '--help']) == 0\n"
        "ours = [m for m in sys.modules if m.startswith('prompt_tuning_')]\n"
        "print([m for m in ours if not m.startswith('prompt_tuning_core')])\n"
        "heavy = ['a_thing', 'a_raises', 'json.tool', 'jax', 'gin', 'pluggy', 'packaging']\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    output = strangers.python("-c", code).stdout
    assert output.splitlines()[-2:] == ["[]", "[]"]
    heading = "Commands of a stranger (a-stranger):"
    own, _, theirs = output.partition(heading)
    assert "  train " in own
    assert theirs.startswith("\n  empty\n  greedy\n  group thing\n  raises\n  thing\n")
    assert output.count(heading) == 1
    assert "usage: prompt-tuning group ACTION …\n\nactions:\n  group thing\n" in output
    assert "Bad Name" not in output


def test_commands_that_cannot_be_used_are_rows_and_harm_no_other(strangers, main):
    for arguments, expected in [
        (["raises"], "command plugin 'raises' of a-stranger 1.0 fails to import: ZeroDivisionErr"),
        (["empty"], "names a command without add_arguments, run (json)"),
        (["greedy", "--size=3"], "'greedy' of a-stranger 1.0 fails at "),
        (["group", "twice"], "'group.twice' of a-stranger 1.0 cannot be used: the name is also cl"),
        (["Bad Name"], "of b-stranger 1.0 is named 'Bad Name', and a name is lower-case words"),
        (["thing", "--block-plugin=thing"], "'thing' of a-stranger 1.0 may not be used: 'thing' i"),
        (["thing", "--size=x"], "argument --size: invalid int value: 'x'; see prompt-tuning thing"),
        (["thing", "--size=1", "--other"], "unknown argument '--other'; see prompt-tuning thing"),
    ]:
        code, output, error = main(*arguments)
        assert (code, output, error.count("\n")) == (2, "", 1), arguments
        assert expected in error
    assert main("thing", "--size=0") == (0, "the size is 0\n", "")
    rows = {row["name"]: row for row in json.loads(main("list-plugins", "--check", "--json")[1])}
    assert {name: rows[name]["status"] for name in ("raises", "empty", "Bad Name", "thing")} == {
        "raises": "broken", "empty": "broken", "Bad Name": "broken", "thing": "ok"
    }  # fmt: skip


def test_a_command_of_the_core_cannot_be_taken(strangers, main):
    process = strangers.command("train", "--help")
    assert process.returncode == 0
    assert "--gin.NAME=VALUE" in process.stdout
    listed = [r for r in json.loads(main("list-plugins", "--json")[1]) if r["name"] == "train"]
    assert [(row["distribution"], row["status"]) for row in listed] == [
        ("a-stranger", "conflict"), ("prompt-tuning-core", "ok"), ("zz-stranger", "conflict")
    ]  # fmt: skip
    core = f"prompt-tuning-core {prompt_tuning_core.__version__} (command)"
    assert f"{core}; the core keeps its names" in listed[0]["detail"]
    # Not by filters either.
    assert main("list-plugins", "--block-plugin=prompt-tuning-core,list-plugins")[0] == 0


ENGINES = """\
class Engine:
    def train(self, flags):
        print(type(self).__name__)
    eval = infer = train
class Ready(Engine):
    def missing(self):
        return None
class Needy(Engine):
    def missing(self):
        return "needs a thing"
class Raising(Engine):
    def missing(self):
        raise ValueError("a defect")
class Dead(Engine):
    def __init__(self):
        raise OSError("dead")
"""


def test_an_engine_is_chosen_where_none_is_named(site, main, monkeypatch):
    names = ("engine", "ready", "needy", "raising", "dead")
    points = {name: f"five_engines:{name.capitalize()}" for name in names}
    points["broken"] = "no_such_module:Engine"
    site.distribution("five", {"engines": points}, {"five_engines.py": ENGINES})

    def train(*allowed, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code, output, error = main("train", f"--allow-plugin={','.join(allowed)}")
        return error if code else output

    assert train("needy") == "Needy\n"  # The only one there is.
    assert train("ready", "needy", "raising", "dead", "broken") == "Ready\n"
    assert train("engine", "needy") == "Engine\n"
    several = train("engine", "ready", "needy")
    assert "no engine is named, and several are ready to run: engine; ready; write" in several
    none = train("needy", "raising", "dead", "broken")
    assert "no engine is named, and none is ready to run: broken (engine plugin 'broken' of" in none
    assert "; dead (OSError: dead); needy (needs a thing); raising (ValueError: a defect);" in none
    assert "no engine is installed" in train("list-plugins")
    assert train("engine", "ready", PROMPT_TUNING_ENGINE="ready") == "Ready\n"
    assert "no engine plugin named 'reday'" in train("ready", PROMPT_TUNING_ENGINE="reday")


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


WAITING = """
import threading, time
from prompt_tuning_core.errors import InputError

def add_arguments(parser): pass

def run(arguments):
    threading.Thread(target=time.sleep, args=(3600,)).start()
    raise InputError("the disk is full")
"""


def test_an_error_ends_the_process_though_a_thread_waits(site):
    """As those of Orbax do after a failed save."""
    site.distribution("w", {"commands": {"waiting": "a_waiting"}}, {"a_waiting.py": WAITING})
    assert site.error("waiting") == "the disk is full"  # Which gives up after five minutes.


def test_console_script_is_the_same(site):
    script = Path(sys.executable).with_name("prompt-tuning")
    if not script.exists():
        pytest.skip("the core is not installed beside this Python")
    code = f"import subprocess; print(subprocess.check_output([{str(script)!r}, '--version']))"
    assert prompt_tuning_core.__version__ in site.python("-c", code).stdout


def test_gin_path_prints_where_an_engines_files_are(site, main):
    modules = {f"{package}/__init__.py": "1/0" for package in ("the_files", "the_shared")}
    modules |= {"the_files/runs/x.gin": "", "the_shared/prompts/y.gin": ""}
    packages = {"fake": "the_files", "shared": "the_shared"}
    site.distribution("c", {"configs": packages}, modules)
    folders = [site.folder / "the_files", site.folder / "the_shared"]
    folders.append(gin_config.find_module("prompt_tuning_configs"))
    expected = f"{','.join(map(str, folders))}\n"
    assert main("gin-path", "--engine=fake") == (0, expected, "")
    for name in ("runs/x.gin", "the_files/runs/x.gin"):
        path = site.folder / "the_files" / "runs" / "x.gin"
        assert main("gin-path", "--engine=fake", name) == (0, f"{path}\n", "")
    elsewhere = main("gin-path", "--engine=other", "runs/x.gin")[2]
    assert "gin file 'runs/x.gin' not found; it belongs to the engine fake (c)" in elsewhere
    site.write("runs/x.gin", "")
    assert main("gin-path", "--engine=fake", "runs/x.gin") == (0, "runs/x.gin\n", "")
    nobody = "no engine plugin named 'nobody' is installed"
    assert nobody in main("gin-path", "--engine=nobody")[2]


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
