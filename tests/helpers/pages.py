"""Reads pages of the documentation by their fenced blocks, and runs them.

The first words after the opening ``` say what becomes of a block:

- `sh`: its commands are run. `sh fails`: they must end with an exit code other than 0.
- `output`: the `sh` block before it printed this. `…` stands for any text, and a line with nothing
  but `…` for any lines.
- `python FILE`, `gin FILE`, `json FILE`, `text FILE`: it is this file, which the text before names.
- `toml`: entry points of a distribution, the section's in the reference for authors.
- `text` alone: it cannot be run here.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prompt_tuning_testing.pytest_plugin import Site

DOCS = Path(__file__).parents[2] / "docs"
Main = Callable[..., tuple[int, str, str]]


class Block(NamedTuple):
    """A fenced block of a page."""

    section: str
    language: str
    rest: str
    text: str
    line: int

    @property
    def is_file(self) -> bool:
        return self.language in ("python", "gin", "json", "text") and bool(self.rest)


def blocks_of(page: str) -> list[Block]:
    """Reads the blocks of a page of `docs`, with the `##` heading that each stands under."""
    found = []
    section = before = ""
    lines = iter(enumerate((DOCS / page).read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line.startswith("```"):
            before += line + "\n"
            continue
        language, _, rest = line.removeprefix("```").partition(" ")
        inside = []
        for _, code in lines:
            if code == "```":
                break
            inside.append(code + "\n")
        block = Block(section, language, rest, "".join(inside), number)
        known = {"python", "gin", "json", "sh", "output", "toml", "text"}
        assert language in known, f"{page}:{number}: no rule for {language!r}"
        assert not block.is_file or f"`{rest}`" in before, (
            f"{page}:{number}: the text names no file"
        )
        found.append(block)
        before = ""
    return found


def compare(printed: str, expected: str, where: str) -> None:
    """Compares what commands printed with an `output` block."""

    def lines_of(text: str) -> list[str]:
        # Columns may be wider with other rows.
        return [
            re.sub(r"(?<=\S) +", " ", line).rstrip() for line in text.splitlines() if line.strip()
        ]

    found = "".join(f"{line}\n" for line in lines_of(printed))
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line).replace("…", ".*") + r"\n"
        for line in lines_of(expected)
    )
    assert re.fullmatch(pattern, found), f"{where}: printed\n{found}\n\nthe page has\n{expected}"


def _print_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    # In its place among the lines, as a terminal shows it.
    sys.stdout.write(warnings.formatwarning(message, category, *where[:2]))


class Reader:
    """Follows pages: writes their files to the site's current directory, and runs their commands.

    `prompt-tuning …`, `python FILE` and `python -m MODULE` run in this process, any other command
    in a shell.
    """

    def __init__(self, site: Site, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
        self._site = site
        self._main = main
        self._capsys = capsys

    def follow(self, page: str) -> None:
        """Does all that a page of `docs` says, and compares what it prints."""
        printed = ""
        for block in blocks_of(page):
            where = f"{page}:{block.line}"
            if block.is_file:
                self._site.write(block.rest, block.text)
            elif block.language == "toml":
                self._install(block)
            elif block.language == "sh":
                printed = self.run(block.text, where, fails=block.rest == "fails")
            elif block.language == "output":
                compare(printed, block.text, where)

    def _install(self, block: Block) -> None:
        """Installs the packages of the current directory with the entry points of a block."""
        declared = tomllib.loads(block.text)["project"]["entry-points"]
        points = {group.removeprefix("prompt_tuning."): of for group, of in declared.items()}
        self._site.distribution("page-example", points)
        for package in self._site.cwd.glob("*/__init__.py"):
            shutil.copytree(package.parent, self._site.folder / package.parent.name)

    def run(self, commands: str, where: str, *, fails: bool = False) -> str:
        """Runs commands, one a line, and returns what they print."""
        printed = ""
        for command in commands.replace("\\\n", " ").splitlines():
            code, out, error = self._run_one(command)
            assert (code != 0) == fails, f"{where}: exit code {code} of {command}\n{out}{error}"
            printed += out + error
        return printed

    def _run_one(self, command: str) -> tuple[int, str, str]:
        # Quotes keep a # in a value; one at the end of a command begins a comment.
        words = shlex.split(command, comments=True)
        if words[0] == "prompt-tuning":
            with warnings.catch_warnings():
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = _print_warning  # pytest would keep it.
                return self._main(*words[1:])
        if words[0] == "python":
            return self._python(words[1:])
        shell = ["bash", "-c", command]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def _python(self, words: list[str]) -> tuple[int, str, str]:
        module = words[0] == "-m"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[1:] if module else words)
            run = runpy.run_module if module else runpy.run_path
            run(sys.argv[0], run_name="__main__")
        return (0, *self._capsys.readouterr())
