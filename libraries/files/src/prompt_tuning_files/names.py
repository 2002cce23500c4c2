"""Names to use instead of a path: the models and prompts of the installed catalogs.

A catalog is a plugin of the kind `catalog`: an object with `models()` and `prompts()`. If a file or
a folder has the same name, the file or folder is used.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PluginError, PluginLoadError, close, one_line


@dataclasses.dataclass(frozen=True)
class Known:
    """A model or a prompt that a catalog knows by name.

    Attributes:
      name: Its name; a prompt's is `MODEL/TASK`.
      locate: Returns its path, or its address in a bucket; raises an `InputError` that says what
        to do if it is not on this machine.
      address: Its path or address, if that is known without a search.
      hugging_face: A model's name at Hugging Face, if it is there.
      facts: Facts to show in a list, by heading; the entries of one catalog share their headings.
      notes: Lines that a list shows once, below the table.
    """

    name: str
    locate: Callable[[], str]
    address: str | None = None
    hugging_face: str | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Catalog(Protocol):
    """A plugin of the kind `catalog`."""

    def models(self) -> Iterable[Known]:
        """Lists the models, without searching for their files."""

    def prompts(self) -> Iterable[Known]:
        """Lists the prompts, without searching for their files."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """An entry of a catalog.

    Attributes:
      entry: The model or the prompt.
      distribution: The distribution that carries the catalog.
    """

    entry: Known
    distribution: str


def models() -> list[Listed]:
    """Lists the models of all catalogs; warns of a catalog that cannot be used."""
    return _all("models")


def prompts() -> list[Listed]:
    """Lists the prompts of all catalogs; warns as `models`."""
    return _all("prompts")


def resolve_model(name: str | os.PathLike[str]) -> str:
    """Returns the path of a model.

    Args:
      name: A path or an address, which is returned unchanged, or a name that a catalog has.

    Raises:
      InputError: If nothing has that name, if several catalogs have it, or if the model is not on
        this machine.
      PluginError: If no usable catalog has it, and a catalog cannot be used.
    """
    return _resolve("model", name)


def resolve_prompt(name: str | os.PathLike[str]) -> str:
    """Returns the path of a prompt; takes and raises the same as `resolve_model`."""
    return _resolve("prompt", name)


def hugging_face_name(path: str) -> str | None:
    """Returns a model's name at Hugging Face, such as `google/t5-small-lm-adapt`.

    Args:
      path: A name or a path that `resolve_model` takes or returns.

    Returns:
      The name; None if neither a catalog nor the path shows it.
    """
    path = path.rstrip("/")
    for one in _found("models")[0]:
        if path in (one.entry.name, one.entry.address):
            return one.entry.hugging_face
    # A snapshot in the cache of Hugging Face's tools:
    # https://huggingface.co/docs/hub/local-cache
    cached = re.search(r"(?:^|/)models--([^/]+)/snapshots/[^/]+$", path)
    return cached[1].replace("--", "/") if cached else None


def prompts_in(folder: Path) -> tuple[Known, ...]:
    """Lists the prompts `MODEL/TASK.npy` in a folder, for the catalog of a package with prompts.

    Args:
      folder: The folder of a catalog's package.

    Raises:
      InputError: If there are none: the package was built without its data.
    """
    files = sorted(folder.glob("*/*.npy"))
    if not files:
        raise InputError(
            f"{folder} has no file MODEL/TASK.npy; its author must add them to the package's data"
        )

    def known(file: Path) -> Known:
        return Known(
            f"{file.parent.name}/{file.stem}", lambda: str(file), facts={"FILE": str(file)}
        )

    return tuple(known(file) for file in files)


def _resolve(what: str, name: str | os.PathLike[str]) -> str:
    path = os.path.expanduser(os.fspath(name))
    # The path of a TensorFlow checkpoint is no file: several file names begin with it.
    if "://" in path or os.path.exists(path) or os.path.exists(f"{path}.index"):
        return path
    name = os.fspath(name)
    listed, broken = _found(f"{what}s")
    claims = [one for one in listed if one.entry.name == name]
    if len(claims) > 1:
        carriers = [one.distribution for one in claims]
        raise InputError(
            f"{what} {name}: in the distributions {' and '.join(carriers)}; block one of them "
            f"({registry.BLOCK_VARIABLE}={carriers[0]}), or give a path"
        )
    if claims:
        return _located(claims[0])
    if broken:
        raise broken[0]
    known = [one.entry.name for one in listed]
    # A list of all names would hide the mistyped path.
    hint = close(name, known) or f"; write a path, or a name that prompt-tuning {what} list prints"
    raise InputError(
        f"{what} {name}: there is no such file or directory, and no {what} is known by this name"
        f"{hint}"
    )


def _located(found: Listed) -> str:
    try:
        return found.entry.locate()
    except InputError:
        raise
    except Exception as error:  # A plugin may raise anything.
        raise PluginLoadError(
            f"{found.entry.name}: the catalog of {found.distribution} fails to locate it with "
            f"{one_line(error)}"
        ) from error


def _all(method: str) -> list[Listed]:
    listed, broken = _found(method)
    for error in broken:
        warnings.warn(str(error), stacklevel=3)
    return listed


def _found(method: str) -> tuple[list[Listed], list[PluginError]]:
    """Returns the entries of all catalogs, and the errors of catalogs that cannot be used."""
    installed = registry.process_registry()
    listed: list[Listed] = []
    broken: list[PluginError] = []
    for plugin in installed.discover():
        if plugin.kind != "catalog" or plugin.status == "blocked":
            continue
        try:
            entries = _entries(plugin, installed.load("catalog", plugin.name), method)
        except PluginError as error:
            broken.append(error)
            continue
        listed += [Listed(entry, plugin.distribution) for entry in entries]
    return listed, broken


def _entries(plugin: registry.Plugin, catalog: Any, method: str) -> list[Known]:
    try:
        entries = list(getattr(catalog, method)())
    except Exception as error:  # A plugin may raise anything.
        raise PluginLoadError(f"{plugin} fails in {method}() with {one_line(error)}") from error
    for entry in entries:
        if not isinstance(entry, Known):
            raise PluginLoadError(
                f"{plugin} lists {entry!r}, which is no prompt_tuning_files.names.Known"
            )
    return entries
