"""Prompt modules in files: their arrays, and the plugin and fields to make them again.

A plain prompt is a `.npy` file (`prompt_files`). Any other prompt module is a `.safetensors` file
with all of its arrays by name. The metadata of this file holds the plugin, its distribution and
version, the module's fields and the provenance. A module that has an equivalent plain prompt, but
other arrays, is saved in both forms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import (
    formats,
    prompt_files,
    safetensors_prompts,
    strict_json,
    vocabularies,
)
from prompt_tuning_files.formats import SavedModule

if TYPE_CHECKING:
    import jax

    from prompt_tuning_core.prompts import PromptFactory, PromptModule
    from prompt_tuning_core.protocols import Initializer
    from prompt_tuning_files.vocabularies import Vocabulary

__all__ = [
    "PromptFile",
    "describe",
    "encoded",
    "is_plain",
    "matching",
    "module_of",
    "parse",
    "save",
    "saved_prompt",
]

_NOT_SAVED = ("parent", "name", "stack", "prompt_init")


def describe(module: PromptModule) -> dict[str, Any]:
    """Describes a prompt module for its files.

    Returns:
      JSON-serialisable: `plugin`, `distribution`, `version` and `fields`, without initializers. For
      a class that no plugin provides, `plugin` is `module:Class`, `distribution` is the name of its
      file, and `version` is the checksum of that file.

    Raises:
      InputError: If a field holds a value that JSON cannot hold.
    """
    plugin = registry.process_registry().plugin_of(type(module))
    fields = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name in _NOT_SAVED or "Initializer" in str(field.type):
            continue
        if not _is_json(value):
            raise InputError(
                f"{type(module).__name__}.{field.name} is {value!r}, and a prompt file can hold "
                "numbers, texts, True, False, None, lists and mappings of these; annotate a field "
                "that holds an initializer with Initializer"
            )
        fields[field.name] = json.loads(json.dumps(value))  # Tuples become lists.
    if plugin is None:
        name, distribution, version = _name_of(type(module)), *_source_of(type(module))
    else:
        name, distribution, version = plugin.name, plugin.distribution, plugin.version
    return {"plugin": name, "distribution": distribution, "version": version, "fields": fields}


def _name_of(kind: type) -> str:
    """Returns `module:Class`, which cannot be the name of a plugin."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _source_of(kind: type) -> tuple[str, str]:
    """Returns the name and the checksum of a class's file, or its module and "without a file"."""
    try:
        path = Path(inspect.getfile(kind))
        return path.name, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except (TypeError, OSError):  # In an interactive session.
        return kind.__module__, "without a file"


def is_plain(parameters: Mapping[str, np.ndarray], matrix: np.ndarray | None) -> bool:
    """Checks whether the plain prompt of a module is its only array."""
    return matrix is not None and [leaf.shape for leaf in parameters.values()] == [matrix.shape]


