"""Every distribution, built: what its wheel carries, and that it works without this repository."""

from __future__ import annotations

import configparser
import dataclasses
import email
import email.message
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECTS = [
    ROOT,
    *sorted(
        file.parent
        for folder in ("configs", "libraries/*", "plugins/*")
        for file in ROOT.glob(f"{folder}/pyproject.toml")
    ),
]
PLUGINS = PROJECTS[1:]
CONFIGS = ROOT / "configs"
MEBIBYTE = 2**20
# It brings TensorFlow, which no lock has.
TASKS_GLUE = ROOT / "plugins" / "tasks_glue"

# Somebody else's initializer, whole: one function that knows nothing of the core, and two lines of
# TOML that say where it is.
STRANGER = {
    "pyproject.toml": """\
[build-system]
requires = ["uv_build>=0.13,<0.14"]
build-backend = "uv_build"

[project]
name = "a-strangers-initializer"
version = "0.3.0"
description = "Equally spaced values"
dependencies = ["prompt-tuning-core>=1,<2"]

[project.entry-points."prompt_tuning.initializers"]
init_ramp = "a_strangers_initializer:init_ramp"
""",
    "src/a_strangers_initializer/__init__.py": '''\
import jax.numpy as jnp


def init_ramp(limit=1.0):
    """Returns an initializer that fills a prompt with equally spaced values from 0 to limit."""

    def initializer(rng, shape):
        del rng
        return jnp.linspace(0.0, limit, shape[0] * shape[1]).reshape(shape)

    initializer.uses_rng = False
    return initializer
''',
}

# Somebody else's engine, whole, with gin files under the names that all engines have.
STRANGERS_ENGINE = {
    "pyproject.toml": """\
[build-system]
requires = ["uv_build>=0.13,<0.14"]
build-backend = "uv_build"

[project]
name = "a-strangers-engine"
version = "0.1.0"
description = "Draws a prompt to a constant"
dependencies = ["prompt-tuning-core>=1,<2", "prompt-tuning-configs>=1,<2"]

[project.entry-points."prompt_tuning.engines"]
mine = "a_strangers_engine:Engine"

[project.entry-points."prompt_tuning.configs"]
mine = "a_strangers_engine.gin_files"
""",
    "src/a_strangers_engine/__init__.py": """\
class Engine:
    def train(self, flags):
        from prompt_tuning_core import gin_config
        gin_config.parse(flags, "mine")
        from a_strangers_engine import training
        training.train()

    eval = infer = train
""",
    "src/a_strangers_engine/training.py": """\
import gin
import jax
import numpy as np


@gin.configurable
def train(initializer, length, width, steps):
    def loss(prompt):
        return ((prompt - 0.5) ** 2).sum()

    prompt = initializer(jax.random.key(0), (length, width))
    for _ in range(steps):
        prompt -= 0.25 * jax.grad(loss)(prompt)
    np.save("mine.npy", prompt)
""",
    "src/a_strangers_engine/gin_files/__init__.py": "",
    "src/a_strangers_engine/gin_files/models/t5_1_1_small_prompt.gin": """\
include 'models/sizes/small.gin'
PROMPT_LENGTH = 2
""",
    "src/a_strangers_engine/gin_files/runs/prompt_finetune.gin": """\
import a_strangers_engine.training

train.initializer = %PROMPT_INIT
train.length = %PROMPT_LENGTH
train.width = %EMBED_DIM
train.steps = %TRAIN_STEPS
""",
}

USE_FROM_GIN = """
import gin

@gin.configurable
def prompt(initializer):
    return initializer(None, (2, 3))

gin.parse_config('''
from __gin__ import dynamic_registration
import __main__ as script
from prompt_tuning_core import plugins

INIT = @plugins.init_ramp()
plugins.init_ramp.limit = 10.0
script.prompt.initializer = %INIT
''')
print(prompt().tolist())
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed and returns its standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The environment of this process, less what would make Python or uv look elsewhere."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT", "PROMPT_TUNING")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def build(project: Path, out: Path, *options: str) -> None:
    run(
        *(sys.executable, "-m", "uv", "build", "--quiet", "--offline", "--no-build-isolation"),
        *("--python", sys.executable, "--out-dir", out, *options, project),
        cwd=out,
    )


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A built wheel, read."""

    path: Path
    files: dict[str, bytes]

    @classmethod
    def read(cls, path: Path) -> Wheel:
        with zipfile.ZipFile(path) as archive:
            files = {n: archive.read(n) for n in archive.namelist() if not n.endswith("/")}
        return cls(path, files)

    def dist_info(self, name: str) -> str:
        (found,) = (n for n in self.files if n.endswith(f".dist-info/{name}"))
        return self.files[found].decode()

    @property
    def metadata(self) -> email.message.Message:
        return email.message_from_string(self.dist_info("METADATA"))


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that holds what was installed in it and the third-party libraries."""

    folder: Path

    def python(self, *arguments: str | Path) -> str:
        return run(self.folder / "bin" / "python", *arguments, cwd=self.folder)

    def prompt_tuning(self, *arguments: str | Path) -> str:
        return run(self.folder / "bin" / "prompt-tuning", *arguments, cwd=self.folder)

    def refusal(self, *arguments: str) -> str:
        """Runs `prompt-tuning`, which must refuse, and returns the one line that it says."""
        done = subprocess.run(
            [self.folder / "bin" / "prompt-tuning", *arguments],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("prompt-tuning: error: ").rstrip("\n")

    @property
    def site_packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def plugins(self, *arguments: str) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.prompt_tuning("list-plugins", "--json", *arguments))
        return {row["name"]: row for row in rows}


def declared(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


def package(project: Path) -> Path:
    name = declared(project)["name"].replace("-", "_")
    return project / name if (project / name).is_dir() else project / "src" / name


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Wheel]:
    """A wheel of each project, built from its folder."""
    built = {}
    for project in PROJECTS:
        out = tmp_path_factory.mktemp("wheel")
        build(project, out, "--wheel")
        (path,) = out.glob("*.whl")
        built[project] = Wheel.read(path)
    return built


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of somebody else's initializer."""
    return wheel_of(STRANGER, tmp_path_factory.mktemp("stranger"))


