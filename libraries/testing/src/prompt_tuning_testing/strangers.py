"""Distributions of other authors, one for each kind of plugin, for tests of code with plugins.

`STRANGERS` has them by kind. Each can be written as a fake distribution (`Stranger.put`) or as a
project to build a wheel from (`Stranger.write_project`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_tuning_testing.pytest_plugin import Site


@dataclasses.dataclass(frozen=True)
class Stranger:
    """A small distribution that this project does not know.

    Attributes:
      name: Its name, such as `a-strangers-engine`.
      entry_points: Names and values by group, such as `engines` (without `prompt_tuning.`).
      files: Text by file name, inside its one package.
      summary: Its description.
      version: Its version.
      requires: The distributions that it requires.
    """

    name: str
    entry_points: Mapping[str, Mapping[str, str]]
    files: Mapping[str, str]
    summary: str
    version: str = "0.3.0"
    requires: tuple[str, ...] = ("prompt-tuning-core>=1,<2",)

    @property
    def package(self) -> str:
        """The name of its package."""
        return self.name.replace("-", "_")

    def put(self, site: Site) -> None:
        """Writes it to a site, as an installer would leave it."""
        site.distribution(
            self.name,
            self.entry_points,
            {f"{self.package}/{file}": text for file, text in self.files.items()},
            version=self.version,
            summary=self.summary,
            requires=self.requires,
        )

    def write_project(self, folder: Path) -> None:
        """Writes its `pyproject.toml` and its sources to a folder."""
        # A string of JSON is one of TOML too.
        lines = [
            "[build-system]",
            'requires = ["uv_build>=0.13,<0.14"]',
            'build-backend = "uv_build"',
            "[project]",
            f"name = {json.dumps(self.name)}",
            f"version = {json.dumps(self.version)}",
            f"description = {json.dumps(self.summary)}",
            f"dependencies = {json.dumps(list(self.requires))}",
        ]
        for group, points in self.entry_points.items():
            lines.append(f'[project.entry-points."prompt_tuning.{group}"]')
            lines += [f"{json.dumps(name)} = {json.dumps(to)}" for name, to in points.items()]
        texts = {f"src/{self.package}/{file}": text for file, text in self.files.items()}
        for file, text in {"pyproject.toml": "\n".join(lines) + "\n", **texts}.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


_INITIALIZER = '''\
import jax.numpy as jnp


def init_ramp(limit=1.0):
    """Returns an initializer that fills a prompt with equally spaced values from 0 to limit."""

    def initializer(rng, shape):
        del rng
        return jnp.linspace(0.0, limit, shape[0] * shape[1]).reshape(shape)

    initializer.uses_rng = False
    return initializer
'''

_HOOKS = '''\
"""Writes a line for each saved prompt: its norm, and how far it is from its first value."""

import csv
from pathlib import Path

import numpy as np

from prompt_tuning_core.hookspecs import hookimpl
from prompt_tuning_files import formats

_first = {}


@hookimpl
def prompt_initialized(parameters):
    _first.clear()  # This process may have trained another prompt before.
    _first.update({name: np.array(value) for name, value in parameters.items()})


@hookimpl
def prompt_saved(paths, provenance):
    prompt = formats.read_prompt(paths[-1])  # The file with all arrays comes last.
    arrays = {"": prompt.array} if prompt.module is None else prompt.module.parameters
    first = _first if prompt.module is not None else {"": next(iter(_first.values()), None)}
    # A run that is resumed has no first value.
    moved = [arrays[name] - value for name, value in first.items() if value is not None]
    path = Path(paths[0]).with_name("prompts.csv")
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["step", "norm", "distance"])
        distance = f"{_norm(moved):.6g}" if moved else ""
        writer.writerow([provenance["step"], f"{_norm(arrays.values()):.6g}", distance])


def _norm(arrays):
    return sum(float((array**2).sum()) for array in arrays) ** 0.5
'''

_ENGINE = """\
class Engine:
    def train(self, flags):
        from prompt_tuning_core import gin_config
        gin_config.parse(flags, "mine")
        from a_strangers_engine import training
        training.train()

    eval = infer = train
"""

_TRAINING = """\
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
"""

_RUN = """\
import a_strangers_engine.training

train.initializer = %PROMPT_INIT
train.length = %PROMPT_LENGTH
train.width = %EMBED_DIM
train.steps = %TRAIN_STEPS
"""

_RAMP = """\
from __gin__ import dynamic_registration
from prompt_tuning_core import plugins

