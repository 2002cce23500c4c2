"""Opens models and prompts in files; a plugin of the kind `format` reads each form of file.

Each installed format checks whether it recognizes the content of a file. The names of variables are
Flaxformer's, joined by "/", even if the file has others: `token_embedder/embedding`,
`encoder/layers_0/attention/query/kernel`. Matrices are `[in, out]`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PluginError, one_line
from prompt_tuning_files import git_lfs, names, prompt_files

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Variable:
    """Shape and dtype of a variable, from a model's index.

    Attributes:
      shape: Its shape.
      dtype: The name of its stored dtype: "float32", "bfloat16" …
    """

    shape: tuple[int, ...]
    dtype: str


class ModelFile(Protocol):
    """A model on disk; opening one reads its index, but none of its variables."""

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The model's parameters by name, without optimizer states.

        If the model was saved with a prompt, the prompt's parameters are among them, as
        `encoder/prompt/…`.
        """

    @property
    def step(self) -> int:
        """The step at which it was saved; 0 if the file does not record it."""

    def read(self, name: str) -> np.ndarray:
        """Reads one variable whole, in its stored dtype.

        Raises:
          InputError: If its data is missing or damaged.
        """

    def rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Reads rows of a variable `[V, H]`, and as few other rows as the form allows.

        Args:
          name: The variable.
          ids: int `[n]`, each below V.

        Returns:
          float32 `[n, H]`.

        Raises:
          InputError: If the data is missing or damaged.
        """


@runtime_checkable
class DescribedModelFile(ModelFile, Protocol):
    """A model on disk that also records settings of its network that no shape shows."""

    @property
    def network(self) -> Mapping[str, Any]:
        """Settings by name.

        There is one setting so far, `relpos_max_distance`, an int with the default 128. Positions
        at this distance or farther share the last relative position bias.
        """


@runtime_checkable
class ModelFormat(Protocol):
    """A plugin of the kind `format` that reads models; its class takes no arguments."""

    def recognizes_model(self, path: str) -> bool:
        """Checks by its content that `path` holds a model of this form; reads no arrays.

        If the first bytes fit but the rest is damaged, returns True: `open_model` then reports
        the damage.
        """

    def open_model(self, path: str) -> ModelFile:
        """Reads a model's index.

        Raises:
          InputError: If it is damaged, or has another architecture.
        """


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt read from a file.

    Attributes:
      array: The plain prompt, float32 `[P, H]`; None if the prompt module has no equivalent plain
        prompt.
      provenance: How the prompt was made, as the file records it; empty if it records nothing.
      module: The prompt module in the file; None for a plain prompt.
    """

    array: np.ndarray | None
    provenance: Mapping[str, Any]
    module: SavedModule | None = None

    @property
    def length(self) -> int:
        """P, the number of prompt vectors; 0 if the file does not record it."""
        if self.array is not None:
            return len(self.array)
        length = self.module.fields.get("length") if self.module is not None else None
        return length if isinstance(length, int) else 0

    def matrix(self, name: object) -> np.ndarray:
        """Returns the plain prompt `[P, H]`.

        Raises:
          InputError: If there is none. The message calls the file `name`.
        """
        if self.array is None:
            plugin = "" if self.module is None else f" of {self.module.plugin!r}"
            raise InputError(
                f"prompt {name}: is a prompt module{plugin} that has no equivalent plain prompt; "
                "use it as it is, with PROMPT_FILE"
            )
        return self.array


@dataclasses.dataclass(frozen=True)
class SavedModule:
    """A prompt module in a file: the facts to make it again, and all of its arrays.

    Attributes:
      plugin: Name of the plugin.
      distribution: The distribution that carries the plugin.
      version: The distribution's version when the file was written.
      fields: The module's fields, as JSON values.
      parameters: float32 arrays by name, such as `encoder/prompt/up/kernel`.
    """

    plugin: str
    distribution: str
    version: str
    fields: Mapping[str, Any]
    parameters: Mapping[str, np.ndarray]


@runtime_checkable
class PromptFormat(Protocol):
    """A plugin of the kind `format` that reads prompts; its class takes no arguments."""

    def recognizes_prompt(self, path: str) -> bool:
        """Checks by its content that `path` holds a prompt of this form; reads no arrays."""

    def read_prompt(self, path: str, shape: tuple[int, int] | None = None) -> Prompt:
        """Reads a prompt.

        Args:
          path: The path of the prompt.
          shape: The `(P, H)` that it must have, checked before the array is read; None for any.

        Raises:
          InputError: If it is damaged, of another shape, or not of floating numbers.
        """


@runtime_checkable
class PromptWriter(Protocol):
    """A prompt format that also writes prompts.

    Attributes:
      prompt_endings: Endings of file names that choose this form when a prompt is written, such
        as `(".npy",)`; `("/",)` for a form that is a directory.
    """

    prompt_endings: tuple[str, ...]

    def write_prompt(self, path: str, array: np.ndarray, provenance: Mapping[str, Any]) -> None:
        """Writes a prompt atomically.

        Args:
          path: The path to write to.
          array: float32 `[P, H]`.
          provenance: JSON-serialisable facts.

        Raises:
          InputError: If it can't be written there.
        """


@dataclasses.dataclass(frozen=True)
class Located:
    """A model or a prompt, and the format that reads it.

    Attributes:
      path: The path of the model or prompt.
      form: The format's name.
      format: An instance of the format.
    """

    path: str
    form: str
    format: Any


