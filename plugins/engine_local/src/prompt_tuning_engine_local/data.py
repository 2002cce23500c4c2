"""From a task's texts to batches of ids: SentencePiece and Grain, without TensorFlow."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.tasks import Example
from prompt_tuning_engine_local.vocabularies import SentencePieceVocabulary

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureLengths:
    """How many ids inputs and targets have at the most, EOS included (TASK_FEATURE_LENGTHS)."""

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


@dataclasses.dataclass(frozen=True)
class TokenizedExample:
    """The ids of one example, each with EOS, within the feature lengths."""

    inputs: np.ndarray
    targets: np.ndarray


def tokenize(
    examples: Sequence[Example],
    vocabulary: SentencePieceVocabulary,
    lengths: FeatureLengths,
    what: str,
) -> list[TokenizedExample]:
    """Turns texts into ids, appends EOS, and cuts what is too long, as T5X does.

    How many were cut is said in a warning that begins with `what`.
    """
    tokenized = []
    cut = {"inputs": 0, "targets": 0}
    for example in examples:
        ids = {}
        for name in cut:
            # T5X appends EOS before it cuts, so a text that was cut has none.
            sequence = [*vocabulary.encode(getattr(example, name)), vocabulary.eos_id]
            limit = getattr(lengths, name)
            cut[name] += len(sequence) > limit
            ids[name] = np.asarray(sequence[:limit], np.int32)
        tokenized.append(TokenizedExample(**ids))
    for name, count in cut.items():
        if count:
            warnings.warn(
                f"{what}: {count} of {len(examples)} {name} are longer than "
                f"{getattr(lengths, name)} ids and were cut; raise TASK_FEATURE_LENGTHS[{name!r}] "
                "to keep them whole",
                stacklevel=2,
            )
    return tokenized


def make_batch(examples: Sequence[TokenizedExample], lengths: FeatureLengths) -> Batch:
    """Pads examples to the feature lengths.

    Returns:
      int32 arrays named as in T5X: `encoder_input_tokens` `[B, L]`, `decoder_target_tokens` and
      `decoder_input_tokens` `[B, T]` (the targets shifted right, beginning with 0), and float32
      `decoder_loss_weights` `[B, T]`, 0 where padded.
    """
    inputs = np.zeros((len(examples), lengths.inputs), np.int32)
    targets = np.zeros((len(examples), lengths.targets), np.int32)
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
    examples: Sequence[TokenizedExample],
    lengths: FeatureLengths,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
) -> Iterator[Batch]:
    """Yields batches without end, in an order that `seed` determines.

    Every example comes once an epoch, each epoch in a new order; the batch that spans two epochs
    takes from both.
    """
    dataset = grain.MapDataset.source(examples).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    return iter(
        dataset.repeat()
        .to_iter_dataset()
        .batch(batch_size, batch_fn=lambda batch: make_batch(batch, lengths))
    )


def evaluation_batches(
    examples: Sequence[TokenizedExample], lengths: FeatureLengths, batch_size: int
) -> Iterator[tuple[Batch, int]]:
    """Yields every example once, in order, in batches of one shape.

    Yields:
      A batch, the last one filled up with empty rows, and how many of its rows are real.
    """
    empty = TokenizedExample(np.zeros(0, np.int32), np.zeros(0, np.int32))
    for start in range(0, len(examples), batch_size):
        chunk = list(examples[start : start + batch_size])
        real = len(chunk)
        yield make_batch(chunk + [empty] * (batch_size - real), lengths), real
