"""The projects of this checkout require each other rightly."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CORE = "prompt-tuning-core"
# Brings TensorFlow, which no extra but its own may.
HEAVY = "prompt-tuning-tasks-glue"
TABLES = {
    file.parent: tomllib.loads(file.read_text(encoding="utf-8"))
    for pattern in (".", "configs", "libraries/*", "plugins/*")
    for file in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
PROJECTS: dict[str, dict[str, Any]] = {
    table["project"]["name"]: table["project"] for table in TABLES.values()
}
OWN = set(PROJECTS) - {CORE}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement, maxsplit=1)[0] for requirement in requirements}


def brought(requirements: set[str]) -> set[str]:
    """Returns our own distributions among these and all that they require."""
    found: set[str] = set()
    rest = requirements & set(PROJECTS)
    while rest:
        found |= rest
        rest = {r for n in rest for r in names(PROJECTS[n]["dependencies"])} & set(PROJECTS) - found
    return found


def test_extras_pin_our_own_distributions_at_the_version_of_the_core() -> None:
    extras = PROJECTS[CORE]["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            name, pin, version = requirement.partition("==")
            assert (pin, version) == ("==", PROJECTS[CORE]["version"]), requirement
            assert PROJECTS[name]["version"] == version
    assert names(extras["all"]) == OWN - {HEAVY}
    assert [name for name, wanted in extras.items() if HEAVY in brought(names(wanted))] == ["glue"]


def test_uv_takes_every_project_from_the_checkout() -> None:
    uv = TABLES[ROOT]["tool"]["uv"]
    members = {folder for glob in uv["workspace"]["members"] for folder in ROOT.glob(glob)}
    assert {member for member in members if member.is_dir()} >= set(TABLES) - {ROOT}
    assert uv["sources"] == {name: {"workspace": True} for name in PROJECTS}


WITH_GIN_FILES = [
    folder for folder, table in TABLES.items() if "prompt_tuning.configs" in str(table["project"])
]


@pytest.mark.parametrize("folder", WITH_GIN_FILES, ids=lambda folder: folder.name)
def test_what_gin_files_name_their_distribution_requires(folder: Path) -> None:
    plugins = {
        name: project["name"]
        for project in PROJECTS.values()
        for group, points in project.get("entry-points", {}).items()
        if group in ("prompt_tuning.initializers", "prompt_tuning.prompts")
        for name in points
    }
    required = brought({TABLES[folder]["project"]["name"]})
    included = {
        file: {f for f in WITH_GIN_FILES for found in f.rglob(file) if found.is_file()}
        for source in folder.rglob("*.gin")
        for file in re.findall(r"(?m)^\s*include '(.+)'", source.read_text(encoding="utf-8"))
    }
    text = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.gin"))
    named = {plugins[name] for name in re.findall(r"plugins\.(\w+)", text) if name in plugins}
    assert named
    assert named <= required
    for file, owners in included.items():  # T5X's own have no owner here.
        assert not owners or {TABLES[owner]["project"]["name"] for owner in owners} & required, file
