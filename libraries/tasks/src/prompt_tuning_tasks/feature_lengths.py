"""Limits on the number of ids in a task's features, and the check for longer examples."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping

from prompt_tuning_core.errors import InputError


@dataclasses.dataclass(frozen=True)
class FeatureLengths:
    """The largest numbers of ids in inputs and targets, including EOS (TASK_FEATURE_LENGTHS)."""

    inputs: int
    targets: int

    @classmethod
    def of(cls, lengths: Mapping[str, int]) -> FeatureLengths:
        """Checks the value of TASK_FEATURE_LENGTHS.

        Raises:
          InputError: If it is not a mapping of "inputs" and "targets" to positive integers.
        """
        if (
            not isinstance(lengths, Mapping)
            or set(lengths) != {"inputs", "targets"}
            or not all(isinstance(n, int) and n > 0 for n in lengths.values())
        ):
            raise InputError(
                f"TASK_FEATURE_LENGTHS is {lengths!r}; expected for example "
                "{'inputs': 128, 'targets': 8}"
            )
        return cls(**lengths)


class LengthCheck:
    """Counts examples that are longer than the feature lengths, and warns of them or refuses them.

    Args:
      lengths: The largest numbers of ids.
      what: The name of the examples in messages.
      strict: True makes an example that is too long an error (STRICT_LENGTHS).
    """

    def __init__(self, lengths: FeatureLengths, what: str, strict: bool) -> None:
        self._limits = dataclasses.asdict(lengths)
        self._what = what
        self._strict = strict
        self._seen = 0
        self._cut = dict.fromkeys(self._limits, 0)

    def see(self, inputs: int, targets: int, place: str = "") -> None:
        """Records the number of ids of the next example, and its file and line, if known.

        Raises:
          InputError: If there are too many ids and `strict` is True.
        """
        self._seen += 1
        for name, length in (("inputs", inputs), ("targets", targets)):
            limit = self._limits[name]
            if self._strict and length > limit:
                raise InputError(
                    f"{place or f'{self._what}, example {self._seen}'}: the {name} have {length} "
                    f"ids and TASK_FEATURE_LENGTHS[{name!r}] is {limit}; raise it, or set "
                    "STRICT_LENGTHS = False to have such texts cut"
                )
            self._cut[name] += length > limit

    def report(self) -> None:
        """Warns if an example was too long."""
        for name, count in self._cut.items():
            if count:
                warnings.warn(
                    f"{self._what}: {count} of {self._seen} {name} are longer than "
                    f"{self._limits[name]} ids and were cut; raise TASK_FEATURE_LENGTHS[{name!r}] "
                    "to keep them whole",
                    stacklevel=3,
                )
