"""Builds wheels and installs them in environments; this needs `uv`, `uv_build` and `pip`."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT", "PROMPT_TUNING")
"""Beginnings of environment variables that would make Python or uv use other files."""


def run(*command: str | Path, cwd: Path, expected: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command, which must end with the exit code `expected`."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def build(project: Path, out: Path, *options: str) -> None:
    """Builds a project's source distribution and wheel, or the one that uv's options name."""
    run(
        sys.executable,
        *["-m", "uv", "build", "--quiet", "--offline", "--no-build-isolation", "--python"],
        *(sys.executable, "--out-dir", str(out), *options, str(project)),
        cwd=out,
    )


def build_wheel(project: Path, out: Path) -> Path:
    """Builds a project's wheel into an empty folder, and returns the wheel."""
    build(project, out, "--wheel")
    (path,) = out.glob("*.whl")
    return path


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheels installed in it, and third-party libraries.

    Attributes:
      folder: Its folder, which is the current directory of its processes.
    """

    folder: Path

    def python(self, *arguments: str | Path) -> str:
        """Runs Python, which must succeed, and returns its standard output."""
        return run(self.folder / "bin" / "python", *arguments, cwd=self.folder).stdout

    def prompt_tuning(self, *arguments: str | Path) -> str:
        """Runs `prompt-tuning`, which must succeed, and returns its standard output."""
        return run(self.folder / "bin" / "prompt-tuning", *arguments, cwd=self.folder).stdout

    def refusal(self, *arguments: str) -> str:
        """Runs `prompt-tuning`, which must fail, and returns its one line of error."""
        command = self.folder / "bin" / "prompt-tuning"
        done = run(command, *arguments, cwd=self.folder, expected=2)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("prompt-tuning: error: ").rstrip("\n")

    @property
    def site_packages(self) -> Path:
        """The folder of installed packages."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def plugins(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Runs `prompt-tuning list-plugins --json`, and returns its objects by name."""
        rows = json.loads(self.prompt_tuning("list-plugins", "--json", *arguments))
        return {row["name"]: row for row in rows}


def link_third_party(folder: Path) -> None:
    """Fills a folder with links to the libraries of this environment, without any of ours."""
    for installed in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(installed).iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith("prompt_tuning_"):
                (folder / entry.name).symlink_to(entry)


def install(folder: Path, third_party: Path, wheels: Sequence[Path]) -> Environment:
    """Makes an environment with pip.

    Args:
      folder: The folder of the environment.
      third_party: A folder of libraries, which the environment sees without a copy.
      wheels: The wheels to install, without their dependencies.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
        *("--no-deps", "--no-index", "--disable-pip-version-check", *map(str, wheels)),
        cwd=folder,
    )
    environment = Environment(folder)
    (environment.site_packages / "third_party.pth").write_text(f"{third_party}\n")
    return environment