PROMPT_INIT = @plugins.init_ramp()
"""

_COMMAND = '''\
"""Greets somebody."""


def add_arguments(parser):
    parser.add_argument("--name", required=True, help="who is greeted")


def run(arguments):
    print("hello", arguments.name)
    return 0
'''

_CATALOG = """\
from prompt_tuning_files.names import Known


def models():
    return [Known("a-strangers-t5", lambda: "gs://bucket/t5", facts={"WIDTH": "8"})]


def prompts():
    return []
"""

_FORMAT = """\
import os

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files.formats import Prompt


class Rows:
    @staticmethod
    def sample_prompt(folder):
        path = folder / "prompt.rows"
        path.write_text("rows\\n1 2 3\\n4 5 6\\n")
        return path

    def recognizes_prompt(self, path):
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            return False
        with open(path, "rb") as file:
            return file.read(5) == b"rows\\n"

    def read_prompt(self, path, shape=None):
        try:
            with open(path, encoding="ascii") as file:
                array = np.array([line.split() for line in file][1:], np.float32)
        except (OSError, ValueError) as error:
            raise InputError(f"prompt {path}: not rows of numbers: {error}") from error
        if array.ndim != 2 or array.size == 0 or shape not in (None, array.shape):
            raise InputError(f"prompt {path}: has the shape {array.shape}, expected {shape}")
        return Prompt(array, {"from": "rows"})
"""

STRANGERS: dict[str, Stranger] = {
    "initializer": Stranger(
        "a-strangers-initializer",
        {"initializers": {"init_ramp": "a_strangers_initializer:init_ramp"}},
        {"__init__.py": _INITIALIZER},
        "Equally spaced values",
    ),
    "prompt": Stranger(
        "a-strangers-prompt",
        {"prompts": {"prompt_stranger": "a_strangers_prompt:Strange"}},
        {"__init__.py": Path(__file__).with_name("strange_prompt.py").read_text()},
        "A prompt that acts at four points",
    ),
    "hooks": Stranger(
        "a-strangers-hooks",
        {"hooks": {"tell": "a_strangers_hooks"}},
        {"__init__.py": _HOOKS},
        "Writes the norm of each saved prompt, and its distance from the first",
        requires=("prompt-tuning-core>=1,<2", "prompt-tuning-files>=1,<2"),
    ),
    # Its gin files have the names that all engines have.
    "engine": Stranger(
        "a-strangers-engine",
        {
            "engines": {"mine": "a_strangers_engine:Engine"},
            "configs": {"mine": "a_strangers_engine.gin_files"},
        },
        {
            "__init__.py": _ENGINE,
            "training.py": _TRAINING,
            "gin_files/__init__.py": "",
            "gin_files/models/t5_1_1_small_prompt.gin": (
                "include 'models/sizes/small.gin'\nPROMPT_LENGTH = 2\n"
            ),
            "gin_files/runs/prompt_finetune.gin": _RUN,
        },
        "Draws a prompt to a constant",
        requires=("prompt-tuning-core>=1,<2", "prompt-tuning-configs>=1,<2"),
    ),
    "configs": Stranger(
        "a-strangers-configs",
        {"configs": {"shared": "a_strangers_configs"}},
        {"__init__.py": "", "prompts/from_ramp.gin": _RAMP},
        "A gin file for a ramp",
    ),
    "command": Stranger(
        "a-strangers-command",
        {"commands": {"greet": "a_strangers_command"}},
        {"__init__.py": _COMMAND},
        "Greets somebody",
    ),
    "catalog": Stranger(
        "a-strangers-catalog",
        {"catalogs": {"their_models": "a_strangers_catalog"}},
        {"__init__.py": _CATALOG},
        "A model of a stranger",
        requires=("prompt-tuning-core>=1,<2", "prompt-tuning-files>=1,<2"),
    ),
    "format": Stranger(
        "a-strangers-format",
        {"formats": {"rows": "a_strangers_format:Rows"}},
        {"__init__.py": _FORMAT},
        "Prompts as lines of numbers",
        requires=("prompt-tuning-core>=1,<2", "prompt-tuning-files>=1,<2"),
    ),
}
"""A distribution of each kind of plugin, by the kind's name; tasks have no stranger."""
