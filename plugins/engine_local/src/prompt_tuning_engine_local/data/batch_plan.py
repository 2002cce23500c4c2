"""Chooses the examples and the padded length of each batch, as pure functions of its number.

A run draws nothing while it trains. Batch k follows from the number of examples, their lengths and
the seed, so a run resumes exactly from the number of its next batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

_WINDOW = 64
"""The most batches among which examples are exchanged to bring similar lengths together."""

_RATE_UNITS = 2**16
"""Mixture rates are rounded to multiples of 1 / 2**16."""

_INPUT_SIXTEENTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
"""The padded lengths of inputs, in sixteenths of the longest: finer steps for short texts."""

_TARGET_SIXTEENTHS = (4, 8, 16)
"""The same for targets: few, since each is compiled with each length of inputs."""

_SHORTEST_INPUTS = 16
"""The shortest padded inputs: compiling shorter shapes would cost more than they save."""

_SHORTEST_TARGETS = 4
"""The shortest padded targets. It is small because a label has two or three ids, and a target
position costs more than an input position: it also has logits."""


@dataclasses.dataclass(frozen=True)
class PaddedLengths:
    """The few lengths to which batches are padded; each pair of them is compiled once.

    Attributes:
      inputs: Lengths of inputs, increasing.
      targets: Lengths of targets, increasing.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(
        cls, inputs: int, targets: int, *, bucketing: bool = True, target_bucketing: bool = True
    ) -> PaddedLengths:
        """Derives the lengths from the largest numbers of ids in inputs and targets.

        Args:
          inputs: The largest number of ids in inputs.
          targets: The largest number of ids in targets.
          bucketing: True adds shorter lengths; False leaves only the longest.
          target_bucketing: The same for targets alone.
        """
        if not bucketing:
            return cls((inputs,), (targets,))
        return cls(
            _lengths(inputs, _INPUT_SIXTEENTHS, _SHORTEST_INPUTS, multiple=8),
            _lengths(targets, _TARGET_SIXTEENTHS, _SHORTEST_TARGETS, multiple=4)
            if target_bucketing
            else (targets,),
        )

    def groups(self, inputs: Sequence[int], targets: Sequence[int]) -> np.ndarray:
        """Returns a number for each example; examples with equal numbers get equal padded lengths.

        Args:
          inputs: The length of each example's inputs, at most the longest of `self.inputs`.
          targets: The length of each example's targets.

        Returns:
          int64 `[N]`; longer inputs have higher numbers.
        """
        return np.searchsorted(self.inputs, inputs) * len(self.targets) + np.searchsorted(
            self.targets, targets
        )

    def fitting(self, inputs: int, targets: int) -> tuple[int, int]:
        """Returns the shortest padded lengths for this many ids of inputs and targets."""
        return (
            self.inputs[np.searchsorted(self.inputs, inputs)],
            self.targets[np.searchsorted(self.targets, targets)],
        )


