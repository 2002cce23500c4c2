"""Lists the distributions of this repository, and the places that name their version."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from prompt_tuning_core.errors import InputError

CORE = "prompt-tuning-core"
# In `pyproject.toml`, in a package's `__init__.py`, in CITATION.cff, and in the core's extras.
VERSION = re.compile(
    r'(?m)(^version = "|^__version__ = "|^version: |"prompt-tuning-[\w-]+==)([^"\s]+)'
)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A distribution of this repository.

    Attributes:
      folder: Its project's folder.
      project: The table `project` of its `pyproject.toml`.
    """

    folder: Path
    project: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name on a package index."""
        return str(self.project["name"])

    @property
    def package(self) -> str:
        """The name of its Python package, and of its files."""
        return self.name.replace("-", "_")

    @property
    def readme(self) -> Path:
        """The file that becomes its long description."""
        return self.folder / str(self.project["readme"])

    @functools.cached_property
    def requirements(self) -> dict[str, Requirement]:
        """The requirements without an extra, by name."""
        required = map(Requirement, self.project["dependencies"])
        return {requirement.name: requirement for requirement in required}


def read(root: Path) -> dict[str, Distribution]:
    """Returns all distributions by name, in the order of publishing: the core comes last.

    The core's extras name the other distributions. If a name in an extra is not on the index yet,
    somebody else could take it, and users of the extra would install that distribution.
    """
    workspace = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["uv"]
    members = [
        file.parent
        for pattern in workspace["workspace"]["members"]
        for file in sorted(root.glob(f"{pattern}/pyproject.toml"))
    ]
    found = {}
    for folder in [*members, root]:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        found[project["name"]] = Distribution(folder, project)
    return found


def files_with_a_version(root: Path) -> list[Path]:
    """Returns the files that name the version of the distributions."""
    files = [root / "CITATION.cff"]
    for one in read(root).values():
        files.append(one.folder / "pyproject.toml")
        for package in (one.folder / one.package, one.folder / "src" / one.package):
            module = package / "__init__.py"
            if module.exists() and "__version__ = " in module.read_text("utf-8"):
                files.append(module)
    return files


def version(root: Path) -> str:
    """Returns the version of all distributions.

    Raises:
      InputError: Two places name different versions.
    """
    named: dict[str, str] = {}
    for file in files_with_a_version(root):
        text = file.read_text("utf-8")
        for match in VERSION.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            named.setdefault(match[2], f"{file.relative_to(root)}:{line}")
    if len(named) > 1:
        places = ", ".join(f"{found} in {place}" for found, place in named.items())
        raise InputError(
            f"the version differs: {places}; all distributions are released together, with one "
            "version: run make release VERSION=…"
        )
    return next(iter(named))


def with_version(root: Path, new: str) -> dict[Path, str]:
    """Returns the texts of all files that name the version, with a new version.

    Args:
      root: The folder of the checkout.
      new: The new version, three numbers: "1.2.0".

    Raises:
      InputError: `new` has another form, or one of our distributions requires another of ours in a
        range without `new`.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise InputError(f"VERSION={new}: expected three numbers, such as 1.2.0")
    ours = read(root)
    for one in ours.values():
        for name, requirement in one.requirements.items():
            if name in ours and not requirement.specifier.contains(new):
                raise InputError(
                    f"VERSION={new}: {one.name} requires {requirement}; change what our "
                    "distributions require of one another first"
                )
    return {
        file: VERSION.sub(rf"\g<1>{new}", file.read_text("utf-8"))
        for file in files_with_a_version(root)
    }
