"""Runs the pages for authors of plugins to the letter: their commands, their code, their output.

The Python of the README runs in the same way. `helpers/pages.py` says what becomes of each kind of
block.

`docs/tutorials/first-initializer.md` is one story, in one shell and one folder. In the reference
for authors each section (`## …`) is a distribution of its own: the modules and the entry points of
its blocks are installed as an installer would leave them, and loaded through the registry; its
tests are run by pytest; and its `prompt-tuning` commands run in this process, beside the tutorial's
`few.gin` and `rows.jsonl`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import Block, blocks_of, compare

from prompt_tuning_testing import wheels
from prompt_tuning_testing.pytest_plugin import Site

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

ROOT = Path(__file__).parents[1]
TUTORIAL = "tutorials/first-initializer.md"
REFERENCE = ("plugins.md", "prompt-modules.md")


class Shell:
    """One bash that runs block after block, so that `cd` and an activated environment last."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-e"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, commands: str, fails: bool) -> str:
        """Runs commands, and returns what they print; ends bash if they fail without `fails`."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        group = f"{{\n{commands}}} </dev/null"
        wrapped = f"if {group}\nthen exit 99\nfi" if fails else group
        self._bash.stdin.write(f"{wrapped}\nprintf '\\n%s\\n' end-of-block:$PWD\n")
        self._bash.stdin.flush()
        printed = []
        for line in self._bash.stdout:
            if line.startswith("end-of-block:"):
                self.folder = Path(line.removeprefix("end-of-block:").rstrip("\n"))
                return "".join(printed)
            printed.append(line)
        pytest.fail(
            f"exit code {self._bash.wait()} of\n{commands}\nwhich printed\n{''.join(printed)}"
        )

    def close(self) -> None:
        """Ends bash."""
        self._bash.communicate("")


@pytest.fixture
def readers_shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder, as a reader has it.

    In place of PyPI there are wheels of this checkout, and third-party libraries count as
    installed; nothing reaches the network.
    """
    for name in ("wheels", "third_party", "bin", "reader"):
        (tmp_path / name).mkdir()
    wheels.build(ROOT, tmp_path / "wheels", "--all-packages", "--wheel")
    wheels.link_third_party(tmp_path / "third_party")
    programs = {"python": "", "pytest": "-m pytest", "mypy": "-m mypy"}
    for name, words in programs.items():
        # Once an environment is activated, its Python is the first on the path.
        python = "python" if words else sys.executable
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {python} {words} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("uv", "uv-build", "ruff"):
        (tmp_path / "bin" / name).symlink_to(Path(sys.executable).with_name(name))
    ours = ("PYTHON", "VIRTUAL_ENV", "UV_", "PIP_", "PROMPT_TUNING", "COVERAGE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path / "third_party"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of the option: no isolation.
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
    }
    shell = Shell(tmp_path / "reader", environment)
    shell.folder = tmp_path / "reader"
    yield shell
    shell.close()


def test_the_tutorial_works_from_an_empty_folder_to_an_installed_wheel(
    readers_shell: Shell, record_testsuite_property: Callable[[str, object], None]
) -> None:
    printed = ""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for block in blocks_of(TUTORIAL):
        if block.is_file:
            (readers_shell.folder / block.rest).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            printed = readers_shell.run(block.text, block.rest == "fails")
        elif block.language == "output":
            compare(printed, block.text, f"{TUTORIAL}:{block.line}")
    readers_shell.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record_testsuite_property("cpu_seconds_of_the_tutorial", round(seconds, 1))


SECTIONS = [
    pytest.param(page, section, id=f"{page}-{section}")
    for page in REFERENCE
    for section in dict.fromkeys(block.section for block in blocks_of(page))
    if any(block.language != "text" for block in blocks_of(page) if block.section == section)
]
TRAINED_WITH = ("few.gin", "rows.jsonl")


