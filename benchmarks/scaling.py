"""Measures step time and peak memory for sizes of the prompt, the input, the batch and the model.

One size at a time differs from a reference point: T5 1.1 small with a prompt of 100, 128 input
tokens and a batch of 8. Each point is a new process of `train_step.py`, since a process has one
peak of memory. It begins with an empty compilation cache, and has huge pages, as the command
`prompt-tuning` gives itself.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import flop
import processes
import results
import shapes


@dataclasses.dataclass(frozen=True)
class Point:
    """The sizes of one measurement."""

    size: str
    prompt_length: int
    input_length: int
    batch: int


def points(reference: Point, varied: dict[str, list[Any]]) -> list[Point]:
    """Returns the reference and, for each value of each field, a point that differs only in it."""
    found = [reference]
    for field, values in varied.items():
        found += [dataclasses.replace(reference, **{field: value}) for value in values]
    return list(dict.fromkeys(found))


def run(chosen: list[Point], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures each point in a process of `train_step.py`; returns their figures."""
    import random_t5

    script = str(Path(__file__).with_name("train_step.py"))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, point in enumerate(chosen):
            flags = argparse.Namespace(
                **dataclasses.asdict(point), dtype=arguments.dtype, dropout=arguments.dropout,
                steps=arguments.steps, warmup=1, saves=0,
            )  # fmt: skip
            weights = Path(folder, point.size)
            if not weights.exists():
                random_t5.write(flags, weights)
            side = processes.Side(
                [sys.executable, script, "--one", *shapes.flags(flags), f"--weights={weights}"],
                {
                    **processes.compilation_cache(Path(folder, f"cache_{number}")),
                    **processes.huge_pages(),
                },
            )
            found.append({**dataclasses.asdict(point), **side.run()})
            print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return found


def add_ratios(chosen: list[Point], found: list[dict[str, Any]]) -> None:
    """Adds to the figures of each point its GFLOP, and its ratios to the first point."""
    for point, figures in zip(chosen, found, strict=True):
        figures["median_step_s"] = round(statistics.median(figures["step_s"]), 4)
        flops = flop.training_step(
            shapes.SIZES[point.size], point.batch, point.input_length, point.prompt_length, 8
        )
        figures["gflop"] = round(flops / 1e9, 1)
        for name in ("median_step_s", "peak_rss_mb"):
            figures[f"{name}_over_reference"] = round(figures[name] / found[0][name], 3)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=shapes.SIZES, default="small", help="reference size")
    parser.add_argument("--sizes", nargs="*", choices=shapes.SIZES, default=["small", "base"])
    parser.add_argument("--prompt-lengths", nargs="*", type=int, default=[1, 20, 100, 200])
    parser.add_argument("--input-lengths", nargs="*", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=4, help="measured steps of a process")
    results.add_output_flag(parser, "scaling")
    arguments = parser.parse_args()

    reference = Point(arguments.size, prompt_length=100, input_length=128, batch=8)
    varied = {
        "prompt_length": arguments.prompt_lengths,
        "input_length": arguments.input_lengths,
        "batch": arguments.batches,
        "size": arguments.sizes,
    }
    chosen = points(reference, varied)
    found = run(chosen, arguments)
    add_ratios(chosen, found)
    results.write(arguments, {"runs": found})
    print(
        results.table(
            ["size", "P", "input", "batch", "GFLOP", "step s", "ratio", "peak MB", "ratio"],
            [
                [
                    figures["size"],
                    *(str(figures[name]) for name in ("prompt_length", "input_length", "batch")),
                    f"{figures['gflop']:.0f}",
                    f"{figures['median_step_s']:.3f}",
                    f"{figures['median_step_s_over_reference']:.2f}",
                    f"{figures.get('peak_device_mb', figures['peak_rss_mb']):.0f}",
                    f"{figures['peak_rss_mb_over_reference']:.2f}",
                ]
                for figures in found
            ],
        )
    )


if __name__ == "__main__":
    main()
