"""Sample arguments for a plugin's factory: a table, a vocabulary, texts.

The types of a factory's parameters determine the samples. If they do not, the factory needs an
attribute `sample_arguments`: a function from `Samples` to keyword arguments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core.errors import InputError


class SampleTable:
    """An embedding table of any height that takes no memory and counts the rows read from it.

    It also converts to an array, and counts that as reading all rows.

    Attributes:
      shape: `(V, H)`.
      dtype: float32.
      rows_read: Number of rows read so far.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.shape = (rows, width)
        self.dtype = np.dtype(np.float32)
        self.rows_read = 0

    def __repr__(self) -> str:
        return f"SampleTable{self.shape}"

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns rows `ids` `[n]`, float32 `[n, H]`; all rows differ.

        Raises:
          InputError: If an id is outside the table.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not 0 <= ids.min() <= ids.max() < self.shape[0]):
            raise InputError(f"{self}: asked for the rows {ids}")
        self.rows_read += ids.size
        width = self.shape[1]
        cells = ids.astype(np.uint32)[:, np.newaxis] * np.uint32(width) + np.arange(
            width, dtype=np.uint32
        )
        # A multiplicative hash (Knuth). The factor is odd, so different ids give different values.
        cells *= np.uint32(2654435761)
        return (cells / np.float64(1 << 32) - 0.5).astype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.rows(np.arange(self.shape[0])).astype(dtype or self.dtype)


class SampleVocabulary:
    """A vocabulary with a piece for each of the letters a to z; spaces have none.

    Attributes:
      eos_id: 1.
      unk_id: 2, the id of all other characters.
      vocab_size: 29.
    """

    eos_id, unk_id, vocab_size = 1, 2, 29

    def __repr__(self) -> str:
        return "SampleVocabulary()"

    def encode(self, s: str) -> list[int]:
        """Returns the ids of the letters, 3 to 28."""
        return [
            3 + ord(letter) - ord("a") if "a" <= letter <= "z" else self.unk_id
            for letter in s
            if letter != " "
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the letters of ids."""
        return "".join(chr(ord("a") + int(i) - 3) for i in ids if 3 <= int(i) < self.vocab_size)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples from which a function `sample_arguments` makes its arguments.

    Attributes:
      table: An embedding table.
      vocabulary: A vocabulary whose ids are all in the table, if the table has 29 rows or more.
      texts: Three texts of three letters at most.
    """

    table: SampleTable
    vocabulary: SampleVocabulary = dataclasses.field(default_factory=SampleVocabulary)
    texts: tuple[str, ...] = ("yes", "no", "may")


Arguments = Mapping[str, Any] | Callable[[Samples], Mapping[str, Any]]
"""Keyword arguments of a factory, or a function that makes them."""

# The sample by a part of an annotation's text. The first part that fits is used.
_BY_TYPE: Sequence[tuple[str, Callable[[Samples], Any]]] = (
    ("EmbeddingTable", lambda samples: samples.table),
    ("Vocabulary", lambda samples: samples.vocabulary),
    ("Initializer", lambda samples: _uniform),
    ("Sequence[str]", lambda samples: list(samples.texts)),
    ("list[str]", lambda samples: list(samples.texts)),
    ("tuple[str, ...]", lambda samples: samples.texts),
    ("<class 'str'>", lambda samples: samples.texts[0]),
)


def _uniform(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
    return jax.random.uniform(rng, tuple(shape), jnp.float32, -0.5, 0.5)


def arguments_of(factory: Callable[..., Any], given: Mapping[str, Any]) -> Arguments:
    """Returns arguments to try a factory with: those `given`, and samples for the others.

    Raises:
      InputError: If a parameter without a default has neither a known type nor a given value.
    """
    declared = getattr(factory, "sample_arguments", None)
    if declared is not None:
        return lambda samples: {**declared(samples), **given}
    makers: dict[str, Callable[[Samples], Any]] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name in given or not is_named or parameter.default is not parameter.empty:
            continue
        annotation = _annotation(factory, name, parameter)
        maker = next((make for part, make in _BY_TYPE if part in annotation), None)
        if maker is None:
            raise InputError(
                f"the type of the parameter {name!r} does not say what to try; give it a value, or "
                "give the factory an attribute sample_arguments: a function from "
                "prompt_tuning_testing.Samples to keyword arguments"
            )
        makers[name] = maker
    if not makers:
        return dict(given)
    return lambda samples: {**{name: make(samples) for name, make in makers.items()}, **given}


def _annotation(factory: Callable[..., Any], name: str, parameter: inspect.Parameter) -> str:
    """Returns the text of a parameter's type; its names may be imported only by type checkers."""
    annotation = parameter.annotation
    with contextlib.suppress(Exception):  # Names that only type checkers know.
        annotation = typing.get_type_hints(factory)[name]
    return "<class 'str'>" if annotation == "str" else str(annotation)
