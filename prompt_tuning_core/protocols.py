"""The protocols between plugins, engines and the core.

A plugin does not inherit from them: an object with the right methods satisfies a protocol. So a
plugin with an initializer does not have to import this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import jax

    from prompt_tuning_core.prompts import PromptFactory, PromptModule

T = TypeVar("T")


class Initializer(Protocol):
    """Makes the first value of a prompt; the signature of `flax.linen.initializers`."""

    def __call__(self, rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        """Returns a floating array of exactly `shape`.

        Args:
          rng: A PRNG key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`).
          shape: `(P, H)`: prompt length and model width.

        Raises:
          ValueError: If this initializer cannot serve `shape`; it never crops, pads or broadcasts.
        """


def declares(**attributes: object) -> Callable[[T], T]:
    """Returns a decorator that sets attributes for checks to read: `@declares(uses_rng=False)`."""

    def set_attributes(factory: T) -> T:
        for name, value in attributes.items():
            setattr(factory, name, value)
        return factory

    return set_attributes


@runtime_checkable
class SavedPrompt(Protocol):
    """The prompt in a file; for a plain prompt, it is also an `Initializer` of its matrix.

    Attributes:
      path: The file.
      plugin: The prompt module's plugin; None for a plain prompt, which may initialize any module.
    """

    path: str
    plugin: str | None

    def module(self, factory: PromptFactory | None) -> PromptModule:
        """Makes the module of `plugin`, with this prompt.

        Args:
          factory: Makes the module that the user named; it must not contradict the file.
        """

    def values(self, module: PromptModule, expected: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the values of the parameters of a module of `plugin`, whose `stack` is set.

        Args:
          module: The module.
          expected: Its parameters, or their shapes, by "/"-joined names within the module.
        """

    def __call__(self, rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        """Returns the matrix of a plain prompt; for another module NaN, which `values` replaces."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """The flags of the user for `prompt-tuning train|eval|infer`.

    Attributes:
      gin_files: `--gin_file`, in the order given; later files override earlier ones.
      gin_bindings: `--gin.NAME=VALUE`, in the form `NAME = VALUE`; they override the files.
      gin_search_paths: `--gin_search_paths`, searched before the packaged configs.
      hooks: `--hooks`, names of hooks plugins to run in addition to gin's `HOOKS`.
      extra: Flags that the core does not know. An engine must refuse flags that it does not know
        either.
    """

    gin_files: tuple[str, ...] = ()
    gin_bindings: tuple[str, ...] = ()
    gin_search_paths: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


class Engine(Protocol):
    """Runs training, evaluation and inference. A plugin of kind engine is such a class.

    It may also have `missing() -> str | None`, which quickly returns the name of a requirement that
    is not installed, or None. Without `--engine`, the command prefers engines that lack nothing.
    """

    def train(self, flags: RunFlags) -> None:
        """Trains a prompt and writes it, with provenance, to the run's directory."""

    def eval(self, flags: RunFlags) -> None:
        """Evaluates a prompt on a task's split and writes the metrics."""

    def infer(self, flags: RunFlags) -> None:
        """Writes one prediction per input, in the order of the inputs."""
