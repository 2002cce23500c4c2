"""Every distribution, built: what its wheel carries, and that it works without this repository."""

from __future__ import annotations

import configparser
import csv
import dataclasses
import email
import email.message
import json
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_tuning_core.kinds import KINDS
from prompt_tuning_testing.strangers import STRANGERS
from prompt_tuning_testing.wheels import Environment, build, build_wheel, run

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


TASK = """
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks

few/tasks.TextTask:
  splits = {'train': 'rows.jsonl', 'validation': 'rows.jsonl'}
  inputs = '{text}'
  targets = '{label}'
  metrics = ['accuracy']

MIXTURE_OR_TASK_NAME = 'few'
MIXTURE_OR_TASK_MODULE = None
"""


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
        built[project] = Wheel.read(build_wheel(project, tmp_path_factory.mktemp("wheel")))
    return built


@pytest.fixture(scope="module")
def core_and_stranger(wheels, stranger_wheel, make_environment) -> Environment:
    """An environment with the core and somebody else's initializer."""
    return make_environment([wheels[ROOT].path, stranger_wheel("initializer")])


@pytest.fixture(scope="module")
def everything(wheels, stranger_wheel, make_environment) -> Environment:
    """An environment with every distribution that the lock serves, and every stranger."""
    ours = [wheel.path for project, wheel in wheels.items() if project != TASKS_GLUE]
    return make_environment([*ours, *map(stranger_wheel, STRANGERS)])


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
    # An initializer that imports nothing of ours, as `init_random`, works with any core.
    imports = any("prompt_tuning_core" in f.read_text() for f in package(project).rglob("*.py"))
    assert ("prompt-tuning-core>=1,<2" in requirements) == (imports or project == CONFIGS)


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
        for group, names in declared(project).get("entry-points", {}).items()
        if group.startswith("prompt_tuning.")
        for name in names
    }

    found = everything.plugins("--check")

    assert {name: (found[name]["distribution"], found[name]["status"]) for name in expected} == {
        name: (distribution, "ok") for name, distribution in expected.items()
    }


def test_gin_files_are_found_in_an_installation(everything: Environment) -> None:
    shared = ["a_strangers_configs", "prompt_tuning_configs"]
    for engine, owners in {
        "local": ["prompt_tuning_demo", "prompt_tuning_engine_local"],
        "t5x": ["prompt_tuning_engine_t5x"],
    }.items():
        printed = everything.prompt_tuning("gin-path", f"--engine={engine}").strip().split(",")
        folders = [Path(folder).relative_to(everything.site_packages) for folder in printed]

        assert [folder.parts[0] for folder in folders] == [*owners, *shared]
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


def test_every_kind_of_stranger_is_found(everything: Environment) -> None:
    found = everything.plugins("--check")
    for kind, stranger in STRANGERS.items():
        for points in stranger.entry_points.values():
            for name in points.keys() - {"shared", "mine"}:
                row = found[name]
                assert (row["kind"], row["distribution"], row["status"]) == (
                    kind, stranger.name, "ok"
                )  # fmt: skip
    assert everything.prompt_tuning("greet", "--name=you") == "hello you\n"
    assert "a-strangers-t5" in everything.prompt_tuning("model", "list")
    (everything.folder / "prompt.rows").write_text("rows\n1 2 3\n4 5 6\n")
    everything.prompt_tuning("prompt", "convert", "prompt.rows", "prompt.npy")
    prompt = np.load(everything.folder / "prompt.npy")
    np.testing.assert_array_equal(prompt, [[1, 2, 3], [4, 5, 6]])


@pytest.fixture(scope="module")
def strangers_run(everything: Environment) -> Path:
    """A run of all strangers' plugins in `local`, stopped at step 2 and resumed to step 3."""
    folder = everything.folder
    (folder / "task.gin").write_text(TASK)
    (folder / "rows.jsonl").write_text('{"text": "a good film", "label": "positive"}\n' * 4)
    for steps in (2, 3):
        printed = everything.prompt_tuning(
            "train",
            "--engine=local",
            *("--gin_file=runs/demo.gin", "--gin_file=task.gin"),
            "--gin.PROMPT=@plugins.prompt_stranger",
            "--gin.plugins.prompt_stranger.prompt_init=@plugins.init_ramp()",
            "--gin.plugins.init_ramp.limit=0.1",
            f"--gin.TRAIN_STEPS={steps}",
            # The demo's learning rate falls to 0 at the last step.
            "--gin.ALLOW_CHANGES=['TRAIN_STEPS']",
            "--gin.BATCH_SIZE=4",
            "--gin.HOOKS=['tell']",
            "--gin.MODEL_DIR='run'",
        )
    assert "going on from step 2" in printed
    return folder / "run"