def install(site: Site, blocks: list[Block]) -> dict[str, str]:
    """Makes a section's distribution and files; returns its entry points by name."""
    points: dict[str, dict[str, str]] = {}
    for block in blocks:
        if block.language == "toml":
            declared = tomllib.loads(block.text)["project"]["entry-points"]
            points |= {group.removeprefix("prompt_tuning."): of for group, of in declared.items()}
    files = {block.rest: block.text for block in blocks if block.is_file}
    carried = {name: text for name, text in files.items() if "/" in name or name.endswith(".py")}
    packages = {folder for name in carried for folder in Path(name).parents[:-1]}
    inits = {f"{folder.as_posix()}/__init__.py": "" for folder in packages}
    site.distribution("authors-example", points, {**inits, **carried})
    tutorial = {block.rest: block.text for block in blocks_of(TUTORIAL)}
    for name in TRAINED_WITH:
        site.write(name, tutorial[name])
    for name in files.keys() - carried.keys():
        site.write(name, files[name])
    return {name: value for of in points.values() for name, value in of.items()}


@pytest.mark.parametrize(("page", "section"), SECTIONS)
def test_each_example_of_the_reference_works(
    page: str,
    section: str,
    in_process: Site,
    main: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = [block for block in blocks_of(page) if block.section == section]
    declared = install(in_process, blocks)

    printed = ""
    for block in blocks:
        if block.language == "sh":
            printed = ""
            for command in block.text.replace("\\\n", " ").splitlines():
                variables, _, rest = command.rpartition("prompt-tuning ")
                with monkeypatch.context() as patch:
                    for variable in variables.split():
                        patch.setenv(*variable.split("=", 1))
                    code, out, error = main(*shlex.split(rest))
                assert code == 0, f"{page}:{block.line}: {command}\n{out}{error}"
                printed += out + error
        elif block.language == "output":
            compare(printed, block.text, f"{page}:{block.line}")
        elif block.is_file and block.rest.startswith("test_"):
            # The page's `check` command, or the tutorial, tries all of the contract.
            options = ("-q", "-p", "no:cacheprovider", "-k", "points or shape")
            options = (*options, str(in_process.folder / block.rest))
            done = in_process.python("-m", "pytest", *options)
            assert done.returncode == 0, done.stdout
            assert " passed" in done.stdout

    rows = json.loads(main("list-plugins", "--check", "--json")[1])
    ours = {row["name"]: row["status"] for row in rows if row["distribution"] == "authors-example"}
    assert ours == dict.fromkeys(declared, "ok")


def test_the_python_of_the_readme_prints_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.search(r"^```python\n(.*?)^```\n\n```output\n(.*?)^```", readme, re.M | re.S)
    assert blocks is not None
    code, expected = blocks.groups()
    monkeypatch.chdir(tmp_path)

    exec(code, {})

    compare(capsys.readouterr().out, expected, "README.md")
    assert (tmp_path / "reviews.npy").is_file()


def test_every_kind_and_every_hook_has_an_example() -> None:
    from prompt_tuning_core import hookspecs
    from prompt_tuning_core.kinds import KINDS

    blocks = [block for page in REFERENCE for block in blocks_of(page)]
    declared = "".join(block.text for block in blocks if block.language == "toml")
    assert [kind.name for kind in KINDS.values() if f'"{kind.group}"' not in declared] == []
    code = "".join(block.text for block in blocks if block.language == "python")
    hooks = [
        name for name, value in vars(hookspecs).items() if hasattr(value, "prompt_tuning_spec")
    ]
    assert len(hooks) == 5
    assert [name for name in hooks if f"@hookimpl\ndef {name}(" not in code] == []


def test_the_line_for_setuptools_carries_the_data(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="needs setuptools, which the page is about")
    (lines,) = [block.text for block in blocks_of("plugins.md") if block.section == "Package data"]
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "a"\nversion = "1"\n{lines}')
    data = {"table.npy", "one.gin", "configs/runs/two.gin", "configs/three.npy"}
    for name in ("__init__.py", "configs/__init__.py", *data):
        (tmp_path / "src" / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "mine" / name).touch()
    build = "import setuptools, sys; sys.argv = ['', 'build_py']; setuptools.setup()"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, check=True)
    built = tmp_path / "build" / "lib" / "mine"
    assert data <= {file.relative_to(built).as_posix() for file in built.rglob("*")}
