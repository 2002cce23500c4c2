"""The contract of gin files: each check finds its faults; our own and a stranger's files pass."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from prompt_tuning_core import gin_config, registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_testing import checks
from prompt_tuning_testing.configs_checks import CONFIGS_CHECKS, configs_subject
from prompt_tuning_testing.contracts import check_plugin
from prompt_tuning_testing.strangers import STRANGERS

BY_NAME = {check.name: check for check in CONFIGS_CHECKS}
DYNAMIC = "from __gin__ import dynamic_registration\n"
PLUGINS = f"{DYNAMIC}from prompt_tuning_core import plugins\n"


class Planted(NamedTuple):
    """Gin files with a fault, the check that must find it, and a part of what it says."""

    check: str
    files: Mapping[str, str | bytes]
    says: str


PLANTED = [
    Planted("files", {"__init__.py": ""}, "holds no .gin file in /"),
    Planted("files", {"my files/a.gin": ""}, "'my files/a.gin': expected letters, digits"),
    Planted("files", {"it's.gin": ""}, "expected letters, digits"),
    Planted("files", {"a.gin": "", "b.GIN": ""}, "'b.GIN': expected .gin in lower case"),
    Planted("texts", {"a.gin": "A = 'Grüße'".encode("latin-1")}, "a.gin: is not in UTF-8"),
    Planted("texts", {"a.gin": "\nA = '/home/me/data'"}, "a.gin:2: has the path '/home/me/data'"),
    Planted("texts", {"a.gin": "# see C:\\Users\\me"}, "a.gin:1: has the path 'C:\\\\Users"),
    Planted(
        "names",
        {"a.gin": f"{PLUGINS}A = @plugins.init_randm()"},
        "a.gin:3: no plugin named 'init_randm' is installed; did you mean 'init_random'",
    ),
    Planted(
        "names",
        {"a.gin": f"{PLUGINS}plugins.init_mine.scale = 2.0"},
        "a.gin:3: no plugin named 'init_mine' is installed",
    ),
    Planted(
        "names",
        {"a.gin": "HOOKS = ['demo_tabel']"},
        "no plugin of the kind hooks named 'demo_tabel' is installed; did you mean 'demo_table'",
    ),
    Planted(
        "names",
        {"a.gin": "MIXTURE_OR_TASK_MODULE = 'no_such_tasks'"},
        "no plugin of the kind tasks named 'no_such_tasks' is installed",
    ),
    Planted(
        "names",
        {"a.gin": f"{DYNAMIC}import no_such_module.inside"},
        "a.gin:2: imports no_such_module.inside: no such module is installed",
    ),
    Planted("own_names", {"prompts/from_file.gin": ""}, "is also in prompt-tuning-configs"),
]

WHEN_PARSED = [
    Planted("parses", {"syntax.gin": "A ="}, "syntax.gin:1: "),
    Planted("parses", {"include.gin": "\ninclude 'no/such.gin'"}, "include.gin:2: gin file 'no/su"),
    Planted(
        "parses",
        {"parameter.gin": f"{PLUGINS}plugins.init_random.scael = 1"},
        "parameter.gin:3: 'plugins.init_random' has no parameter 'scael'; did you mean 'scale'",
    ),
    Planted("parses", {"unknown.gin": "A = @unknown_of_all()"}, "unknown.gin:1: 'unknown_of_all'"),
    Planted("parses", {"circle.gin": "A = %B\nB = %A"}, "circle.gin:1: the value of %A leads back"),
    Planted(
        "parses",
        {"raises.gin": f"{DYNAMIC}import planted_raiser"},
        "raises.gin:2: RuntimeError: planted",
    ),
    Planted(
        "does_nothing",
        {"writes.gin": f"{DYNAMIC}import planted_writer"},
        "to parse writes.gin wrote left.txt to the working directory",
    ),
    Planted("does_nothing", {"prints.gin": f"{DYNAMIC}import planted_printer"}, "printed 'Hello.'"),
    Planted(
        "does_nothing",
        {"changes.gin": f"{DYNAMIC}import planted_setter"},
        "changed the variable PLANTED of the environment",
    ),
    Planted("does_nothing", {"listens.gin": f"{DYNAMIC}import planted_listener"}, "bound a socket"),
]

MODULES = {
    "planted_raiser": "raise RuntimeError('planted')",
    "planted_writer": "open('left.txt', 'w').close()",
    "planted_printer": "print('Hello.')",
    "planted_setter": "import os\nos.environ['PLANTED'] = '1'",
    "planted_listener": "import socket\nwith socket.socket() as s:\n    s.bind(('localhost', 0))",
}


def package(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return types.SimpleNamespace(__name__="planted_configs", __path__=[str(folder)])


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: f"{case.check} {case.says[:20]}")
def test_each_planted_fault_is_found_by_its_check(case, tmp_path):
    subject = configs_subject(package(tmp_path, case.files))
    result = checks.run(BY_NAME[case.check], subject)
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_a_module_is_no_package():
    result = checks.run(BY_NAME["files"], configs_subject(types.SimpleNamespace()))
    assert "gin files are in a package" in result.detail


@pytest.fixture(scope="module")
def when_parsed(tmp_path_factory):
    """The results, by check, of a package with all files that are parsed, in one process."""
    folder = tmp_path_factory.mktemp("planted")
    files = {name: text for case in WHEN_PARSED for name, text in case.files.items()}
    files["sound.gin"] = f"{PLUGINS}A = @plugins.init_random()\nB = %WHAT_A_RUN_GIVES\n"
    modules = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (modules / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(modules)
        subject = configs_subject(package(folder, files), "local")
        return {name: checks.run(BY_NAME[name], subject) for name in ("parses", "does_nothing")}


@pytest.mark.parametrize("case", WHEN_PARSED, ids=lambda case: next(iter(case.files)))
def test_each_planted_fault_is_found_when_its_file_is_parsed(case, when_parsed):
    result = when_parsed[case.check]
    assert result.outcome == "failed", result
    assert case.says in result.detail
    assert "sound.gin" not in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED + WHEN_PARSED} == BY_NAME.keys()


def test_paths_that_are_of_no_machine(tmp_path):
    text = "A = 'gs://bucket/home/data'\nB = 'Q:\\nA: {x}'\nC = 'data/home/x'\nD = '~/data'\n"
    subject = configs_subject(package(tmp_path, {"a.gin": text}))
    assert checks.run(BY_NAME["texts"], subject).outcome == "passed"


def test_the_engine_is_not_installed(tmp_path):
    subject = configs_subject(package(tmp_path, {"a.gin": "A = 1"}), "no_such_engine")
    result = checks.run(BY_NAME["parses"], subject)
    assert (result.outcome, result.detail) == (
        "not tried",
        "the engine 'no_such_engine' is not installed",
    )
    with pytest.raises(InputError, match="expected the name of an engine"):
        configs_subject(subject.package, ["local"])


def loaded(folder):
    """Returns a package of a folder; the folder is all that the checks use."""
    return types.SimpleNamespace(__name__=folder.distribution, __path__=[str(folder.path)])


OURS = {folder.distribution: folder for folder in gin_config.packaged_folders()}


@pytest.mark.parametrize("name", OURS)
def test_our_own_files_keep_the_contract(name):
    results = check_plugin(loaded(OURS[name]), "configs")
    results.raise_if_failed()
    not_tried = {result.name: result.detail for result in results if result.outcome != "passed"}
    assert all("cannot run here: --engine t5x needs" in reason for reason in not_tried.values())
    assert not not_tried or name == "prompt-tuning-engine-t5x"


def test_there_are_four_of_our_own():
    assert len(OURS) == 4


def test_a_strangers_files_keep_the_contract(in_process):
    # They name the stranger's initializer.
    for kind in ("initializer", "configs"):
        STRANGERS[kind].put(in_process)
    registry.configure()
    distribution = STRANGERS["configs"].name
    (folder,) = (f for f in gin_config.packaged_folders() if f.distribution == distribution)
    results = check_plugin(loaded(folder), "configs")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}


def test_the_files_of_new_plugin_keep_the_contract(main, in_process):
    assert main("new-plugin", "planted_wide", "--kind=configs", "--folder=project")[0] == 0
    folder = in_process.cwd / "project/src/prompt_tuning_planted_wide"
    made = types.SimpleNamespace(__name__=folder.name, __path__=[str(folder)])
    results = check_plugin(made, "configs")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}
