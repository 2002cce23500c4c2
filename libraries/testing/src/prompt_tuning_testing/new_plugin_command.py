"""Write the project of a new plugin: it passes its own tests, and builds a wheel."""

from __future__ import annotations

import argparse
import datetime
import importlib.resources
import keyword
import re
import shutil
import string
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.kinds import A_NAME, KINDS, SHARED

LICENSES = ("MIT", "Apache-2.0", "none")


class Template(NamedTuple):
    """The contents of a project of one kind, in addition to the files of all projects.

    Attributes:
      a_kind: The kind in words, for its README.
      value: The value of its entry point after its package: `:attribute`, or "".
      uses: The distributions that it requires in addition to the core.
      files: The names of other files, by the name of the template; `$name` stands for its name.
      more: Other entry points: a group, a name and a value.
    """

    a_kind: str
    value: str = ""
    uses: tuple[str, ...] = ()
    files: Mapping[str, str] = {}
    more: tuple[tuple[str, str, str], ...] = ()


TEMPLATES: dict[str, Template] = {
    "initializer": Template("an initializer", ":$name"),
    "prompt": Template("a prompt module", ":$class_name"),
    "engine": Template(
        "an engine",
        ":Engine",
        ("configs", "files"),
        {"training.py": "training.py", "run.gin": "configs/runs/prompt_finetune.gin"},
        (("configs", "$name", "$package.configs"),),
    ),
    "hooks": Template("hooks of a run"),
    "configs": Template(
        "gin files", "", ("configs", "init-random"), {"wide.gin": "prompts/from_$name.gin"}
    ),
    "tasks": Template("tasks", "", ("tasks",)),
    "format": Template("a form of prompt files", ":Format", ("files",)),
    "catalog": Template("names of models", "", ("files",)),
    "command": Template("a command", "", ("files",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("name", metavar="NAME", help="the plugin's name, such as init_mine")
    parser.add_argument("--kind", required=True, choices=TEMPLATES, help="the kind of plugin")
    parser.add_argument(
        "--folder", default=None, help="the folder to write (default: it has the project's name)"
    )
    parser.add_argument(
        "--license", default="MIT", choices=LICENSES, help="the project's license (default: MIT)"
    )
    parser.epilog = "Example: prompt-tuning new-plugin init_mine --kind=initializer"


def run(arguments: argparse.Namespace) -> int:
    """Writes the project, and prints what to do next."""
    _check_name(arguments.kind, arguments.name)
    distribution = "prompt-tuning-" + re.sub(r"[^a-z0-9]+", "-", arguments.name.lower()).strip("-")
    folder = Path(arguments.folder or distribution).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no empty folder; give another --folder")
    files = _files(arguments.kind, arguments.name, distribution, arguments.license)
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    print(f"wrote {folder}: {', '.join(sorted(files))}")
    print(f"next: cd {folder} && pip install --editable '.[test]' && pytest")
    return 0


def _check_name(kind: str, name: str) -> None:
    pattern = KINDS[kind].names
    if not pattern.fullmatch(name) or keyword.issoftkeyword(name):
        allowed = A_NAME[pattern]
        raise InputError(f"{name!r} is no name of this kind ({kind}): it must be {allowed}")
    if kind == "configs":
        return  # Its entry point has the name of an engine; this name is only for the project.
    for plugin in registry.process_registry().discover():
        if plugin.name == name and (plugin.kind == kind or KINDS[kind].in_gin):
            raise InputError(f"{name!r} is taken by {plugin}; choose another name")


def _files(kind: str, name: str, distribution: str, license_name: str) -> dict[str, str]:
    """Returns the text of each file of the project by its path."""
    template = TEMPLATES[kind]
    package = distribution.replace("-", "_")
    words = re.sub(r"[^A-Za-z0-9]+", " ", name)
    values = {
        "name": name,
        "distribution": distribution,
        "package": package,
        "class_name": "".join(word.capitalize() for word in words.split()),
        "summary": f"{words.capitalize()}, {template.a_kind}",
        "a_kind": template.a_kind,
        "year": str(datetime.date.today().year),
        "usage": _usage(kind, name),
        "license_lines": "# Choose a license, and name it here."
        if license_name == "none"
        else f'license = "{license_name}"\nlicense-files = ["LICENSE"]',
        "dependencies": "\n".join(
            f'    "prompt-tuning-{use}>=1,<2",' for use in sorted(["core", *template.uses])
        ),
    }
    own_name = SHARED if kind == "configs" else name
    points = [(KINDS[kind].group, own_name, f"$package{template.value}")]
    points += [(f"prompt_tuning.{group}", key, value) for group, key, value in template.more]
    values["entry_points"] = "\n\n".join(
        _filled(f'[project.entry-points."{group}"]\n"{key}" = "{value}"', values)
        for group, key, value in points
    )
    sources = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        ".github/workflows/test.yml": "common/test.yml",
        f"src/{package}/__init__.py": f"{kind}/module.py",
        f"src/{package}/py.typed": "common/py.typed",
        f"tests/test_{package.removeprefix('prompt_tuning_')}.py": f"{kind}/test.py",
        **{
            f"src/{package}/{_filled(path, values)}": f"{kind}/{file}"
            for file, path in template.files.items()
        },
    }
    if license_name != "none":
        sources["LICENSE"] = f"common/{license_name}"
    if kind == "engine":
        sources[f"src/{package}/configs/__init__.py"] = "common/py.typed"
    return {path: _filled(_template(source), values) for path, source in sources.items()}


def _usage(kind: str, name: str) -> str:
    if kind == "initializer":
        # In quotes: a shell would read the parentheses.
        return f'prompt-tuning train … --gin.prompts.make.prompt_init="@plugins.{name}()"'
    if kind == "prompt":
        return f"prompt-tuning train … --gin.PROMPT=@plugins.{name}"
    if kind == "configs":
        return f"prompt-tuning train … --gin_file=prompts/from_{name}.gin"
    return KINDS[kind].usage.format(name=name, words=name.replace(".", " "))


def _template(name: str) -> str:
    folder = importlib.resources.files("prompt_tuning_testing") / "new_plugin"
    return (folder / f"{name}.txt").read_text(encoding="utf-8")


def _filled(text: str, values: Mapping[str, str]) -> str:
    return string.Template(text).substitute(values)
