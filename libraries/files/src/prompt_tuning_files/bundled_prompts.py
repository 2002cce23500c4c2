"""Prompts that installed packages carry, found by model and task.

A plugin of the kind `pretrained` is a package whose folder holds them as `MODEL/TASK.npy`, with the
provenance of each beside it. Its folder is looked at; nothing of it is imported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PluginError, PluginLoadError


@dataclasses.dataclass(frozen=True)
class BundledPrompt:
    """A prompt in an installed package.

    Attributes:
      name: `MODEL/TASK`.
      path: The file.
      distribution: The distribution that carries it.
    """

    name: str
    path: Path
    distribution: str


def installed() -> list[BundledPrompt]:
    """Lists the prompts of all packages that may be used, by name.

    Raises:
      PluginError: If a package's entry point cannot be used.
    """
    prompts, broken = _found()
    if broken:
        raise broken[0]
    return prompts


def find(name: str) -> Path | None:
    """Returns the file of the prompt that is called `MODEL/TASK`; None if no package has it.

    Raises:
      InputError: If several packages have it.
      PluginError: If none has it, and a package's entry point cannot be used.
    """
    prompts, broken = _found()
    claims = [prompt for prompt in prompts if prompt.name == name]
    if len(claims) > 1:
        carriers = [prompt.distribution for prompt in claims]
        raise InputError(
            f"prompt {name}: in the distributions {' and '.join(carriers)}; block one of them "
            f"({registry.BLOCK_VARIABLE}={carriers[0]}), or give a path"
        )
    if not claims and broken:
        raise broken[0]
    return claims[0].path if claims else None


def _found() -> tuple[list[BundledPrompt], list[PluginError]]:
    """Returns the prompts by name, and why some packages cannot be looked at."""
    # Late: it imports gin.
    from prompt_tuning_core.gin_config import find_module

    prompts: list[BundledPrompt] = []
    broken: list[PluginError] = []
    for plugin in registry.process_registry().discover():
        if plugin.kind != "pretrained" or plugin.status == "blocked":
            continue
        try:
            registry.process_registry().find(plugin.kind, plugin.name)
            folder = find_module(plugin.value)
        except PluginError as error:
            broken.append(error)
            continue
        except InputError as error:
            broken.append(PluginLoadError(f"{plugin} names {plugin.value!r}: {error}"))
            continue
        prompts += [
            BundledPrompt(f"{file.parent.name}/{file.stem}", file, plugin.distribution)
            for file in folder.glob("*/*.npy")
        ]
    return sorted(prompts, key=lambda prompt: prompt.name), broken
