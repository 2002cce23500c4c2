"""Measures examples per second on the demo's sentences, with bucketing by length and without.

Both train a prompt for a T5 1.1 (random weights, small by default) on the training split of
`demo_reviews` with the demo's vocabulary, through `batching.training_batches`, so that batches are
composed as in a real run. There are two settings: a feature length of 128 with a prompt of 20, and
of 512 with a prompt of 100. Every shape is compiled before the measurement. Blocks of bucketed and
of plain batches alternate in one process. The bucketed batches form whole windows of the plan
(`batch_plan.BatchPlan`), since only a whole window has the data's mixture of lengths.

    python benchmarks/bucketing.py

It exits with 1 if bucketing gives less than 2.3 times the examples per second in the first setting,
or less than 3.5 times in the second.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import results
import shapes

if TYPE_CHECKING:
    from prompt_tuning_engine_local.data import batching
    from training_loop import TrainingLoop

TARGET_LENGTH = 8
WINDOW = 64
"""Number of bucketed batches in a whole window of the plan."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """The task and model of a measurement, and the speed-up that it must reach."""

    input_length: int
    prompt_length: int
    wanted: float


SETTINGS = (Setting(128, 20, 2.3), Setting(512, 100, 3.5))


def measure(arguments: argparse.Namespace, setting: Setting, folder: Path) -> dict[str, Any]:
    """Measures one setting in this process."""
    import random_t5
    import training_loop
    from prompt_tuning_demo import model as demo_model
    from prompt_tuning_demo.demo_tasks import DEMO_REVIEWS
    from prompt_tuning_engine_local.data import batching
    from prompt_tuning_files.vocabularies import SentencePieceVocabulary
    from prompt_tuning_tasks.feature_lengths import FeatureLengths

    vocabulary = SentencePieceVocabulary(demo_model.vocabulary_path())
    lengths = FeatureLengths(setting.input_length, TARGET_LENGTH)
    sentences = DEMO_REVIEWS.examples("train")[: arguments.examples]
    examples = batching.tokenize(sentences, vocabulary, lengths, "demo_reviews")
    described = argparse.Namespace(**vars(arguments), prompt_length=setting.prompt_length)
    model = random_t5.make(described, vocabulary)
    loop = training_loop.TrainingLoop(model, random_t5.write(described, folder))

    def batches(bucketing: bool) -> Iterator[batching.Batch]:
        return batching.training_batches(
            [examples], lengths, arguments.batch, seed=0, bucketing=bucketing,
            target_bucketing=not model.counts_padding,
        )  # fmt: skip

    counts = {"bucketed": arguments.windows * WINDOW, "plain": arguments.plain_batches}
    begin = time.perf_counter()
    composition = {
        name: _warm(loop, itertools.islice(batches(name == "bucketed"), count), setting)
        for name, count in counts.items()
    }
    warming = time.perf_counter() - begin
    streams = {name: batches(name == "bucketed") for name in counts}
    seconds: dict[str, list[list[float]]] = {name: [] for name in counts}
    for block in range(arguments.blocks):
        for name, count in counts.items():
            size = (block + 1) * count // arguments.blocks - block * count // arguments.blocks
            seconds[name].append([_timed_step(loop, streams[name]) for _ in range(size)])
    return {
        **dataclasses.asdict(setting),
        "warming_s": round(warming, 1),
        "median_input_length": int(np.median([len(example.inputs) for example in examples])),
        **{
            name: {**_speed(seconds[name], arguments.batch), **composition[name]} for name in counts
        },
        "ratio": _ratio(seconds),
        **training_loop.device_facts(),
    }


def _warm(
    loop: TrainingLoop, batches: Iterator[batching.Batch], setting: Setting
) -> dict[str, Any]:
    """Takes a step of each shape; returns the composition of the batches."""
    found: collections.Counter[tuple[int, int]] = collections.Counter()
    real = positions = rows = 0
    for batch in batches:
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        lengths = inputs.shape[1], targets.shape[1]
        if lengths not in found:
            loop.step(batch)
        found[lengths] += 1
        real += int(np.count_nonzero(inputs))
        positions += inputs.size
        rows += len(inputs)
    return {
        "batches_by_lengths": {f"{i} + {t}": count for (i, t), count in sorted(found.items())},
        "padded_share_of_inputs": round(1 - real / positions, 4),
        "padded_share_of_encoder": round(
            (positions - real) / (positions + rows * setting.prompt_length), 4
        ),
    }


def _timed_step(loop: TrainingLoop, batches: Iterator[batching.Batch]) -> float:
    begin = time.perf_counter()
    loop.step(next(batches))
    return time.perf_counter() - begin


def _speed(blocks: list[list[float]], batch: int) -> dict[str, Any]:
    total = sum(map(sum, blocks))
    return {
        "examples_per_s": round(batch * sum(map(len, blocks)) / total, 2),
        "median_of_blocks": round(
            statistics.median(batch * len(block) / sum(block) for block in blocks), 2
        ),
        "step_s": [[round(second, 4) for second in block] for block in blocks],
    }


def _ratio(seconds: dict[str, list[list[float]]]) -> dict[str, float]:
    """Returns the speed-up by bucketed batches, for a whole window and for each block."""

    def each(blocks: list[list[float]]) -> list[float]:
        return [statistics.mean(block) for block in blocks]

    bucketed, plain = seconds["bucketed"], seconds["plain"]
    totals = [statistics.mean(itertools.chain(*blocks)) for blocks in (plain, bucketed)]
    return {
        "of_totals": round(totals[0] / totals[1], 3),
        "median_of_blocks": round(
            statistics.median(p / b for p, b in zip(each(plain), each(bucketed), strict=True)), 3
        ),
    }


def main() -> int:
    """Measures, prints and writes; returns 1 if a ratio is below its limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=shapes.SIZES, default="small")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--examples", type=int, help="use only this many sentences")
    parser.add_argument("--windows", type=int, default=1, help=f"windows of {WINDOW} batches")
    parser.add_argument("--plain-batches", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=8, help="turns that the two sides take")
    results.add_output_flag(parser, "bucketing")
    arguments = parser.parse_args()
    if arguments.plain_batches < arguments.blocks:
        parser.error("--plain-batches is at least --blocks")
    found = []
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(arguments, setting, Path(folder)))
    results.write(arguments, {"settings": found})
    heads = ["input", "P", "bucketed/s", "plain/s", "ratio", "of blocks", "wanted"]
    heads += ["padding", "plain"]
    rows = [
        [
            str(one["input_length"]),
            str(one["prompt_length"]),
            f"{one['bucketed']['examples_per_s']:.1f}",
            f"{one['plain']['examples_per_s']:.1f}",
            f"{one['ratio']['of_totals']:.2f}",
            f"{one['ratio']['median_of_blocks']:.2f}",
            f"{one['wanted']}",
            f"{one['bucketed']['padded_share_of_inputs']:.0%}",
            f"{one['plain']['padded_share_of_inputs']:.0%}",
        ]
        for one in found
    ]
    print(results.table(heads, rows))
    return int(any(one["ratio"]["of_totals"] < one["wanted"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
