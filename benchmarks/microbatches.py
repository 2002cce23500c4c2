"""Compares training steps that take a batch whole, and in parts, at the shape of T5 1.1.

The steps of all numbers of parts are in one process and take turns. The process has huge pages, as
the command `prompt-tuning` gives itself. `automatic` is the number that the engine chooses.

    python benchmarks/microbatches.py                        # a batch of 32
    python benchmarks/microbatches.py --prompt-length 500 --batch 8
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from typing import Any

import processes
import results
import shapes


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Takes steps in this process and returns the figures."""
    import random_t5
    import training_loop
    from prompt_tuning_engine_local.model import optimizers
    from prompt_tuning_engine_local.runs import training

    with tempfile.TemporaryDirectory() as folder:
        loop, batch = training_loop.of_random_weights(arguments, folder)
    model = random_t5.make(arguments)
    steps = {
        number: training.make_step(model, optimizers.adafactor(), number)
        for number in map(int, arguments.parts.split(","))
    }
    times: dict[int, list[float]] = {number: [] for number in steps}
    for repeat in range(arguments.steps + 1):
        for number, step_fn in steps.items():
            seconds = loop.step(batch, step_fn)
            if repeat:  # The first step compiles.
                times[number].append(round(seconds, 4))
    return {
        "automatic": model.quickest_parts(loop.prompt, batch),
        "step_s": times,
        **training_loop.device_facts(),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.set_defaults(batch=32)
    parser.add_argument("--parts", default="1,2,4,8", help="numbers of parts, joined by commas")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each number")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    results.add_output_flag(parser, "microbatches")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return

    command = [sys.executable, __file__, "--one", *shapes.flags(arguments, "output")]
    found = processes.Side(command, processes.huge_pages()).run()
    medians = {number: statistics.median(times) for number, times in found["step_s"].items()}
    first = next(iter(medians.values()))
    report = {
        "automatic": found["automatic"],
        "median_step_s": {number: round(value, 4) for number, value in medians.items()},
        "over_first": {number: round(value / first, 3) for number, value in medians.items()},
    }
    results.write(arguments, {**report, "run": found})
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
