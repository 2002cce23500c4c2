"""Fixtures for fake distributions, and for commands that find them, in this or a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.commands.main import main as run_command
from prompt_tuning_core.errors import PluginError
from prompt_tuning_testing import tiny_t5 as tiny_t5_files
from prompt_tuning_testing import wheels
from prompt_tuning_testing.strangers import STRANGERS
from prompt_tuning_testing.tiny_t5 import TinyT5

if TYPE_CHECKING:
    from prompt_tuning_testing.sample_values import SampleTable


class Site:
    """A folder of fake distributions; the processes that it starts can import from it.

    Attributes:
      folder: The folder; `distribution` writes here.
      cwd: The current directory of the processes, which is empty at first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.cwd = folder / "cwd"
        self.folder.mkdir()
        self.cwd.mkdir()

    def distribution(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]] | str,
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
        summary: str = "",
        requires: Sequence[str] = (),
    ) -> None:
        """Writes a distribution as an installer would leave it.

        Args:
          name: Its name.
          entry_points: Names and values by group, such as `initializers` (without
            `prompt_tuning.`); or the text of the file.
          modules: Text by file name; the files of a package have `package/` in front.
          version: Its version.
          summary: Its description.
          requires: Its `Requires-Dist` fields.
        """
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        fields = [("Metadata-Version", "2.4"), ("Name", name), ("Version", version)]
        fields += [("Summary", summary)] if summary else []
        fields += [("Requires-Dist", requirement) for requirement in requires]
        info.joinpath("METADATA").write_text(
            "".join(f"{field}: {value}\n" for field, value in fields)
            + "\nSummary: not a field, but a line of the description\n"
        )
        if not isinstance(entry_points, str):
            entry_points = "".join(
                f"[prompt_tuning.{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items())
                for group, names in entry_points.items()
            )
        info.joinpath("entry_points.txt").write_text(entry_points)
        for file, source in (modules or {}).items():
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)

    def write(self, file: str, text: str) -> Path:
        """Writes a file to the processes' current directory."""
        path = self.cwd / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def python(self, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs Python, with `variables` added to an environment without our own variables."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PROMPT_TUNING_", "PYTHON", "COVERAGE"))
        }
        environment["PYTHONPATH"] = str(self.folder)
        environment |= variables
        return subprocess.run(
            [sys.executable, *args],
            cwd=self.cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def command(self, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `prompt-tuning` with these arguments."""
        return self.python("-m", "prompt_tuning_core", *args, **variables)

    def error(self, *args: str, **variables: str) -> str:
        """Runs `prompt-tuning`, which must fail, and returns its one line of error."""
        process = self.command(*args, **variables)
        assert process.returncode == 2, process.stderr
        assert process.stdout == ""
        assert process.stderr.startswith("prompt-tuning: error: "), process.stderr
        assert process.stderr.count("\n") == 1, process.stderr
        return process.stderr.removeprefix("prompt-tuning: error: ").rstrip("\n")

    def rows(self, *args: str, **variables: str) -> dict[str, list[dict[str, Any]]]:
        """Runs `prompt-tuning list-plugins --json`, and returns its objects by name."""
        process = self.command("list-plugins", "--json", *args, **variables)
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in json.loads(process.stdout):
            rows.setdefault(row["name"], []).append(row)
        return rows


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty folder for fake distributions."""
    return Site(tmp_path)


@pytest.fixture
def in_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Makes this process use the `site`, with the site's current directory."""
    monkeypatch.syspath_prepend(site.folder)
    monkeypatch.chdir(site.cwd)
    modules = set(sys.modules)
    registry.configure()
    yield site
    monkeypatch.undo()
    registry.configure()
    if "gin" in sys.modules:  # Its configuration names fake modules.
        sys.modules["gin"].clear_config()
    # Another test may have a fake module of the same name.
    for name in set(sys.modules) - modules:
        if str(site.folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def main(
    in_process: Site, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Returns a function that runs `prompt-tuning` with its arguments in this process.

    It returns the exit code, standard output and standard error.
    """
    del in_process  # Only its setup is needed.

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(arguments)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def sample_table() -> SampleTable:
    """An embedding table of 4,096 rows of width 8, which counts the rows that are read."""
    from prompt_tuning_testing.sample_values import SampleTable

    return SampleTable(4096, 8)


@pytest.fixture
def tiny_t5(tmp_path: Path) -> TinyT5:
    """A tiny frozen T5 with a vocabulary and a task; skips where no engine is installed."""
    plugins = registry.process_registry().discover()
    engines = [plugin for plugin in plugins if plugin.kind == "engine" and _is_ready(plugin)]
    if not engines:
        pytest.skip("no engine is installed; run: pip install prompt-tuning-engine-local")
    try:
        return tiny_t5_files.write(tmp_path)
    except ImportError as error:
        pytest.skip(f"{error}; run: pip install 'prompt-tuning-testing[model]'")


@pytest.fixture
def run_directory(
    tiny_t5: TinyT5, main: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The directory of a finished run of the tiny T5, of four steps."""
    monkeypatch.chdir(tiny_t5.folder)
    code, _, error = main("train", *tiny_t5.flags())
    assert code == 0, error
    return tiny_t5.folder / "run"


def _is_ready(engine: registry.Plugin) -> bool:
    try:
        made = registry.process_registry().load("engine", engine.name)()
    except PluginError:
        return False
    return not hasattr(made, "missing") or made.missing() is None


@pytest.fixture(scope="session")
def stranger_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function that gives the wheel of a kind's stranger, built once in a session."""
    built: dict[str, Path] = {}

    def wheel(kind: str) -> Path:
        if kind not in built:
            folder = tmp_path_factory.mktemp(f"stranger_{kind}")
            STRANGERS[kind].write_project(folder / "project")
            (folder / "wheel").mkdir()
            built[kind] = wheels.build_wheel(folder / "project", folder / "wheel")
        return built[kind]

    return wheel


@pytest.fixture(scope="session")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Sequence[Path]], wheels.Environment]:
    """Returns a function that installs wheels in a new environment with the libraries of ours."""
    third_party = tmp_path_factory.mktemp("third_party")
    wheels.link_third_party(third_party)

    def make(paths: Sequence[Path]) -> wheels.Environment:
        return wheels.install(tmp_path_factory.mktemp("environment"), third_party, paths)

    return make
