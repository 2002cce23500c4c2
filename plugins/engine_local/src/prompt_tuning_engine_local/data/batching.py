"""Turns a task's texts into batches of ids, with SentencePiece and Grain, without TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from prompt_tuning_engine_local.data import batch_plan
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks import Example
from prompt_tuning_tasks.feature_lengths import FeatureLengths, LengthCheck

Batch = dict[str, np.ndarray]


def padded_lengths(
    lengths: FeatureLengths, *, bucketing: bool, target_bucketing: bool = True
) -> batch_plan.PaddedLengths:
    """Returns the possible padded lengths of batches; see `batch_plan.PaddedLengths.of`."""
    return batch_plan.PaddedLengths.of(
        lengths.inputs, lengths.targets, bucketing=bucketing, target_bucketing=target_bucketing
    )


@dataclasses.dataclass(frozen=True)
class TokenizedExample:
    """The ids of one example's inputs and targets, with EOS, within the feature lengths."""

    inputs: np.ndarray
    targets: np.ndarray

    @classmethod
    def cut(
        cls, inputs: Sequence[int], targets: Sequence[int], lengths: FeatureLengths
    ) -> TokenizedExample:
        """Makes an example, and cuts ids beyond the feature lengths."""
        return cls(
            np.asarray(inputs[: lengths.inputs], np.int32),
            np.asarray(targets[: lengths.targets], np.int32),
        )


def tokenize(
    examples: Sequence[Example],
    vocabulary: SentencePieceVocabulary,
    lengths: FeatureLengths,
    what: str,
    *,
    strict: bool = False,
) -> list[TokenizedExample]:
    """Turns texts into ids, appends EOS, and cuts long texts, as T5X does.

    It warns of the number of texts that were cut; the warning begins with `what`.

    Args:
      examples: The texts.
      vocabulary: The vocabulary of inputs and targets.
      lengths: The largest numbers of ids.
      what: The name of the examples in the warning.
      strict: True raises an error for a long text instead of cutting it (STRICT_LENGTHS).

    Raises:
      InputError: If `strict` is True and a text is too long. The message names the first one.
    """
    check = LengthCheck(lengths, what, strict)
    tokenized = []
    for example in examples:
        # T5X appends EOS before it cuts, so a cut text has no EOS.
        inputs, targets = (
            [*vocabulary.encode(text), vocabulary.eos_id]
            for text in (example.inputs, example.targets)
        )
        check.see(len(inputs), len(targets), example.place)
        tokenized.append(TokenizedExample.cut(inputs, targets, lengths))
    check.report()
    return tokenized


def make_batch(examples: Sequence[TokenizedExample], padded: batch_plan.PaddedLengths) -> Batch:
    """Pads examples to the shortest lengths that hold them all.

    Returns:
      int32 arrays named as in T5X: `encoder_input_tokens` `[B, L]`, `decoder_target_tokens` and
      `decoder_input_tokens` `[B, T]` (the targets shifted right, beginning with 0), and float32
      `decoder_loss_weights` `[B, T]`, 0 where padded.
    """
    input_length, target_length = padded.fitting(
        max(len(e.inputs) for e in examples), max(len(e.targets) for e in examples)
    )
    inputs = np.zeros((len(examples), input_length), np.int32)
    targets = np.zeros((len(examples), target_length), np.int32)
    for row, example in enumerate(examples):
        inputs[row, : len(example.inputs)] = example.inputs
        targets[row, : len(example.targets)] = example.targets
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


def training_batches(
    sources: Sequence[Sequence[TokenizedExample]],
    lengths: FeatureLengths,
    batch_size: int,
    seed: int,
    rates: Sequence[float] | None = None,
    *,
    shuffle: bool = True,
    bucketing: bool = True,
    target_bucketing: bool = True,
) -> grain.DatasetIterator[Batch]:
    """Returns an endless iterator of batches, in an order determined by `seed`.

    Every example comes once in each epoch, every time in a new order. A batch may span two epochs.
    `batch_plan.BatchPlan` explains which examples share a batch.

    Args:
      sources: The examples of each task.
      lengths: The largest numbers of ids.
      batch_size: Number of examples in a batch.
      seed: A whole number, not negative.
      rates: The share of each task, in any unit; None for one task.
      shuffle: False keeps the order of the examples.
      bucketing: True pads each batch only as far as its examples need
        (`batch_plan.PaddedLengths`), and, if shuffled, puts examples of similar length into one
        batch. False pads every batch to `lengths`.
      target_bucketing: False pads targets to `lengths`, even with `bucketing`.

    Returns:
      Grain's iterator. `get_state()` returns the position as JSON-serialisable data; `set_state()`
      restores it in an iterator made from the same arguments.
    """
    examples = [example for source in sources for example in source]
    padded = padded_lengths(lengths, bucketing=bucketing, target_bucketing=target_bucketing)
    groups = padded.groups([len(e.inputs) for e in examples], [len(e.targets) for e in examples])
    stream = batch_plan.ExampleStream(
        [len(source) for source in sources], rates, seed, shuffle=shuffle
    )
    plan = batch_plan.BatchPlan(stream, batch_size, seed, groups if bucketing and shuffle else None)
    # One thread makes the next batches while the device computes this one.
    return iter(
        grain.MapDataset.source(_Batches(plan, examples, padded)).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        )
    )


class _Batches:
    """Grain's view of a plan: batches by number, without end."""

    def __init__(
        self,
        plan: batch_plan.BatchPlan,
        examples: Sequence[TokenizedExample],
        padded: batch_plan.PaddedLengths,
    ) -> None:
        self._plan = plan
        self._examples = examples
        self._padded = padded

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, batch: int) -> Batch:
        return make_batch([self._examples[n] for n in self._plan[batch]], self._padded)


def evaluation_batches(
    examples: Sequence[TokenizedExample], padded: batch_plan.PaddedLengths, batch_size: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields every example once, in batches of equal size, with similar lengths in one batch.

    Yields:
      A batch, and int64 `[n]`, the example numbers of its first n rows. The last batch may have
      more rows, which only fill the batch.
    """
    inputs = [len(example.inputs) for example in examples]
    # With one padded length, all examples are one group and keep their order.
    order = np.argsort(padded.groups(inputs, [1] * len(inputs)), kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        # Fill with repeated examples, since an empty text might get a long answer.
        rows = np.pad(numbers, (0, batch_size - len(numbers)), mode="edge")
        yield make_batch([examples[n] for n in rows], padded), numbers


def checksum(sources: Sequence[Sequence[TokenizedExample]]) -> str:
    """Returns the SHA-256 of all examples' ids in their order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{len(source)} examples".encode())
        for example in source:
            for ids in (example.inputs, example.targets):
                digest.update(len(ids).to_bytes(8, "little"))
                digest.update(np.ascontiguousarray(ids, "<i4").tobytes())
    return digest.hexdigest()
