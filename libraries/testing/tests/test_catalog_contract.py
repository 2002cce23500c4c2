"""The contract of catalogs: each check finds its faults, and sound catalogs pass."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_files.names import Known
from prompt_tuning_testing import catalog_checks, check_plugin, checks, parametrize_with_checks
from prompt_tuning_testing.catalog_checks import CATALOG_CHECKS, catalog_subject
from prompt_tuning_testing.strangers import STRANGERS

BY_NAME = {check.name: check for check in CATALOG_CHECKS}
FIRST_PARTY = [p.name for p in registry.Registry().discover() if p.kind == "catalog"]
COUNT = itertools.count()


def raises(error):
    def locate():
        raise error

    return locate


def there(name="a-model", **fields):
    """A model at an address."""
    return Known(name, lambda: "gs://a-bucket/a-model", **fields)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The current directory, where the prompts are."""
    monkeypatch.chdir(tmp_path)


def prompt_file(fault=None):
    """Writes a prompt, which may have a fault, and returns its path."""
    path = Path(f"{fault or 'sound'}.npy").absolute()
    array = np.ones((3, 4), np.float32)
    if fault == "infinite":
        array[0] = np.inf
    np.save(path, array)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    return str(path)


class Catalog:
    """Lists given models and prompts."""

    def __init__(self, models=(), prompts=()):
        self._models, self._prompts = models, prompts

    def models(self):
        return self._models

    def prompts(self):
        return self._prompts


SOUND = Catalog(
    (
        there(
            address="gs://a-bucket/a-model",
            hugging_face="an-owner/a-model",
            facts={"WIDTH": "8", "LONG NAME": ""},
            notes=("a note",),
        ),
        there("an-owner/a-model"),
        Known("gone", raises(InputError("model gone: it is not here; fetch it"))),
    ),
    (Known("a-model/a_task", lambda: prompt_file(), facts={"FILE": "p.npy"}),),
)


class Dynamic(Catalog):
    """Does `act` in each call of `models`."""

    def __init__(self, act):
        super().__init__()
        self._act = act

    def models(self):
        return self._act() or ()


def opens_a_socket():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
    return "gs://a-bucket/a-model"


def starts_a_process():
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    return "gs://a-bucket/a-model"


class Planted(NamedTuple):
    """A catalog with a fault, the check that must find it, and a part of what it says."""

    check: str
    catalog: Any
    says: str


def models(check, says, *entries):
    return Planted(check, Catalog(models=entries), says)


def prompts(check, says, *entries):
    return Planted(check, Catalog(prompts=entries), says)


def located(check, says, locate, **fields):
    return models(check, says, Known("a-model", locate, **fields))


