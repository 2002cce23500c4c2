"""Promises of the repository: its locks, its names, the Python that it picks."""

from __future__ import annotations

import ast
import io
import itertools
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from importlib_metadata import packages_distributions

from prompt_tuning_core import kinds, prompts, registry

ROOT = Path(__file__).parents[1]
PROJECTS = [
    ROOT,
    *sorted(
        file.parent
        for file in [*ROOT.glob("[lp]*/*/pyproject.toml"), *ROOT.glob("configs/pyproject.toml")]
    ),
]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
# Imported where they are installed, by parts that nothing needs without them.
OPTIONAL = (
    "clu",
    "etils",
    "flaxformer",
    "hypothesis",
    "pytest",
    "sentencepiece",
    "seqio",
    "t5x",
    "tensorflow",
)
# Required by plugins that are not locked, whose tests skip where these are missing.
UNLOCKED = {"seqio", "tensorflow"}
FIND_PYTHON = ROOT / ".ci" / "find-python"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    """Maps each pinned name in a lock to the text of its requirements, hashes included."""
    entries: dict[str, str] = {}
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", lock.read_text())):
        if entry:
            name = normalized(re.split(r"[=\[ ]", entry, maxsplit=1)[0])
            entries[name] = entries.get(name, "") + entry
    return entries


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_names_no_host_and_no_path(lock: Path) -> None:
    line = re.compile(r"#.*|[a-z0-9-]+==[\w.]+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")

    assert [text for text in lock.read_text().splitlines() if not line.fullmatch(text)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_hashes_every_requirement(lock: Path) -> None:
    assert pins(lock)
    assert [name for name, text in pins(lock).items() if "--hash=sha256:" not in text] == []


def test_lock_covers_what_the_projects_require() -> None:
    ours = {declared(project)["name"] for project in PROJECTS}
    required = {
        normalized(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        for project in PROJECTS
        for requirement in requirements(project)
    }

    assert required - ours - set(pins(ROOT / "requirements" / "dev.lock")) == UNLOCKED


def test_installer_is_the_locked_uv() -> None:
    installer = pins(ROOT / "requirements" / "installer.lock")

    assert set(installer) == {"uv"}
    assert installer["uv"] == pins(ROOT / "requirements" / "dev.lock")["uv"]


def declared(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


def requirements(project: Path) -> list[str]:
    return declared(project)["dependencies"]


def source(project: Path) -> Path:
    """Returns the folder of a project's package."""
    package = declared(project)["name"].replace("-", "_")
    return project / package if (project / package).is_dir() else project / "src" / package


@pytest.mark.parametrize("project", PROJECTS[1:], ids=lambda project: project.name)
def test_plugin_is_named_after_its_folder(project: Path) -> None:
    assert declared(project)["name"] == f"prompt-tuning-{project.name.replace('_', '-')}"
    assert source(project).name == f"prompt_tuning_{project.name}"
    assert source(project).is_dir()


def test_plugins_of_this_repository_are_in_no_conflict_and_all_installed() -> None:
    groups = {kind.group: kind.name for kind in kinds.KINDS.values()}
    expected = {
        (groups[group], name, declared(project)["name"])
        for project in PROJECTS
        if not UNLOCKED & {requirement.split(">=")[0] for requirement in requirements(project)}
        for group, names in plugins_declared_by(project).items()
        for name in names
    }
    found = {(p.kind, p.name, p.distribution): p.status for p in registry.Registry().discover()}

    assert {plugin: found.get(plugin) for plugin in expected} == dict.fromkeys(expected, "ok")


def test_no_two_modules_have_one_name() -> None:
    files = [file.name for project in PROJECTS for file in source(project).rglob("*.py")]
    apart = {"__init__.py", "__main__.py"}

    assert sorted({name for name in files if files.count(name) > 1} - apart) == []


# A plugin's name as text gives it: quoted, or as gin and the command line have it.
QUOTED = r"""[`'"@/]%s[`'"(]|plugins\.%s\b|--engine[ =]%s\b|--block-plugin[ =]%s\b"""


def plugins_declared_by(project: Path) -> dict[str, dict[str, str]]:
    """Returns the entry points of a project for us, by group: one may be a plugin of pytest's."""
    groups = declared(project).get("entry-points", {})
    return {group: names for group, names in groups.items() if group.startswith("prompt_tuning.")}


def plugins_of_others() -> set[str]:
    """Returns the names of this repository's plugins that the core does not declare itself."""
    names = {
        name
        for project in PROJECTS[1:]
        for group in plugins_declared_by(project).values()
        for name in group
    }
    # Any distribution may carry gin files of this name: it is a word of the core's.
    return names - {kinds.SHARED}


def words(file: Path) -> tuple[set[str], list[str]]:
    """Returns the identifiers of a module, and its texts: strings, docstrings and comments."""
    text = file.read_text()
    identifiers, texts = set(file.relative_to(ROOT).with_suffix("").parts), []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            identifiers.add(token.string)
        elif token.type == tokenize.COMMENT:
            texts.append(token.string)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return identifiers, texts


def named_in(folder: Path, names: set[str]) -> list[str]:
    """Returns where the Python below a folder names one of these plugins."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        identifiers, texts = words(file)
        for name in names:
            pattern = re.compile(QUOTED.replace("%s", re.escape(name)))
            if name in identifiers or any(t == name or pattern.search(t) for t in texts):
                found.append(f"{file.relative_to(ROOT)}: {name}")
    return found


def test_the_core_names_no_plugin() -> None:
    # These are words of the core's as well.
    names = plugins_of_others() - {"check", "report", "runs"}
    assert {"local", "t5x", "prompt_basic", "init_vocab", "prompt.show", "npy"} <= names

    assert named_in(ROOT / "prompt_tuning_core", names) == []


ENGINES = ("plugins/engine_local/src", "plugins/engine_t5x/src", "prompt_tuning_core/integrations")


def names_of_variants() -> set[str]:
    """Returns names of prompt variants, with and without `prompt_`, of classes and packages."""
    names = set()
    for project in (file.parent for file in ROOT.glob("plugins/prompt_*/pyproject.toml")):
        names.add(source(project).name)
        for name, value in declared(project)["entry-points"]["prompt_tuning.prompts"].items():
            names |= {name, name.removeprefix("prompt_"), value.partition(":")[2]}
    return names - set(prompts.POINTS)  # `prefix` is a point as well.


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_names_no_prompt_variant(engine: str) -> None:
    names = names_of_variants()
    assert {"prompt_deep", "deep", "PromptIA3", "prompt_tuning_prompt_basic"} <= names

    # Its defaults, as in its gin files.
    assert [one for one in named_in(ROOT / engine, names) if "/runs/defaults.py: " not in one] == []


def code(node: ast.AST) -> Iterator[ast.AST]:
    """Walks below a node, but not into annotations and the bases of classes."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in ("annotation", "returns", "bases"):
                yield child
                yield from code(child)


def last_name(node: ast.AST) -> str:
    """Returns `name` of `name` and of `some.name`; empty for other expressions."""
    return getattr(node, "id", "") or getattr(node, "attr", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_asks_which_class_a_prompt_module_is(engine: str) -> None:
    """Engines annotate with the core's base and make one, but compare no module's class."""
    bases = {
        name
        for name, value in vars(prompts).items()
        if isinstance(value, type) and issubclass(value, prompts.PromptModule)
    }
    assert bases == {"PromptModule", "InputPrompt"}
    found = []
    for file in sorted((ROOT / engine).rglob("*.py")):
        tree = ast.parse(file.read_text())
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for node in code(tree):
            asks = last_name(node) in bases and node not in called
            if isinstance(node, ast.Compare):
                asks = any(
                    last_name(getattr(one, "func", one)) in ("type", "__class__")
                    for one in (node.left, *node.comparators)
                )
            if asks:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")

    assert found == []


def test_the_core_ships_no_gin_file() -> None:
    assert list((ROOT / "prompt_tuning_core").rglob("*.gin")) == []


def find_python(path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(FIND_PYTHON)],
        env={"PATH": str(path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_interpreter_that_fails_when_run_is_passed_over(tmp_path: Path) -> None:
    command(tmp_path, "python3", "exit 127")  # a shim of a version that is not selected
    command(tmp_path, "python3.13", "echo Python 2.7; exit 1")
    (tmp_path / "python3.11").symlink_to(sys.executable)

    found = find_python(tmp_path)

    assert found.returncode == 0
    assert Path(found.stdout.strip()).samefile(sys.executable)


def test_without_a_suitable_interpreter_the_way_out_is_named(tmp_path: Path) -> None:
    found = find_python(tmp_path)

    assert found.returncode == 1
    assert "PYTHON=" in found.stderr
    assert found.stdout == ""


def test_interpreter_that_was_named_is_the_only_candidate(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    command(tmp_path, "python2", "exit 1")

    found = find_python(tmp_path, PYTHON=str(tmp_path / "python2"))

    assert found.returncode == 1
    assert str(tmp_path / "python2") in found.stderr


def imported(folder: Path) -> set[str]:
    """The names of the top-level packages that the modules under a folder import, anywhere."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_what_a_project_imports_it_requires(project: Path) -> None:
    providers = packages_distributions()

    needed = {
        normalized(provider)
        for name in imported(source(project))
        - {source(project).name}
        - sys.stdlib_module_names
        - set(OPTIONAL)
        for provider in providers.get(name, [name])
    }

    extras = declared(project).get("optional-dependencies", {}).values()
    required = {
        normalized(re.split(r"[^\w.-]", r, maxsplit=1)[0])
        for r in itertools.chain(declared(project)["dependencies"], *extras)
    }
    assert needed - required == set()


def test_script_for_t5x_names_what_it_lacks(tmp_path: Path) -> None:
    def refusal(*arguments: Path) -> str:
        done = subprocess.run(
            ["bash", str(ROOT / "tests" / "t5x_environment.sh"), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    environment, checkout = tmp_path / "environment", tmp_path / "checkout"
    (checkout / "t5x").mkdir(parents=True)
    assert refusal(environment).startswith("usage: tests/t5x_environment.sh")
    assert "no checkout of flaxformer" in refusal(environment, *[checkout] * 4)

    for name in ("flaxformer", "airio", "jestimator"):
        (checkout / name).mkdir()
    assert "is no environment" in refusal(tmp_path, *[checkout] * 4)
    assert not environment.exists()