class ExampleStream:
    """An endless sequence of example numbers, readable at any position.

    Each source gives all of its examples once in each epoch, every time in a new order. Several
    sources take turns according to their rates. For example, rates 2 and 1 give A, B, A, A, B, A
    and so on.

    Args:
      sizes: The number of examples of each source. Numbers continue from source to source: with
        sizes 3 and 2, the second source has the examples 3 and 4.
      rates: The share of each source, in any unit; None for one source.
      seed: Determines the orders.
      shuffle: False keeps the order of the examples in every epoch.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float] | None,
        seed: int,
        *,
        shuffle: bool = True,
    ) -> None:
        self.sizes = tuple(sizes)
        self._seed = seed
        self._shuffle = shuffle
        self._first = np.cumsum([0, *self.sizes[:-1]])
        self._weights = _whole_numbers(rates or [1.0] * len(self.sizes))
        # Item j of a source with weight w is due at (2j + 1) / 2w of a turn.
        due = np.concatenate([(2 * np.arange(w) + 1) / (2 * w) for w in self._weights])
        sources = np.repeat(np.arange(len(self.sizes)), self._weights)
        items = np.concatenate([np.arange(w) for w in self._weights])
        order = np.lexsort((sources, due))
        self._turn_sources, self._turn_items = sources[order], items[order]
        # Two orders are in use: this epoch's and the next one's.
        self._order = functools.lru_cache(maxsize=2 * len(self.sizes))(self._make_order)

    def take(self, start: int, stop: int) -> np.ndarray:
        """Returns the example numbers at positions `start` to `stop`, exclusive, as int64."""
        turns, places = np.divmod(np.arange(start, stop), len(self._turn_sources))
        sources = self._turn_sources[places]
        positions = turns * self._weights[sources] + self._turn_items[places]
        examples = np.empty(stop - start, np.int64)
        for source in np.unique(sources):
            mine = sources == source
            examples[mine] = self._first[source] + self._of_source(int(source), positions[mine])
        return examples

    def _of_source(self, source: int, positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, self.sizes[source])
        if not self._shuffle:
            return places
        examples = np.empty_like(places)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            examples[mine] = self._order(source, int(epoch))[places[mine]]
        return examples

    def _make_order(self, source: int, epoch: int) -> np.ndarray:
        return permutation(self.sizes[source], self._seed, 0, source, epoch)


class BatchPlan:
    """The examples of every batch.

    Without groups, batch k holds the stream's positions k * B to (k + 1) * B. With groups, a window
    of up to 64 batches within one epoch exchanges its examples. They are sorted by group and cut
    into batches, and the batches are shuffled. A batch that spans two epochs keeps its examples, so
    each epoch still has every example once. Several sources have epochs of different lengths. Then
    every window has 64 batches, and the same examples as without groups.

    Args:
      stream: The stream of the examples.
      batch_size: B.
      seed: Determines the order of the batches.
      groups: A number for each example; examples with the same number should share a batch. None
        keeps the stream's order.
    """

    def __init__(
        self, stream: ExampleStream, batch_size: int, seed: int, groups: np.ndarray | None = None
    ) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._seed = seed
        self._groups = groups
        # Two: one window may be read while the next is made.
        self._window = functools.lru_cache(maxsize=2)(self._make_window)

    def __getitem__(self, batch: int) -> np.ndarray:
        """Returns the example numbers of a batch, int64 `[B]`."""
        if self._groups is None:
            size = self._batch_size
            return self._stream.take(batch * size, (batch + 1) * size)
        first, stop = self._window_of(batch)
        return self._window(first, stop)[batch - first]

    def _window_of(self, batch: int) -> tuple[int, int]:
        if len(self._stream.sizes) > 1:
            first = batch // _WINDOW * _WINDOW
            return first, first + _WINDOW
        epoch = batch * self._batch_size // self._stream.sizes[0]
        # Divide the batches inside this epoch into windows of nearly equal size.
        first = -(-epoch * self._stream.sizes[0] // self._batch_size)
        count = (epoch + 1) * self._stream.sizes[0] // self._batch_size - first
        if batch - first >= count:
            return batch, batch + 1
        windows = -(-count // _WINDOW)
        window = (batch - first) * windows // count
        return first - (-window * count // windows), first - (-(window + 1) * count // windows)

    def _make_window(self, first: int, stop: int) -> np.ndarray:
        assert self._groups is not None
        examples = self._stream.take(first * self._batch_size, stop * self._batch_size)
        if stop - first == 1:
            return examples[None]
        # Stable, so that examples of one group keep the stream's order, which differs each epoch.
        examples = examples[np.argsort(self._groups[examples], kind="stable")]
        batches = examples.reshape(stop - first, self._batch_size)
        return batches[permutation(stop - first, self._seed, 1, first)]


def permutation(size: int, seed: int, *key: int) -> np.ndarray:
    """Returns the numbers below `size` in an order determined by a seed and a key.

    It sorts the output of a bit generator. Numpy promises the same output in every version for
    bit generators, but not for `numpy.random.Generator.permutation`.
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(size)
    return np.argsort(bits, kind="stable")


def _lengths(most: int, sixteenths: Sequence[int], shortest: int, multiple: int) -> tuple[int, ...]:
    """Returns `most` and shorter lengths, rounded to multiples that compiled code handles well."""
    shorter = {math.ceil(most * n / 16 / multiple) * multiple for n in sixteenths}
    return tuple(sorted({n for n in shorter if shortest <= n < most} | {most}))


def _whole_numbers(rates: Sequence[float]) -> np.ndarray:
    """Returns positive integers in proportion to rates, as small as they can be."""
    units = [max(1, round(rate / math.fsum(rates) * _RATE_UNITS)) for rate in rates]
    return np.array(units) // math.gcd(*units)