def test_a_run_records_the_strangers_that_it_used(strangers_run: Path) -> None:
    facts = json.loads((strangers_run / "prompt_3.json").read_text())

    assert "MODEL/plugins.init_ramp.limit = 0.1" in facts["initializer"]
    used = [(plugin["kind"], plugin["name"], plugin["version"]) for plugin in facts["plugins"]]
    strangers = {("initializer", "init_ramp"), ("prompt", "prompt_stranger"), ("hooks", "tell")}
    assert {(*plugin, "0.3.0") for plugin in strangers} <= set(used)


def test_a_strangers_hooks_follow_the_prompt(strangers_run: Path) -> None:
    with (strangers_run / "prompts.csv").open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert list(rows) == [0, 2, 3]
    assert [rows[step]["distance"] == "" for step in rows] == [False, False, True]  # Resumed.
    first, second = (load_file(strangers_run / f"prompt_{step}.safetensors") for step in (0, 2))
    norm = sum((value**2).sum() for value in second.values()) ** 0.5
    moved = sum(((value - first[name]) ** 2).sum() for name, value in second.items()) ** 0.5
    np.testing.assert_allclose(float(rows[2]["norm"]), norm, rtol=1e-5)
    np.testing.assert_allclose(float(rows[2]["distance"]), moved, rtol=1e-5)
    assert float(rows[0]["distance"]) == 0


