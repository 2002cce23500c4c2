"""Prompts that packages carry."""

from __future__ import annotations

import json

import numpy as np

from prompt_tuning_files import prompt_files


def bundle(site, distribution, name="model/task"):
    """Installs a package that carries a prompt, and that nobody may import."""
    package = distribution.replace("-", "_")
    site.distribution(
        distribution, {"pretrained_prompts": {package: f"{package}.pretrained_prompts"}}
    )
    folder = site.folder / package
    path = folder / "pretrained_prompts" / f"{name}.npy"
    path.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("1 / 0")
    prompt_files.save(path, np.ones((2, 3)), {"task": {"name": "task"}})
    return path


def test_prompts_in_packages_have_names_and_are_not_imported(site):
    path = bundle(site, "a-model")
    listed = [line.split() for line in site.command("prompt", "list").stdout.splitlines()]
    assert ["model/task", "a-model", str(path)] in listed
    row = site.rows()["a_model"][0]
    assert (row["kind"], row["status"], row["gin"]) == (
        "pretrained", "ok", "PROMPT_FILE = 'MODEL/TASK'",
    )  # fmt: skip
    shown = site.command("prompt", "show", "model/task")
    assert str(path) in shown.stdout, shown.stderr
    # A file of this name comes first.
    prompt_files.save(site.cwd / "model" / "task.npy", np.ones((4, 3)), {})
    (site.cwd / "model" / "task.npy").rename(site.cwd / "model" / "task")
    assert "(4, 3)" in site.command("prompt", "show", "model/task").stdout


def test_one_name_in_two_packages_is_a_conflict(site):
    bundle(site, "one")
    bundle(site, "two")
    assert "distributions one and two; block one" in site.error("prompt", "show", "model/task")
    site.distribution("gone", {"pretrained_prompts": {"gone": "no_such_package"}})
    shown = site.command("prompt", "show", "model/task", "--block-plugin=one")
    assert str(site.folder / "two") in shown.stdout, shown.stderr
    assert "no module named 'no_such_package'" in site.error("prompt", "show", "model/other")


def test_the_kind_is_a_package(site):
    site.distribution(
        "flat", {"pretrained_prompts": {"flat": "flat_module"}}, {"flat_module.py": ""}
    )
    listed = site.command("list-plugins", "--check", "--json")
    detail = json.loads(listed.stdout)[-1]["detail"]
    assert "names a value of type module, and pretrained prompts are in a package" in detail
