"""The contract of tasks: each check finds its faults; the demo's and new-plugin's tasks pass."""

from __future__ import annotations

import importlib
import itertools
import socket
import types
from typing import Any, NamedTuple

import pytest

import prompt_tuning_tasks as tasks
from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_testing import checks
from prompt_tuning_testing.contracts import check_plugin
from prompt_tuning_testing.tasks_checks import TASKS_CHECKS, TasksSubject, tasks_subject

BY_NAME = {check.name: check for check in TASKS_CHECKS}
ROWS = [{"question": "2 + 2", "answer": "4"}, {"question": "3 + 4", "answer": "7"}]
COUNT = itertools.count()


def rows():
    return iter(ROWS)


def missing_file():
    with open("no-such-file.jsonl") as file:
        return list(file)


def connects():
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
    return rows()


def writes(folder):
    def read():
        (folder / "cache.txt").write_text("read")
        return rows()

    return read


def of_several_lines():
    raise InputError("the data is missing:\nget it")


def other_each_time():
    return [{"question": f"{next(COUNT)} + 2", "answer": "4"}, *ROWS]


def fewer_each_time():
    return [*ROWS, *ROWS][next(COUNT) % 2 :]


ONCE = {"train": None}


def once():
    # The rows are used up when they are read for the second time.
    ONCE["train"] = ONCE["train"] or iter(ROWS)
    return ONCE["train"]


def not_a_number(targets, predictions):
    return {"score": float("nan")}


def number_alone(targets, predictions):
    return 1.0


def by_zero(targets, predictions):
    return {"score": 1 / 0}


def text(targets, predictions):
    return {"score": "good"}


def sorts(targets, predictions):
    targets.sort(reverse=True)
    return {"score": 1.0}


class Planted(NamedTuple):
    """Fields of a task with a fault, the check that must find it, and a part of what it says."""

    check: str
    fields: dict[str, Any]
    says: str


PLANTED = [
    Planted("registers", {"name": "two words"}, "a task is named 'two words', expected letters"),
    Planted("registers", {"name": "sst-2"}, "a task is named 'sst-2'"),
    Planted("registers", {"splits": {}}, "has no splits"),
    Planted("reads", {"splits": {"train": missing_file}}, "raises FileNotFoundError"),
    Planted("reads", {"splits": {"train": connects}}, "split 'train' bound a socket"),
    Planted("reads", {"splits": {"train": writes}}, "split 'train' wrote the file /"),
    Planted("reads", {"splits": {"train": of_several_lines}}, "an error has several lines"),
    Planted("reads", {"splits": {"train": lambda: [3]}}, "raises TypeError"),
    Planted("reads", {"splits": {"train": lambda: []}}, "split 'train' is empty"),
    Planted("reads", {"inputs": "{qestion}"}, "no column 'qestion' for the template"),
    Planted("reads", {"splits": {"train": __file__}}, "has none of the endings .jsonl"),
    Planted("texts", {"inputs": "add: 2 + 2"}, "name no column, so that all are the same"),
    Planted("texts", {"inputs": "{{question}} {answer}"}, "hold {question} as it is; write it"),
    Planted("texts", {"targets": " "}, "row 1: its targets are ' ', expected a text"),
    Planted(
        "texts",
        {
            "splits": {"train": lambda: [*ROWS, {"question": "", "answer": ""}]},
            "inputs": "{answer}",
        },
        "row 3: its inputs are '', expected a text",
    ),
    Planted("same", {"splits": {"train": other_each_time}}, "example 1 is 'add: "),
    Planted("same", {"splits": {"train": fewer_each_time}}, "when it is read again"),
    Planted("same", {"splits": {"train": once}}, "split 'train' is read once only"),
    Planted("metrics", {"metrics": [not_a_number]}, "metric 'not_a_number' gives 'score' the val"),
    Planted("metrics", {"metrics": [number_alone]}, "returns 1.0, expected a mapping"),
    Planted("metrics", {"metrics": [by_zero]}, "raises ZeroDivisionError"),
    Planted("metrics", {"metrics": [text]}, "the value 'good'"),
    Planted("metrics", {"metrics": [sorts]}, "changes the targets"),
    Planted("metrics", {"metrics": []}, "has no metrics"),
]


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: f"{case.check} {case.says[:20]}")
def test_each_planted_fault_is_found_by_its_check(case, tmp_path):
    fields = {"inputs": "add: {question}", "targets": "{answer}", "splits": {"train": rows}}
    fields |= case.fields
    if fields["splits"].get("train") is writes:
        fields["splits"] = {"train": writes(tmp_path)}
    # A number of its own: the registry of tasks keeps them all.
    name = fields.pop("name", f"planted{next(COUNT)}")
    tasks.register(tasks.TextTask(name, **fields))
    result = checks.run(BY_NAME[case.check], TasksSubject(types.ModuleType("planted"), [name]))
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED} == BY_NAME.keys()


MODULES = {
    "": "importing the module registers no task",
    "raise RuntimeError('planted')": "cannot import planted_tasks_module: RuntimeError: planted",
    "import socket\nwith socket.socket() as s:\n    s.bind(('localhost', 0))\n"
    "import prompt_tuning_tasks as tasks\n"
    "tasks.register(tasks.TextTask('planted_bound', {'train': 'a.jsonl'}))\n": "bound a socket",
    "import prompt_tuning_tasks as tasks\n"
    "tasks.register(tasks.Mixture('planted_mixture', {'planted_nothing': 1.0}))\n": (
        "mixture 'planted_mixture': unknown task 'planted_nothing'"
    ),
}


@pytest.mark.parametrize("source", MODULES)
def test_modules_that_register_badly(source, tmp_path, monkeypatch):
    (tmp_path / "planted_tasks_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    if "Mixture" in source:
        tasks.register(tasks.Mixture("planted_mixture", {"planted_nothing": 1.0}))
    module = types.ModuleType("planted_tasks_module")
    module.__spec__ = importlib.machinery.ModuleSpec("planted_tasks_module", None)
    result = checks.run(BY_NAME["registers"], tasks_subject(module))
    assert result.outcome == "failed", result
    assert MODULES[source] in result.detail


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("https://example.org/train.jsonl", "and the checks read nothing from a network"),
        (
            ["no-such-file.jsonl"],
            "cannot be read here: no-such-file.jsonl: cannot be read: No such",
        ),
    ],
)
def test_what_cannot_be_read_here(source, reason):
    name = f"planted{next(COUNT)}"
    tasks.register(tasks.TextTask(name, {"train": source}))
    subject = tasks_subject(types.ModuleType("planted"), [name])
    for check in ("reads", "texts", "same", "metrics"):
        result = checks.run(BY_NAME[check], subject)
        assert result.outcome == "not tried", result
    assert reason in checks.run(BY_NAME["reads"], subject).detail


def test_arguments_that_are_no_names():
    with pytest.raises(InputError, match="expected a list of names of tasks"):
        check_plugin(types.ModuleType("planted"), "tasks", "demo_reviews")


def test_the_tasks_of_the_demo_keep_the_contract():
    module = registry.process_registry().load("tasks", "demo_tasks")
    results = check_plugin(module, "tasks")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}
    assert tasks_subject(module).imported.names == ["demo_plot_or_review", "demo_reviews"]


def test_the_tasks_of_new_plugin_keep_the_contract(main, in_process, monkeypatch):
    assert main("new-plugin", "planted_sums", "--kind=tasks", "--folder=project")[0] == 0
    monkeypatch.syspath_prepend(in_process.cwd / "project/src")
    results = check_plugin(importlib.import_module("prompt_tuning_planted_sums"), "tasks")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}