def locate_model(path: str | os.PathLike[str]) -> Located:
    """Finds a model and the format that reads it.

    Args:
      path: Its path, or the name of a released model (`names.resolve_model`).

    Raises:
      InputError: If there is nothing at `path`, or no installed format reads it.
      PluginError: If no format recognizes it, and a format plugin cannot be loaded.
    """
    return _recognizing(ModelFormat, "model", names.resolve_model(path))


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Opens a model of any installed form; takes and raises the same as `locate_model`.

    Raises:
      InputError: Also if its index is damaged, or has another architecture.
    """
    found = locate_model(path)
    model: ModelFile = found.format.open_model(found.path)
    return model


def locate_prompt(path: str | os.PathLike[str], *, whole: bool = False) -> Located:
    """Finds a prompt and the format that reads it.

    Args:
      path: Its path, or a prompt's name, `MODEL/TASK` (`names.resolve_prompt`). The directory of a
        training run means the best prompt of the run if BEST_METRIC kept one, else the prompt of
        the highest step. For a run of the reference, see `prompt_files.of_reference`. A prompt in a
        bucket is copied first.
      whole: The form to use if a run has the prompt in both: True for the prompt module with all of
        its arrays, False for the plain prompt.

    Raises:
      InputError: If there is nothing at `path`, if no installed format reads it, or if a run of the
        reference does not have exactly one prompt in a step.
      PluginError: If no format recognizes it, and a format plugin cannot be loaded.
    """
    found = names.resolve_prompt(path)
    if "://" in found:
        from prompt_tuning_files import remote_prompts

        found = remote_prompts.copied(found)
    in_run = prompt_files.best_or_newest(found, whole=whole)
    if in_run is None:
        in_run = prompt_files.of_reference(Path(os.path.abspath(found)))
    return _recognizing(PromptFormat, "prompt", os.fspath(in_run or found))


def read_prompt(path: str | os.PathLike[str], shape: tuple[int, int] | None = None) -> Prompt:
    """Reads a prompt of any installed form.

    Args:
      path: As `locate_prompt` takes it.
      shape: The `(P, H)` that it must have; None for any.

    Raises:
      InputError: Also if it is damaged or of another shape.
    """
    found = locate_prompt(path)
    prompt: Prompt = found.format.read_prompt(found.path, shape)
    return prompt


def write_prompt(
    path: str | os.PathLike[str], array: np.ndarray, provenance: Mapping[str, Any]
) -> None:
    """Writes a prompt in the form that the ending of `path` asks for.

    Args:
      path: The path to write to. A name without an ending, or with "/" at its end, asks for a
        directory.
      array: float32 `[P, H]`.
      provenance: JSON-serialisable facts.

    Raises:
      InputError: If no installed format writes names with this ending, or it can't be written.
    """
    name = os.fspath(path)
    base = os.path.basename(name)
    ending = os.path.splitext(base)[1] or "/"
    writers = {
        known: format_
        for format_ in _installed()[0].values()
        if isinstance(format_, PromptWriter)
        for known in format_.prompt_endings
    }
    if ending not in writers:
        known = ", ".join("none (a directory)" if e == "/" else e for e in sorted(writers))
        raise InputError(f"{name}: no prompt format has the ending {ending!r}; known: {known}")
    writers[ending].write_prompt(name, array, provenance)


def _recognizing(protocol: Any, what: str, name: str) -> Located:
    """Finds the one installed format that recognizes the file or folder at the path `name`."""
    formats, broken = _installed()
    readers = {
        plugin: format_ for plugin, format_ in formats.items() if isinstance(format_, protocol)
    }
    found = []
    for plugin, format_ in readers.items():
        try:
            if getattr(format_, f"recognizes_{what}")(name):
                found.append(plugin)
        except InputError:  # For example, a bucket cannot be reached.
            raise
        except Exception as error:  # Another format may still read the file.
            broken.append(_failing(plugin, error))
    if not found and broken:
        raise broken[0]
    if not found:
        git_lfs.refuse_at(name, what)
    if not found and _is_pickled(name):
        raise InputError(
            f"{what} {name}: holds pickled Python objects, which are never loaded; save arrays in "
            "another form"
        )
    if not found:
        raise InputError(
            f"{what} {name}: no installed format plugin recognizes it "
            f"({', '.join(readers) or 'none is installed'})"
        )
    if len(found) > 1:
        raise InputError(
            f"{what} {name}: recognized by the formats {' and '.join(found)}; block one of them "
            f"({registry.BLOCK_VARIABLE}={found[0]})"
        )
    return Located(name, found[0], readers[found[0]])


def _installed() -> tuple[dict[str, Any], list[PluginError]]:
    """Returns an instance of each installed format by name, and errors of those that fail to load.

    Skips blocked formats. A broken format matters only if no working one reads the file.
    """
    formats, broken = {}, []
    for plugin in registry.process_registry().discover():
        if plugin.kind == "format" and plugin.status != "blocked":
            try:
                formats[plugin.name] = registry.process_registry().load("format", plugin.name)()
            except PluginError as error:
                broken.append(error)
            except Exception as error:  # Its class may want arguments, for example.
                broken.append(_failing(plugin.name, error))
    return formats, broken


def _failing(name: str, error: Exception) -> PluginError:
    plugin = registry.process_registry().find("format", name)
    return PluginError(f"{plugin} fails, and no other format reads the file: {one_line(error)}")


def _is_pickled(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"
