"""Prompts as Python objects: read from files, or trained, and used with any model that they fit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptFactory, PromptModule, made_by
from prompt_tuning_core.protocols import SavedPrompt
from prompt_tuning_files import formats, module_files, prompt_files, vocabularies


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt: a prompt module with the values of its parameters.

    Attributes:
      name: The name of its file, for messages.
      module: The prompt module, without an initializer.
      parameters: float32 arrays by name, such as `encoder/prompt/up/kernel`. For a plain prompt,
        the matrix alone.
      matrix: The plain prompt, float32 `[P, H]`; None if the module has no equivalent plain prompt.
      provenance: How it was made; empty if its file does not record it.
      history: The values of each metric by step, for a prompt that was just trained; names begin
        with "train/" or "eval/".
    """

    name: str
    module: PromptModule
    parameters: Mapping[str, np.ndarray]
    matrix: np.ndarray | None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Mapping[str, Mapping[int, float]] = dataclasses.field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """The metrics at the step of the prompt, by split and name; empty if not known."""
        return self.provenance.get("metrics", {})

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Writes the prompt in each of its forms, and its provenance next to them.

        Args:
          path: The path to write to. Its ending becomes `.npy` for a plain prompt, and
            `.safetensors` for another prompt.

        Returns:
          The files written, apart from the provenance.

        Raises:
          OSError: If it cannot be written there.
        """
        described = module_files.describe(self.module)
        return module_files.save(
            path, self.parameters, self.matrix, described, dict(self.provenance)
        )

    def check_vocabulary(self, vocabulary: vocabularies.Vocabulary) -> None:
        """Refuses a prompt that was trained with a vocabulary that is not the model's.

        Raises:
          InputError: If the checksums of the two vocabularies differ.
        """
        vocabularies.check_same(self.name, self.provenance.get("vocabulary"), vocabulary)

    @property
    def values(self) -> SavedPrompt:
        """The values of the parameters, in the form that prompt modules and initializers take."""
        return _Values(self)

    def factory(self) -> PromptFactory:
        """Returns a function that makes the prompt module with these values, for a model."""
        return self.module.clone(prompt_init=self.values).clone


def load(
    path: str | os.PathLike[str],
    plain: Callable[[int], PromptModule],
    module: PromptFactory | None = None,
) -> Prompt:
    """Reads a prompt.

    Args:
      path: A prompt file of any installed form, the directory of a run, or the name of a prompt
        that a catalog has.
      plain: Takes P, and makes the prompt module of a plain prompt of P vectors.
      module: Makes its prompt module; needed only for a class that no plugin provides.

    Raises:
      InputError: If there is none, if it is damaged, or if its values are not finite.
      PluginError: If the plugin of its prompt module cannot be used.
    """
    located = formats.locate_prompt(path)
    found: formats.Prompt = located.format.read_prompt(located.path)
    if found.module is None:
        matrix = found.matrix(located.path)
        made, parameters = plain(len(matrix)), {"prompt": matrix}
    else:
        made = module_files.module_of(located.path, found.module, module)
        parameters = dict(found.module.parameters)
    for name, leaf in parameters.items():
        if not np.isfinite(leaf).all():
            raise InputError(
                f"prompt {located.path}: its {name} has values that aren't finite; did training "
                "diverge?"
            )
    return Prompt(str(path), made, parameters, found.array, found.provenance)


def plain_matrices(
    prompts: Sequence[Prompt], width: int, vocabulary: vocabularies.Vocabulary
) -> list[np.ndarray]:
    """Returns the matrices of prompts that share a batch.

    Args:
      prompts: The prompts.
      width: H of the model.
      vocabulary: The model's vocabulary.

    Raises:
      InputError: If one is not plain, has another width, or was trained with another vocabulary.
    """
    matrices = []
    for prompt in prompts:
        if prompt.matrix is None:
            raise InputError(
                f"prompt {prompt.name}: is no plain prompt, and only plain prompts can share a "
                "batch; use it alone"
            )
        prompt_files.check_shape(
            f"prompt {prompt.name}", prompt.matrix.shape, (len(prompt.matrix), width)
        )
        prompt.check_vocabulary(vocabulary)
        matrices.append(prompt.matrix)
    return matrices


class _Values:
    """The values of a prompt, as a prompt module takes them (`protocols.SavedPrompt`)."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self.path = prompt.name
        plain = module_files.is_plain(prompt.parameters, prompt.matrix)
        self.plugin = None if plain else type(prompt.module).__name__

    def module(self, factory: PromptFactory | None) -> PromptModule:
        """Returns the prompt's module with its values.

        Raises:
          InputError: If `factory` makes another module.
        """
        module = self._prompt.module
        if factory is not None and type(made_by(factory)) is not type(module):
            raise InputError(
                f"prompt {self.path}: is a {type(module).__name__}, and another prompt module is "
                "named; leave that out, or give a prompt of that module"
            )
        return module.clone(prompt_init=self)

    def values(self, module: PromptModule, expected: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the values; see `protocols.SavedPrompt`."""
        return module_files.matching(self.path, self._prompt.parameters, module, expected)

    def __call__(self, rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        """Returns the matrix of a plain prompt; for another module NaN, which `values` replaces."""
        del rng
        if self.plugin is not None or self._prompt.matrix is None:
            return jnp.full(shape, jnp.nan)
        prompt_files.check_shape(
            f"prompt {self.path}", self._prompt.matrix.shape, (shape[0], shape[1])
        )
        return jnp.asarray(self._prompt.matrix)
