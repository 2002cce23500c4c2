"""Plain prompts that differ between the examples of a batch, for one frozen model.

The prompts are rows of one table `[N, P, H]`; P is the length of the longest prompt. A shorter
prompt is padded on its left, and the padding is masked. So each prompt is directly in front of its
input, and relative positions are the same as in a run with only this prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core.prompts import PromptModule

_NAME = "encoder/prompt"
_NUMBERS = f"{_NAME}/numbers"


class PromptOfEach(PromptModule):
    """Places its own prompt in front of each example, padded on the left to the longest prompt.

    `PromptTable.parameters` gives its variables. Nothing here is trained.
    """

    def input(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns `[B, P + T, H]`; see `PromptModule.input`."""
        del tokens
        table, numbers = self._variable("table"), self._variable("numbers")
        return jnp.concatenate([table[numbers].astype(embedded.dtype), embedded], axis=1)

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Returns `[B, P + T]`, False for the padding of short prompts."""
        longest = self._variable("table").shape[1]
        lengths = self._variable("lengths")[self._variable("numbers")]
        in_prompt = jnp.arange(longest) >= longest - lengths[:, None]
        return jnp.concatenate([in_prompt, tokens > 0], axis=1)

    @staticmethod
    def rows_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parameters that have a row for each example."""
        return {_NUMBERS: parameters[_NUMBERS]}

    def _variable(self, name: str) -> Any:
        return self.get_variable("params", name)


class PromptTable(NamedTuple):
    """Plain prompts in one array.

    Attributes:
      table: float32 `[N, P, H]`, padded on the left with zeros.
      lengths: int32 `[N]`, the length of each prompt.
    """

    table: Any
    lengths: Any

    @classmethod
    def of(cls, prompts: Sequence[np.ndarray]) -> PromptTable:
        """Makes a table from matrices `[P, H]` of the same width."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        table = np.zeros((len(prompts), lengths.max(), prompts[0].shape[1]), np.float32)
        for row, prompt in zip(table, prompts, strict=True):
            row[len(row) - len(prompt) :] = prompt
        return cls(table, lengths)

    def parameters(self, numbers: Any) -> dict[str, Any]:
        """Returns the parameters of `PromptOfEach` for a batch.

        Args:
          numbers: int32 `[B]`, the number of each example's prompt.
        """
        return {
            f"{_NAME}/table": self.table,
            f"{_NAME}/lengths": self.lengths,
            _NUMBERS: numbers,
        }


class PromptChoice(NamedTuple):
    """A plain prompt for each example.

    Attributes:
      table: The prompts.
      numbers: int32 `[examples]`, the number of each example's prompt.
    """

    table: PromptTable
    numbers: np.ndarray


class JointPrompts(NamedTuple):
    """Plain prompts that answer together, with the mean of their logits for each id.

    Attributes:
      table: The prompts.
    """

    table: PromptTable


class VotingPrompts(NamedTuple):
    """Plain prompts that answer separately; the most frequent answer wins.

    It is the ensemble of Lester et al. 2021, section 6.

    Attributes:
      table: The prompts.
    """

    table: PromptTable

    @staticmethod
    def elected(answers: np.ndarray) -> np.ndarray:
        """Returns the most frequent answer to each example; in a tie, the first prompt's answer.

        Args:
          answers: int32 `[N, examples, T]`, the ids of each prompt's answers.

        Returns:
          int32 `[examples, T]`.
        """
        equal = (answers[:, None] == answers[None]).all(axis=-1)
        winners = equal.sum(axis=1).argmax(axis=0)
        return answers[winners, np.arange(answers.shape[1])]
