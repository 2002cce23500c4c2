"""Names of models and prompts, as catalogs list them."""

from __future__ import annotations

import numpy as np
import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PluginError
from prompt_tuning_files import names, prompt_files, trained_prompts

CATALOG = """\
from pathlib import Path
from prompt_tuning_files.names import Known, prompts_in

def models():
    return [Known("model", lambda: "gs://bucket/model", "gs://bucket/model", "google/model")]

def prompts():
    return prompts_in(Path(__file__).parent / "carried")
"""


@pytest.fixture
def catalogs(in_process):
    """A function that installs a catalog, which has the prompt `model/task`."""
    site = in_process

    def catalog(distribution, source=CATALOG):
        package = distribution.replace("-", "_")
        site.distribution(
            distribution, {"catalogs": {package: package}}, {f"{package}/__init__.py": source}
        )
        path = site.folder / package / "carried" / "model" / "task.npy"
        prompt_files.save(path, np.ones((2, 3)), {"task": {"name": "task"}})
        registry.configure()
        return path

    return catalog


def test_prompts_in_packages_have_names(site, catalogs):
    path = catalogs("a-model")
    assert names.resolve_prompt("model/task") == str(path)
    (listed,) = [one for one in names.prompts() if one.distribution == "a-model"]
    assert (listed.entry.name, listed.entry.facts) == ("model/task", {"FILE": str(path)})
    # A file of this name comes first.
    site.write("model/task", "")
    assert names.resolve_prompt("model/task") == "model/task"


def test_a_prompt_names_its_model_only_if_the_model_is_on_this_machine(catalogs):
    path = catalogs("a-model")

    def model_of(found):
        prompt = trained_prompts.TrainedPrompt("p", "p", 0, {"model": {"path": found}})
        return trained_prompts.macros_of(prompt, {}, ()).get("CHECKPOINT_PATH")

    assert model_of(str(path)) == str(path)
    # The text of a file opens no network: neither by an address nor by the name of one.
    assert [model_of(one) for one in ("gs://bucket/other", "model", "gone")] == [None] * 3


def test_models_have_names(catalogs):
    catalogs("a-model")
    assert names.resolve_model("model") == "gs://bucket/model"
    assert names.resolve_model("gs://bucket/other") == "gs://bucket/other"
    for name in ("model", "gs://bucket/model/"):
        assert names.hugging_face_name(name) == "google/model"
    assert names.hugging_face_name("hub/models--a--b/snapshots/0123") == "a/b"
    assert names.hugging_face_name("gs://bucket/other") is None
    with pytest.raises(
        InputError, match="and no model is known by this name; did you mean 'model'"
    ):
        names.resolve_model("modle")
    with pytest.raises(InputError, match=r"and no prompt is known by this name; .* 'model/task'"):
        names.resolve_prompt("model/tsak")


def test_one_name_in_two_catalogs_is_a_conflict(catalogs):
    catalogs("one")
    path = catalogs("two")
    with pytest.raises(InputError, match=r"the distributions one and two; block one .*PLUGINS=one"):
        names.resolve_prompt("model/task")
    registry.configure(block=["one"])
    assert names.resolve_prompt("model/task") == str(path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 / 0", "of broken 1.0 fails to import: ZeroDivisionError: division by zero"),
        ("", "of broken 1.0 names a catalog without models, prompts"),
        ("def models(): 1 / 0\nprompts = models\n", "fails in prompts.. with ZeroDivisionError"),
        (
            CATALOG.replace('"carried"', '"forgotten"'),
            r"fails in prompts.. with InputError: .*forgotten has no file MODEL/TASK.npy; its auth",
        ),
        ("def models(): return ['x']\nprompts = models\n", "lists 'x', which is no .*names.Known"),
    ],
)
def test_a_broken_catalog_matters_where_no_other_has_the_name(catalogs, source, expected):
    path = catalogs("whole")
    catalogs("broken", source)
    assert names.resolve_prompt("model/task") == str(path)
    with pytest.raises(PluginError, match=f"catalog plugin 'broken' .*{expected}"):
        names.resolve_prompt("model/other")
    with pytest.warns(UserWarning, match=expected):
        listed = names.prompts()
    assert "whole" in [one.distribution for one in listed]


def test_a_catalog_that_fails_to_locate_is_named(catalogs):
    source = CATALOG.replace("return prompts_in", "return [Known('model/task', 3)]; prompts_in")
    catalogs("broken", source)
    with pytest.raises(
        PluginError, match="model/task: the catalog of broken fails to locate it with TypeError"
    ):
        names.resolve_prompt("model/task")