def wheel_of(files: Mapping[str, str], folder: Path) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    build(folder, folder, "--wheel")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries of this environment and nothing of this repository."""
    folder = tmp_path_factory.mktemp("third_party")
    for installed in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(installed).iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith("prompt_tuning_"):
                (folder / entry.name).symlink_to(entry)
    return folder


def install(folder: Path, third_party: Path, wheels: Sequence[Path]) -> Environment:
    """Makes an environment with pip; the third-party libraries are shown to it, not copied."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"),
        *("--no-index", "--disable-pip-version-check", *wheels),
        cwd=folder,
    )
    environment = Environment(folder)
    (environment.site_packages / "third_party.pth").write_text(f"{third_party}\n")
    return environment


@pytest.fixture(scope="module")
def core_and_stranger(
    wheels: dict[Path, Wheel],
    stranger: Path,
    third_party: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """An environment with the core and somebody else's initializer."""
    folder = tmp_path_factory.mktemp("core_and_stranger")
    return install(folder, third_party, [wheels[ROOT].path, stranger])


@pytest.fixture(scope="module")
def everything(
    wheels: dict[Path, Wheel],
    stranger: Path,
    third_party: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """An environment with every distribution that the lock serves, and a stranger's initializer."""
    folder = tmp_path_factory.mktemp("everything")
    ours = [wheel.path for project, wheel in wheels.items() if project != TASKS_GLUE]
    return install(folder, third_party, [*ours, stranger])


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_wheel_carries_the_whole_package(project: Path, wheels: dict[Path, Wheel]) -> None:
    source = package(project)
    expected = {
        file.relative_to(source.parent).as_posix(): file.read_bytes()
        for file in source.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    carried = {n: data for n, data in wheels[project].files.items() if ".dist-info/" not in n}

    assert carried == expected
    assert f"{source.name}/py.typed" in carried or project == CONFIGS  # Data only.


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_wheel_says_what_it_is(project: Path, wheels: dict[Path, Wheel]) -> None:
    wheel = wheels[project]

    assert wheel.metadata["Name"] == declared(project)["name"]
    assert wheel.metadata["Summary"]
    assert wheel.metadata["Requires-Python"] == ">=3.11"
    assert wheel.metadata["License-Expression"] == "Apache-2.0"
    assert wheel.dist_info("licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert wheel.path.stat().st_size <= 11 * MEBIBYTE  # the demo's weights may take 10


@pytest.mark.parametrize("project", PLUGINS, ids=lambda project: project.name)
def test_plugin_declares_its_entry_points_and_its_core(
    project: Path, wheels: dict[Path, Wheel]
) -> None:
    entry_points = configparser.ConfigParser(delimiters=("=",))
    entry_points.optionxform = str  # type: ignore[assignment]  # It would lower the case.
    expected = declared(project).get("entry-points", {})
    if expected:
        entry_points.read_string(wheels[project].dist_info("entry_points.txt"))

    requirements = [r.replace(" ", "") for r in wheels[project].metadata.get_all("Requires-Dist")]

    assert {s: dict(entry_points[s]) for s in entry_points.sections()} == expected
    assert "prompt-tuning-core>=1,<2" in requirements


def test_core_requires_seven_libraries_and_no_more(wheels: dict[Path, Wheel]) -> None:
    requirements = wheels[ROOT].metadata.get_all("Requires-Dist")

    # The extras name distributions of ours.
    required = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert {requirement.split(">=")[0].strip() for requirement in required} == {
        "flax",
        "gin-config",
        "importlib-metadata",
        "jax",
        "numpy",
        "packaging",
        "pluggy",
    }


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_source_distribution_builds_to_the_same_wheel(
    project: Path, wheels: dict[Path, Wheel], tmp_path: Path
) -> None:
    build(project, tmp_path)  # a source distribution, and from that a wheel
    (path,) = tmp_path.glob("*.whl")

    assert len(list(tmp_path.glob("*.tar.gz"))) == 1
    assert Wheel.read(path).files == wheels[project].files


def test_every_plugin_works_from_its_wheel(everything: Environment) -> None:
    expected = {
        name: declared(project)["name"]
        for project in PLUGINS
        if project != TASKS_GLUE
        for group in declared(project).get("entry-points", {}).values()
        for name in group
    }

    found = everything.plugins("--check")

    assert {name: (found[name]["distribution"], found[name]["status"]) for name in expected} == {
        name: (distribution, "ok") for name, distribution in expected.items()
    }


def test_gin_files_are_found_in_an_installation(everything: Environment) -> None:
    for engine, owners in {
        "local": ["prompt_tuning_demo", "prompt_tuning_engine_local", "prompt_tuning_configs"],
        "t5x": ["prompt_tuning_engine_t5x", "prompt_tuning_configs"],
    }.items():
        printed = everything.prompt_tuning("gin-path", f"--engine={engine}").strip().split(",")
        folders = [Path(folder).relative_to(everything.site_packages) for folder in printed]

        assert [folder.parts[0] for folder in folders] == owners
        for folder in folders:
            assert list((everything.site_packages / folder).rglob("*.gin"))


def test_a_core_alone_lists_its_commands_and_a_strangers_initializer(
    core_and_stranger: Environment,
) -> None:
    rows = core_and_stranger.plugins("--check")
    commands = declared(ROOT)["entry-points"]["prompt_tuning.commands"]

    assert {name: row["kind"] for name, row in rows.items()} == {
        "init_ramp": "initializer",
        **dict.fromkeys(commands, "command"),
    }
    assert {row["status"] for row in rows.values()} == {"ok"}
    help_text = core_and_stranger.prompt_tuning("--help")
    assert [name for name in commands if f"  {name} " in help_text] == sorted(commands)
    assert core_and_stranger.refusal("train", "--gin_file=x.gin") == (
        "no engine is installed; install a plugin of the kind engine"
    )
    assert core_and_stranger.refusal("gin-path", "--engine=mine", "x.gin").startswith(
        "gin file 'x.gin' not found; tried /"
    )
    assert core_and_stranger.prompt_tuning("gin-path", "--engine=mine") == "\n"


def test_a_strangers_initializer_is_listed(core_and_stranger: Environment) -> None:
    assert core_and_stranger.plugins()["init_ramp"] == {
        "kind": "initializer",
        "name": "init_ramp",
        "usage": "@plugins.init_ramp()",
        "distribution": "a-strangers-initializer",
        "version": "0.3.0",
        "status": "ok",
        "description": "Equally spaced values",
        "detail": "",
    }


def test_a_strangers_initializer_is_used_from_gin(core_and_stranger: Environment) -> None:
    script = core_and_stranger.folder / "use_from_gin.py"
    script.write_text(USE_FROM_GIN)

    assert json.loads(core_and_stranger.python(script)) == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


def test_a_strangers_initializer_trains_the_demo(everything: Environment, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    everything.prompt_tuning(
        "train",
        "--gin_file=runs/demo.gin",
        "--gin.plugins.prompt_basic.prompt_init=@plugins.init_ramp()",
        "--gin.plugins.init_ramp.limit=0.1",
        "--gin.TRAIN_STEPS=3",
        "--gin.HOOKS=()",
        f"--gin.MODEL_DIR={str(run_folder)!r}",
    )

    facts = json.loads((run_folder / "prompt_3.json").read_text())
    assert "plugins.init_ramp.limit = 0.1" in facts["initializer"]
    assert {
        "kind": "initializer",
        "name": "init_ramp",
        "distribution": "a-strangers-initializer",
        "version": "0.3.0",
    } in facts["plugins"]


def test_a_third_engine_trains_with_gin_files_of_its_own_under_the_same_names(
    wheels: dict[Path, Wheel],
    stranger: Path,
    third_party: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    engine = wheel_of(STRANGERS_ENGINE, tmp_path_factory.mktemp("engine"))
    folder = tmp_path_factory.mktemp("third_engine")
    ours = [wheels[ROOT].path, wheels[CONFIGS].path]
    installed = install(folder, third_party, [*ours, stranger, engine])
    installed.prompt_tuning(
        "train",
        "--engine=mine",
        "--gin_file=models/t5_1_1_small_prompt.gin",
        "--gin_file=runs/prompt_finetune.gin",
        "--gin.PROMPT_INIT=@plugins.init_ramp()",
        "--gin.TRAIN_STEPS=2",
    )

    prompt = np.load(folder / "mine.npy")
    start = np.linspace(0, 1, 2 * 512).reshape(2, 512)
    np.testing.assert_allclose(prompt, 0.5 + (start - 0.5) / 4, atol=1e-6)
