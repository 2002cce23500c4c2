"""The files of .github: they can be read, and run what a checkout runs."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted(file for ending in ("yml", "yaml") for file in ROOT.glob(f".github/**/*.{ending}"))
WORKFLOWS = [file for file in FILES if file.parent.name == "workflows"]
TARGETS = set(
    re.search(r"(?m)^\.PHONY: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text())[1].split()
) - {"\\"}


def jobs(workflow: Path) -> dict[str, dict]:
    return yaml.safe_load(workflow.read_text())["jobs"]


def commands(job: dict) -> list[str]:
    """Returns what the steps of a job run, for all values of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found = []
    for values in itertools.product(*matrix.values()):
        for command in (step["run"] for step in job["steps"] if "run" in step):
            for name, value in zip(matrix, values, strict=True):
                command = command.replace(f"${{{{ matrix.{name} }}}}", value)
            found.append(command)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_file_can_be_read(file):
    assert yaml.safe_load(file.read_text())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_every_command_is_a_target_or_a_script(workflow):
    found = [command for job in jobs(workflow).values() for command in commands(job)]
    assert found
    for command in found:
        first, *words = shlex.split(command)
        if first == "make":
            targets = [word for word in words if "=" not in word]
            assert targets
            assert set(targets) <= TARGETS, command
        else:
            assert os.access(ROOT / first, os.X_OK), command
        assert "${{" not in command


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_and_may_only_read(workflow):
    text = workflow.read_text()
    for line in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    writers = {
        name: job["permissions"] for name, job in jobs(workflow).items() if "permissions" in job
    }
    publisher = {"publish": {"contents": "read", "id-token": "write"}}
    assert writers == (publisher if workflow.name == "release.yml" else {})


def test_all_pythons_that_the_project_names_are_tried():
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)]
    tried = jobs(ROOT / ".github" / "workflows" / "ci.yml")
    for name in ("test", "lowest"):
        assert tried[name]["strategy"]["matrix"]["python"] == pythons


def test_a_release_is_compared_with_its_tag_and_tried_before_it_is_published():
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")

    assert [shlex.split(command)[1] for command in commands(release["build"])] == [
        "release-tag",
        "release-check",
    ]
    assert release["publish"]["needs"] == "build"
    assert commands(release["publish"]) == ["make publish"]
