"""The packaged gin files: what they name exists, and every run that they describe can be read."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

# pytest's importlib mode leaves this folder off the path.
sys.path.insert(0, str(Path(__file__).parent))

import packaged_gin
from packaged_gin import GinFile

from prompt_tuning_core import gin_config, registry

HERE = Path(__file__).parent
RECORD = json.loads((HERE / "golden" / "t5x_configurables.json").read_text(encoding="utf-8"))
FILES = [
    pytest.param(owner, file, id=f"{owner}-{file.parent.name}/{file.name}")
    for owner, file in packaged_gin.files()
]

# These import T5X or Flaxformer, and so are read instead of imported.
NEED_T5X = ("prompt_tuning_engine_t5x.", "prompt_tuning_core.integrations.flaxformer.")

# What the embedded engine does and T5X does not.
ONLY_LOCAL = {
    "ALLOW_CHANGES", "BEST_IS_LOWEST", "BEST_METRIC", "DECAY_STEPS", "EARLY_STOPPING", "EVAL_LOSS",
    "LEARNING_RATE_SCHEDULE", "NUM_ANSWERS", "NUM_DEVICES", "NUM_MICROBATCHES", "PROMPT_COLUMN",
    "PROMPT_FILES", "STRICT_LENGTHS", "WARMUP_STEPS",
}  # fmt: skip


def parameters(name: str) -> set[str]:
    """Returns the parameters of a configurable by its full name."""
    if name in RECORD["parameters"]:
        return set(RECORD["parameters"][name])
    if name.startswith(NEED_T5X):
        return parameters_in_source(*name.rsplit(".", 1))
    module_name, _, attributes = name.partition(".")
    if name.startswith("prompt_tuning_core.plugins."):
        return signature(registry.process_registry().load_in_gin(name.rpartition(".")[2]))
    module = importlib.import_module(module_name)
    found = module
    for attribute in attributes.split("."):
        module_name += f".{attribute}"
        if inspect.ismodule(found) and not hasattr(found, attribute):
            importlib.import_module(module_name)
        found = getattr(found, attribute)
    return signature(found)


def signature(function: object) -> set[str]:
    return set(inspect.signature(function).parameters)


@functools.cache
def parameters_in_source(module: str, name: str) -> frozenset[str]:
    """Returns the parameters of a function or a class: a dataclass has the fields of its bases."""
    folder = gin_config.find_module(module)
    file = folder / "__init__.py"
    if folder.name != module.rpartition(".")[2]:
        file = folder / f"{module.rpartition('.')[2]}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return arguments_of(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    return arguments_of(part) - {"self"}
            fields = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
            for base in map(ast.unparse, node.bases):
                first, _, rest = base.partition(".")
                full = f"{imported[first]}.{rest}" if first in imported else f"{module}.{base}"
                fields |= parameters(full)
            return frozenset(fields)
    assert name in imported, f"{module} has no {name}"
    return frozenset(parameters(imported[name]))


def arguments_of(function: ast.FunctionDef) -> frozenset[str]:
    return frozenset(arg.arg for arg in [*function.args.args, *function.args.kwonlyargs])


def of_t5x(name: str) -> GinFile:
    """Returns what is recorded of a gin file of T5X."""
    known = RECORD["macros"][name]
    macros = dict.fromkeys(known["set"], True) | dict.fromkeys(known["required"], False)
    return GinFile({}, macros, set(known["used"]), set(), [], [])


@pytest.mark.parametrize(("owner", "path"), FILES)
def test_configurables_exist_with_the_parameters_that_are_set(owner: str, path: Path) -> None:
    file = packaged_gin.read(path)

    assert file.unknown == []
    for configurable, set_in_gin in file.configurables.items():
        assert set_in_gin - parameters(configurable) == set(), configurable


@pytest.mark.parametrize(("owner", "path"), FILES)
def test_includes_are_found_by_every_engine_that_may_read_the_file(owner: str, path: Path) -> None:
    for included in packaged_gin.read(path).includes:
        if included in RECORD["macros"]:
            assert owner == "t5x"
            continue
        for engine in packaged_gin.FOLDERS if owner == "shared" else [owner]:
            assert packaged_gin.find(included, engine) is not None


@pytest.mark.parametrize("engine", packaged_gin.FOLDERS)
def test_a_command_searches_these_folders(engine: str) -> None:
    searched = [folder.path for folder in gin_config.search_paths(engine) if folder.engine]

    assert sorted(searched[:-1]) == sorted(packaged_gin.FOLDERS[engine][:-1])
    assert searched[-1] == packaged_gin.SHARED


@pytest.mark.parametrize("file", ["runs/prompt_eval.gin", "runs/prompt_infer.gin"])
def test_t5x_restores_float32_to_use_a_prompt(file: str) -> None:
    # T5X's own infer.gin has bfloat16, which hides small changes of a prompt.
    text = packaged_gin.FOLDERS["t5x"][0].joinpath(file).read_text(encoding="utf-8")
    block = text.partition("\nutils.RestoreCheckpointConfig:\n")[2].partition("\n\n")[0]
    assert "  dtype = 'float32'\n" in block
    assert text.index("include 't5x/") < text.index("utils.RestoreCheckpointConfig:")


@pytest.mark.parametrize("engine", ["local", "t5x"])
def test_every_macro_is_set_or_said_to_be_the_users(engine: str) -> None:
    for names in packaged_gin.combinations(engine):
        files = [file for name in names for file in packaged_gin.walk(name, engine, of_t5x)]
        has_value: dict[str, bool] = {}
        for file in files:
            has_value |= file.macros
        used = set().union(*(file.used for file in files))
        missing = {macro for macro in used if not has_value.get(macro)}
        to_be_set = set().union(*(file.to_be_set for file in files))

        assert missing - to_be_set == set(), names
        assert to_be_set - used == set(), names


def test_every_macro_that_is_set_is_used() -> None:
    read = [(owner, path, packaged_gin.read(path)) for owner, path in packaged_gin.files()]
    of_project = set().union(*(known["used"] for known in RECORD["macros"].values()))

    for engine in packaged_gin.FOLDERS:
        # A shared file sets what any engine uses.
        mine = [file for owner, _, file in read if owner in (engine, "shared")]
        used = set().union({"HOOKS"}, *(file.used for file in mine))
        if engine == "t5x":
            used |= of_project
        for owner, path, file in read:
            if owner == engine:
                assert set(file.macros) - used == set(), path
    used = set().union(of_project, *(file.used for _, _, file in read))
    for owner, path, file in read:
        if owner == "shared":
            assert set(file.macros) - used == set(), path


@pytest.mark.parametrize("run", packaged_gin.COMMANDS)
def test_both_engines_have_the_same_macros(run: str) -> None:
    def macros(engine: str) -> set[str]:
        files = [
            file
            for name in ("models/t5_1_1_small_prompt.gin", run)
            for file in packaged_gin.walk(name, engine, of_t5x)
        ]
        return set().union(*(file.used.union(file.macros) for file in files))

    # Our command reads HOOKS itself, whether a file uses it or not.
    assert macros("local") - macros("t5x") - {"HOOKS"} <= ONLY_LOCAL


def parse_all(engine: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "parse_packaged_gin.py"), engine],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) == len(list(packaged_gin.combinations(engine)))


@pytest.mark.slow
def test_the_embedded_engine_reads_every_combination() -> None:
    parse_all("local")


@pytest.mark.t5x
def test_t5x_reads_every_combination() -> None:
    needs_t5x()
    parse_all("t5x")


@pytest.mark.t5x
def test_the_record_of_t5x_is_true(tmp_path: Path) -> None:
    needs_t5x()
    subprocess.run([sys.executable, str(HERE / "record_t5x.py"), str(tmp_path / "now")], check=True)

    assert json.loads((tmp_path / "now").read_text(encoding="utf-8")) == RECORD


def needs_t5x() -> None:
    for name in ("t5x", "flaxformer"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} not installed; tests/t5x_environment.sh sets it up")