def test_a_strangers_prompt_module_is_trained_and_used(
    everything: Environment, strangers_run: Path
) -> None:
    first, last = (load_file(strangers_run / f"prompt_{n}.safetensors") for n in (0, 3))
    parts = ["seed"]
    parts += [f"{name}/{part}" for name in ("layers_0", "keys") for part in ("kernel", "bias")]
    names = {f"{side}/prompt/{part}" for side in ("encoder", "decoder") for part in parts}
    assert names < set(last)
    assert [name for name in last if np.array_equal(first[name], last[name])] == []
    rows = map(json.loads, (strangers_run / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if row.get("train/penalty", 0) > 0] == [1, 2, 3]

    def answer(command: str, *settings: str) -> None:
        everything.prompt_tuning(
            *(command, "--engine=local", "--gin_file=models/demo_prompt.gin"),
            *("--gin_file=task.gin", f"--gin_file=runs/prompt_{command}.gin"),
            *("--gin.PROMPT_FILE='run'", *(f"--gin.{setting}" for setting in settings)),
        )

    answer("eval", "EVAL_SPLIT='validation'", "EVAL_OUTPUT_DIR='eval'")
    metrics = json.loads((everything.folder / "eval" / "few-validation-metrics.json").read_text())
    provenance = json.loads((strangers_run / "prompt_3.json").read_text())
    expected = provenance["metrics"]["validation"]
    assert {name: metrics[name] for name in expected} == expected
    (everything.folder / "texts.txt").write_text("a good film\nbad\n")
    answer("infer", "INFER_INPUT_FILE='texts.txt'", "INFER_OUTPUT_DIR='infer'")
    (answers,) = (everything.folder / "infer").glob("*.jsonl")
    assert len(answers.read_text().splitlines()) == 2


def test_a_third_engine_trains_with_its_own_gin_files(
    wheels, stranger_wheel, make_environment
) -> None:
    """They have the names that all engines have."""
    strangers = map(stranger_wheel, ("initializer", "configs", "engine"))
    installed = make_environment([wheels[ROOT].path, wheels[CONFIGS].path, *strangers])
    installed.prompt_tuning(
        "train",
        "--engine=mine",
        "--gin_file=models/t5_1_1_small_prompt.gin",
        "--gin_file=prompts/from_ramp.gin",
        "--gin_file=runs/prompt_finetune.gin",
        "--gin.TRAIN_STEPS=2",
    )

    prompt = np.load(installed.folder / "mine.npy")
    start = np.linspace(0, 1, 2 * 512).reshape(2, 512)
    np.testing.assert_allclose(prompt, 0.5 + (start - 0.5) / 4, atol=1e-6)


NEW = {kind: f"my_{kind}" for kind in KINDS} | {"command": "my-command"}


@pytest.fixture(scope="module")
def new_projects(everything, tmp_path_factory) -> dict[str, Path]:
    """The project that `prompt-tuning new-plugin` writes for each kind, in their environment."""
    folder = tmp_path_factory.mktemp("new")
    projects = {kind: folder / kind for kind in NEW}
    for kind, name in NEW.items():
        everything.prompt_tuning("new-plugin", name, f"--kind={kind}", f"--folder={projects[kind]}")
    return projects


def test_new_projects_are_in_good_style(new_projects):
    folder = new_projects["initializer"].parent
    for tool in (["ruff", "check"], ["ruff", "format", "--check"]):
        run(sys.executable, "-m", *tool, "--no-cache", *new_projects.values(), cwd=folder)
    sources = [project / "src" for project in new_projects.values()]
    run(sys.executable, "-m", "mypy", "--strict", *sources, cwd=folder)


@pytest.fixture(scope="module")
def authors(new_projects, wheels, stranger_wheel, make_environment, tmp_path_factory):
    """An environment of ours, the new projects, and strangers: hooks, a format, a command."""
    built = [
        build_wheel(project, tmp_path_factory.mktemp("built")) for project in new_projects.values()
    ]
    ours = [wheel.path for project, wheel in wheels.items() if project != TASKS_GLUE]
    return make_environment([*ours, *built, *map(stranger_wheel, ("hooks", "format", "command"))])


def test_new_projects_pass_their_own_tests_once_installed(new_projects, authors):
    tests = [project / "tests" for project in new_projects.values()]
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    authors.python("-m", "pytest", *options, *tests)


def test_plugins_of_others_from_their_check_to_their_end(authors):
    """An initializer and a module from `new-plugin`; hooks, a format and a command of strangers."""
    names = [name for kind, name in NEW.items() if kind != "configs"]
    listed = authors.plugins("--check")
    assert {listed[name]["status"] for name in (*names, "tell", "rows", "greet")} == {"ok"}
    assert "keeps its contract" in authors.prompt_tuning(
        "check", NEW["initializer"], "--examples=1", "--shape=2x3"
    )
    for name in (NEW["prompt"], "tell", "rows", "greet"):
        assert "keeps its contract" in authors.prompt_tuning("check", name, "--examples=1")

    (authors.folder / "task.gin").write_text(TASK)
    (authors.folder / "rows.jsonl").write_text('{"text": "a film", "label": "positive"}\n' * 4)
    authors.prompt_tuning(
        *("train", "--engine=local", "--gin_file=runs/demo.gin", "--gin_file=task.gin"),
        *(f"--gin.PROMPT=@plugins.{NEW['prompt']}", f"--gin.plugins.{NEW['prompt']}.parts=3"),
        f"--gin.plugins.{NEW['prompt']}.prompt_init=@plugins.{NEW['initializer']}()",
        *("--gin.HOOKS=['tell']", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=4"),
        "--gin.MODEL_DIR='run'",
    )
    assert load_file(authors.folder / "run" / "prompt_2.safetensors")[
        "encoder/prompt/prompts"
    ].shape[0] == 3  # fmt: skip
    assert len((authors.folder / "run" / "prompts.csv").read_text().splitlines()) == 3
    (authors.folder / "p.txt").write_text("rows\n1 2\n3 4\n")
    assert "(2, 2)" in authors.prompt_tuning("prompt", "show", "p.txt")
    assert authors.prompt_tuning("greet", "--name=you") == "hello you\n"

    gone = [listed[name]["distribution"] for name in (*names, "tell", "rows", "greet")]
    python = str(authors.folder / "bin" / "python")
    uninstall = (sys.executable, "-m", "pip", "--python", python, "uninstall", "--yes", "--quiet")
    run(*uninstall, *gone, cwd=authors.folder)
    left = authors.plugins("--check")
    assert not {*names, "tell", "rows", "greet"} & set(left)
    assert {row["status"] for row in left.values()} == {"ok"}
    assert "unknown command 'greet'" in authors.refusal("greet", "--name=you")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["init_random", "--kind=initializer"], "'init_random' is taken by initializer plugin"),
        (["local", "--kind=prompt"], "'local' is taken by engine plugin"),
        (["class", "--kind=initializer"], "'class' is no name of this kind"),
        (["match", "--kind=initializer"], "'match' is no name of this kind"),
        (["my-init", "--kind=initializer"], "it must be a Python identifier in ASCII"),
        (["My", "--kind=command"], "it must be lower-case words"),
        (["init_x", "--kind=initialiser"], "invalid choice: 'initialiser'"),
        (["init_x", "--kind=initializer", "--folder=full"], "full exists and is no empty folder"),
        (["init_x", "--kind=initializer", "--folder=full/file/x"], "cannot be written (Not a dir"),
        (["init_x"], "the following arguments are required: --kind"),
    ],
)
def test_what_new_plugin_refuses(site, main, arguments, expected):
    site.write("full/file", "")
    code, shown, error = main("new-plugin", *arguments)
    assert (code, shown) == (2, "")
    assert expected in error
    assert [path.name for path in site.cwd.rglob("*")] == ["full", "file"]