PLANTED = [
    Planted(
        "lists_at_once", Dynamic(lambda: Path(prompt_file()).read_bytes() and ()),
        "listing reads /",
    ),
    Planted("lists_at_once", Dynamic(lambda: opens_a_socket() and ()), "listing bound a socket"),
    Planted("lists_at_once", Dynamic(lambda: time.sleep(0.3)), "listing takes 0.3 s, expected at"),
    models("lists_at_once", "models() lists 'a-model', expected a prompt_tuning_files", "a-model"),
    models("names", "is no text, or empty", there("")),
    models("names", "is no text, or empty", there(None)),
    models("names", "cannot be printed", there("a\tmodel")),
    models("names", "begins or ends with a blank", there("a-model ")),
    models("names", "is a path or an address", there("gs://a-model")),
    models("names", "is a path or an address", there("/models/a")),
    models("names", "is a path or an address", there("~/a")),
    models("names", "is a path or an address", there("./a")),
    models("names", "lists a-model more than once", there(), there("b"), there()),
    prompts("names", "'a_task', which is not of the form MODEL/TASK", there("a_task")),
    prompts("names", "is not of the form MODEL/TASK", there("a-model/")),
    Planted("same_list", Dynamic(lambda: [there(f"m{next(COUNT)}")]), "and at the next call"),
    Planted("same_list", Dynamic(lambda: [there(str(n)) for n in range(next(COUNT) % 2)]), "None"),
    models("facts", "the heading 'Width', expected upper case", there(facts={"Width": "8"})),
    models("facts", "has 8 below WIDTH, expected a text", there(facts={"WIDTH": 8})),
    models(
        "facts",
        "'b' of models() has the headings ['PATH'], and 'a-model' of models() has ['WIDTH']",
        there(facts={"WIDTH": "8"}), there("b", facts={"PATH": "b"}),
    ),
    models("other_fields", "has the notes 'a note', expected a tuple", there(notes="a note")),
    models("other_fields", "expected a text of one line", there(notes=("a\nnote",))),
    models("other_fields", "has the hugging_face 't5'", there(hugging_face="t5")),
    models("other_fields", "has the address 7", there(address=7)),
    located("locates", "returns PosixPath('a'), expected a path", lambda: Path("a")),
    located("locates", "raises KeyError: 'here', expected an InputError", raises(KeyError("here"))),
    located("locates", "which does not exist; raise an InputError", lambda: "/no/such/folder"),
    located("locates", "that is not one line", raises(InputError("a-model:\ngone"))),
    located("locates", "which does not name it", raises(InputError("not here; fetch it"))),
    models("locates", "and its address is gs://other", there(address="gs://other")),
    located("locates_alone", "bound a socket", opens_a_socket),
    located("locates_alone", "started a process", starts_a_process),
    located("locates_alone", "and then gs://", lambda: f"gs://{next(COUNT)}"),
    prompts(
        "prompts_are_read", "its matrix is not finite",
        Known("a-model/a_task", lambda: prompt_file("infinite")),
    ),
    prompts(
        "prompts_are_read", "'a-model/a_task' cannot be read",
        Known("a-model/a_task", lambda: prompt_file("cut")),
    ),
    prompts(
        "prompts_are_read", "'a-model/this' cannot be read",
        Known("a-model/this", lambda: os.path.abspath(__file__)),
    ),
    models(
        "no_name_is_taken",
        "models() lists google/t5-small-lm-adapt, and so does catalog plugin 'google'",
        there("google/t5-small-lm-adapt"),
    ),
    prompts("no_name_is_taken", "so does catalog plugin 'demo'", there("demo/demo_reviews")),
]  # fmt: skip


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: f"{case.check}: {case.says}")
def test_each_planted_fault_is_found_by_its_check(case, monkeypatch):
    monkeypatch.setattr(catalog_checks, "_SECONDS", 0.2)
    result = checks.run(BY_NAME[case.check], catalog_subject(case.catalog))
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED} == BY_NAME.keys()


@parametrize_with_checks(SOUND, kind="catalog")
def test_a_sound_catalog_keeps_the_contract(check):
    check()


def test_what_is_no_catalog_is_refused():
    with pytest.raises(InputError, match="the plugin names a catalog without models, prompts"):
        check_plugin(object(), "catalog")
    with pytest.raises(InputError, match="arguments are 7, and a catalog takes none"):
        check_plugin(SOUND, "catalog", 7)


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_our_own_catalogs_keep_the_contract(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_TUNING_PROMPTS", str(tmp_path))
    results = check_plugin(registry.process_registry().load("catalog", name), "catalog")
    results.raise_if_failed()
    skipped = {result.name for result in results if result.outcome == "not tried"}
    assert skipped == ({"prompts_are_read"} if name == "google" else set())


def test_there_are_two_catalogs_of_our_own():
    assert FIRST_PARTY == ["demo", "google"]


def test_a_catalog_without_others(in_process):
    STRANGERS["catalog"].put(in_process)
    catalog = registry.configure(allow=["a-strangers-catalog"]).load("catalog", "their_models")
    results = check_plugin(catalog, "catalog")
    results.raise_if_failed()
    skipped = {result.name: result.detail for result in results if result.outcome == "not tried"}
    assert skipped == {
        "prompts_are_read": "none of its prompts is on this machine",
        "no_name_is_taken": "no other catalog is installed",
    }


def test_a_broken_catalog_takes_no_name(in_process):
    in_process.distribution("broken-catalog", {"catalogs": {"broken_one": "no_such_module_of_it"}})
    registry.configure()
    check_plugin(SOUND, "catalog").raise_if_failed()


def test_a_new_project_keeps_the_contract(new_module, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    results = check_plugin(new_module("names_of_a_test", "catalog"), "catalog")
    results.raise_if_failed()
    skipped = {result.name for result in results if result.outcome == "not tried"}
    assert skipped == {"prompts_are_read"}