def encoded(
    parameters: Mapping[str, np.ndarray],
    matrix: np.ndarray | None,
    description: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> bytes:
    """Returns the content of a `.safetensors` file; takes the same arguments as `save`."""
    tensors = {name: np.ascontiguousarray(a, "<f4") for name, a in parameters.items()}
    metadata = {"module": json.dumps({**description, "sha256": _checksum(tensors)})}
    if matrix is None:
        metadata["provenance"] = strict_json.dumps(dict(provenance))
    else:
        tensors["prompt"] = np.ascontiguousarray(matrix, "<f4")
        metadata.update(safetensors_prompts.metadata(matrix, provenance))
    return safetensors_prompts.encoded(tensors, metadata)


def save(
    path: str | os.PathLike[str],
    parameters: Mapping[str, np.ndarray],
    matrix: np.ndarray | None,
    description: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Writes a prompt in all of its forms, and its provenance as `.json`, each atomically.

    Args:
      path: The path to write to, with or without an ending.
      parameters: All arrays of the prompt module by name.
      matrix: The plain prompt `[P, H]` that is equivalent to the module, or None.
      description: See `describe`.
      provenance: JSON-serialisable facts.

    Returns:
      The files written, apart from the provenance: `.npy` if there is a matrix, `.safetensors` if
      there are other arrays than the matrix.
    """
    stem = Path(path).with_suffix("")
    written = []
    if not is_plain(parameters, matrix):
        file = stem.with_suffix(".safetensors")
        with prompt_files.atomic_write(file) as stream:
            stream.write(encoded(parameters, matrix, description, provenance))
        written.append(file)
    if matrix is None:
        prompt_files.write_json(stem.with_suffix(".json"), dict(provenance))
    else:
        prompt_files.save(stem.with_suffix(".npy"), matrix, provenance)
        written.insert(0, stem.with_suffix(".npy"))
    return written


def parse(metadata: str, tensors: Mapping[str, np.ndarray], name: str) -> SavedModule:
    """Reads the description of a module, and checks its arrays.

    Args:
      metadata: The entry `module` of a file's metadata.
      tensors: The module's arrays by name.
      name: The name of the file in errors.

    Raises:
      InputError: If the description is damaged, or the arrays do not match its checksum.
    """
    try:
        found = json.loads(metadata)
        saved = SavedModule(
            plugin=str(found["plugin"]),
            distribution=str(found["distribution"]),
            version=str(found["version"]),
            fields={key: _as_tuples(value) for key, value in found["fields"].items()},
            parameters=tensors,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{name}: the prompt module in its metadata cannot be read ({error}); copy it again"
        ) from None
    if found.get("sha256") != _checksum(tensors):
        raise InputError(
            f"{name}: its arrays do not match the checksum in its metadata; restore the file"
        )
    return saved


class PromptFile:
    """The prompt that PROMPT_FILE names, read when it is first used (`protocols.SavedPrompt`).

    Args:
      given: The file, or the directory of a run.
      plain: Makes the matrix of a plain prompt.
      vocab: The model's vocabulary; see `check_vocabulary`.
      whole: The form to use if the prompt has both: True for the module with all of its arrays, to
        train it further; False for the plain prompt.
    """

    def __init__(
        self,
        given: str | os.PathLike[str],
        plain: Initializer,
        vocab: Vocabulary | None,
        whole: bool,
    ) -> None:
        self._given, self._plain, self._vocab, self._whole = os.fspath(given), plain, vocab, whole

    def __call__(self, rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        """See `protocols.SavedPrompt`."""
        if self._module is None:
            return self._plain(rng, shape)
        import jax.numpy as jnp

        return jnp.full(shape, jnp.nan)

    @property
    def path(self) -> str:
        """The file or directory, as it was given."""
        return self._given

    @property
    def plugin(self) -> str | None:
        """The prompt module's plugin; None for a plain prompt."""
        return None if self._module is None else self._module.plugin

    def module(self, factory: PromptFactory | None) -> PromptModule:
        """See `protocols.SavedPrompt`.

        Raises:
          InputError: If the plugin has other fields, if settings in gin contradict the file, or if
            no plugin provides the class and `factory` makes no module of it.
          PluginError: If the plugin cannot be used.
        """
        import gin

        from prompt_tuning_core.prompts import made_by

        saved = self._saved()
        module = module_of(self.path, saved, factory)
        named = [] if factory is None else [made_by(factory)]
        with contextlib.suppress(ValueError, KeyError):  # No gin file names the plugin.
            named.append(gin.get_configurable(f"prompt_tuning_core.plugins.{saved.plugin}")())
        for given in named:
            self._check_settings(given, module)
        return module.clone(prompt_init=self)

    def _check_settings(self, given: PromptModule, module: PromptModule) -> None:
        """Refuses a module made by gin that differs from `module`, the module in this file."""
        saved = self._saved()
        if type(given) is not type(module):
            raise InputError(
                f"PROMPT makes a {type(given).__name__}, and PROMPT_FILE {self.path} holds one of "
                f"{saved.plugin!r}; leave PROMPT out, or give a prompt of this module"
            )
        for field in dataclasses.fields(module):
            setting, value = getattr(given, field.name), getattr(module, field.name)
            if field.name in saved.fields and setting not in (field.default, value):
                raise InputError(
                    f"{saved.plugin}.{field.name} is {setting!r}, and in the prompt {self.path} it "
                    f"is {value!r}; leave it out, or give another PROMPT_FILE"
                )

    def values(self, module: PromptModule, expected: Mapping[str, Any]) -> dict[str, jax.Array]:
        """See `protocols.SavedPrompt`.

        Raises:
          InputError: If the file has other names or shapes.
        """
        return matching(self.path, self._saved().parameters, module, expected)

    def _saved(self) -> SavedModule:
        assert self._module is not None, "a plain prompt has neither a module nor its values"
        return self._module

    @functools.cached_property
    def _module(self) -> SavedModule | None:
        if prompt_files.is_archive(self._given):
            return None
        located = formats.locate_prompt(self._given, whole=self._whole)
        prompt: formats.Prompt = located.format.read_prompt(located.path)
        if prompt.module is not None:
            known = prompt.provenance.get("vocabulary")
            vocabularies.check_same(located.path, known, self._vocab)
        return prompt.module


def saved_prompt(
    path: str | os.PathLike[str],
    plain: Initializer,
    vocab: Vocabulary | None = None,
    whole: bool = False,
) -> PromptFile:
    """Makes the value of `prompts.make.saved`; takes the same arguments as `PromptFile`.

    Raises:
      InputError: If `path` is no path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"path is {path!r}, expected a prompt file; set PROMPT_FILE")
    return PromptFile(path, plain, vocab, whole)


def module_of(path: str, saved: SavedModule, factory: PromptFactory | None = None) -> PromptModule:
    """Makes the prompt module in a file, without an initializer.

    Args:
      path: The file, for messages.
      saved: The file's description of the module.
      factory: Makes a module of a class that no plugin provides; None for the class of a plugin.

    Raises:
      InputError: If its plugin is missing, has another major version, or has other fields; or if no
        plugin provides the class, and `factory` makes no module of it.
      PluginError: If the plugin cannot be used.
    """
    _check_plugin(path, saved)
    try:
        module: PromptModule = _class_of(path, saved.plugin, factory)(**saved.fields)
        return module
    except TypeError as error:
        raise InputError(
            f"prompt {path}: {saved.plugin!r}, as it is installed, has other fields than "
            f"{sorted(saved.fields)} ({error}); install the version that the file names"
        ) from error


def _class_of(path: str, name: str, factory: PromptFactory | None) -> Any:
    """Returns the module's class: the one of its plugin, or else the one that `factory` makes.

    A file may come from anywhere. So its text alone imports no class: if no plugin provides the
    class, it must be the one that `factory` makes.
    """
    from prompt_tuning_core.prompts import made_by

    if ":" not in name:
        return registry.process_registry().load("prompt", name)
    found = None if factory is None else type(made_by(factory))
    if found is None or _name_of(found) != name:
        module, _, kind = name.partition(":")
        raise InputError(
            f"prompt {path}: holds a module of the class {kind} of {module}, which is no plugin's; "
            f"import {module} in a gin file, and write PROMPT = @{module}.{kind}"
        )
    return found


def matching(
    path: str,
    arrays: Mapping[str, np.ndarray],
    module: PromptModule,
    expected: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """Returns the arrays of a prompt that belong to a module, by their names within it.

    Args:
      path: The prompt's file, for messages.
      arrays: Arrays by name, such as `encoder/prompt/up/kernel`.
      module: The module, whose `stack` is set.
      expected: Its parameters, or their shapes, by name within the module.

    Raises:
      InputError: If names or shapes differ.
    """
    import jax.numpy as jnp

    from prompt_tuning_core.prompts import described

    start = f"{module.stack.side}/prompt/"
    found = {n.removeprefix(start): v for n, v in arrays.items() if n.startswith(start)}
    for name in {**expected, **found}:
        shapes = [tree[name].shape if name in tree else None for tree in (found, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"prompt {path}: the parameter {start + name!r} has the shape {shapes[0]}, and "
                f"{described(module)} has {shapes[1]} in this model (None: there is none); give a "
                "prompt of this model"
            )
    return {name: jnp.asarray(found[name]) for name in expected}


def _check_plugin(path: str, module: SavedModule) -> None:
    """Refuses a module whose plugin is missing, or has another major version."""
    if ":" in module.plugin:  # No plugin provides it.
        return
    installed = registry.process_registry()
    if not installed.has("prompt", module.plugin):
        raise InputError(
            f"prompt {path}: is of the prompt plugin {module.plugin!r}, which is not installed; "
            f"install {module.distribution} {module.version}"
        )
    plugin = installed.find("prompt", module.plugin)
    if plugin.version.partition(".")[0] != module.version.partition(".")[0]:
        raise InputError(
            f"prompt {path}: was written with {module.distribution} {module.version}, and "
            f"{plugin.distribution} {plugin.version} is installed; install the version of the file"
        )


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names and float32 bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return found.hexdigest()


def _is_json(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def _as_tuples(value: Any) -> Any:
    """Returns a JSON value with tuples for lists: a module's fields must be hashable."""
    if isinstance(value, list):
        return tuple(map(_as_tuples, value))
    return value
