"""Embeddings sampled from the vocabulary.

References:
  Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021,
  https://arxiv.org/abs/2104.08691, section 3.2 ("sampled vocabulary": the 5,000 most common
  tokens, which T5's vocabulary lists first).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files.embeddings import as_table
from prompt_tuning_files.initial_values import WarnOnce, check_width, prompt_shape

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import Initializer
    from prompt_tuning_files.embeddings import EmbeddingTable

__all__ = ["init_vocab"]


def init_vocab(
    embeddings: EmbeddingTable | np.ndarray | jax.Array, population_size: int | None = None
) -> Initializer:
    """Makes an initializer of embeddings drawn from the first rows of a table.

    Rows are drawn without replacement. If the prompt is longer than the population, they are drawn
    with replacement, with one warning.

    A call with a concrete key reads only the drawn rows. Within `jax.jit`, the drawn rows aren't
    known yet, so the first `population_size` rows become a constant of the program. Set
    `population_size` if the table is large.

    Args:
      embeddings: The table `[V, H]`, float16 to float64; `prompt_tuning_files.embeddings.np_load`
        or `checkpoint_load`, or an array.
      population_size: Number of first rows to draw from; None for all V. A number above V means V,
        with one warning.

    Returns:
      A function `(rng, shape) -> [P, H]` float32. It raises `InputError`, a `ValueError`, if
      `shape` isn't `(P, H)` with sizes of at least 1, if H isn't the table's, or if the table can't
      be read.

    Raises:
      InputError: If `embeddings` is no table, or `population_size` isn't an integer above 0.
    """
    table = as_table(embeddings)
    wanted = _population(population_size)
    warn_once = WarnOnce()

    def initialize(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        length, width = prompt_shape(shape)
        check_width(table, width)
        size = table.shape[0]
        population = size if wanted is None else min(wanted, size)
        if wanted is not None and wanted > size:
            warn_once(f"population_size is {wanted}, but {table} has {size} rows: using all {size}")
        if length > population:
            warn_once(
                f"prompt length {length} exceeds the population of {population}: sampling with "
                "replacement"
            )
        index = jax.random.choice(rng, population, (length,), replace=length > population)
        # Check the index, not the key: a trace may draw from a constant key.
        if isinstance(index, jax.core.Tracer):
            return jnp.asarray(table.rows(np.arange(population)), jnp.float32)[index]
        return jnp.asarray(table.rows(np.asarray(index)), jnp.float32)

    return initialize


def _population(value: Any) -> int | None:
    if value is None:
        return None
    try:
        # In Python, a bool is an integer; here, it is a mistake.
        population = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        population = None
    if population is None or population < 1:
        raise InputError(
            f"population_size is {value!r}, expected an integer of at least 1, or None for the "
            "whole table"
        )
    return population
