"""Compares a training step with bfloat16 activations with a float32 step and a peer's step.

The processes of all sides stay alive and take their steps in turn, so that all see the same load of
the machine. The model has the shape of a T5 1.1 with random weights; judge by ratios. Ours have
huge pages, as the command `prompt-tuning` gives itself.

    python benchmarks/dtypes.py --size base
    python benchmarks/dtypes.py --peer 'peft-env/bin/python benchmarks/peft_train_step.py'

A peer takes the flags of `train_step.py`'s peers and `--serve`. With `--serve`, it answers each
line "step" of its input with the seconds of one more step, and "peak_rss_mb" with its peak memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import processes
import results
import shapes

DTYPES = ("float32", "bfloat16")


def serve(arguments: argparse.Namespace) -> None:
    """Takes a step of ours whenever the parent process asks for one."""
    import numpy as np

    import random_t5
    import training_loop

    loop = training_loop.TrainingLoop(random_t5.make(arguments), arguments.weights)
    rng = np.random.default_rng(0)
    batches = itertools.cycle([random_t5.batch(rng, arguments) for _ in range(8)])
    processes.answer(
        {"step": lambda: loop.step(next(batches)), "peak_rss_mb": processes.peak_rss_mb}
    )


def run_round(sides: Mapping[str, processes.Side], warmup: int, steps: int) -> dict[str, Any]:
    """Starts a process of each side and has them take their steps in turn; returns the figures."""
    workers = {}
    for name, side in sides.items():
        workers[name] = processes.Worker(side)
        # Compile one after the other: compiling takes memory and both cores.
        for _ in range(warmup):
            workers[name].ask("step")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(steps):
        for name in list(sides) if turn % 2 else reversed(list(sides)):
            seconds[name].append(round(workers[name].ask("step"), 4))
    found = {
        name: {"step_s": seconds[name], "peak_rss_mb": worker.ask("peak_rss_mb")}
        for name, worker in workers.items()
    }
    for worker in workers.values():
        worker.close()
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each side's median step and peak memory, and their ratios to our bfloat16.

    A ratio of steps is the median, over all turns, of the ratio of the two steps in a turn.
    """
    sides = {
        name: {
            "median_step_s": statistics.median(s for run in runs for s in run[name]["step_s"]),
            "peak_rss_mb": max(run[name]["peak_rss_mb"] for run in runs),
        }
        for name in runs[0]
    }
    ours = sides["bfloat16"]
    return {
        **sides,
        "over_bfloat16": {
            name: {
                "step": round(
                    statistics.median(
                        other / one
                        for run in runs
                        for other, one in zip(
                            run[name]["step_s"], run["bfloat16"]["step_s"], strict=True
                        )
                    ),
                    3,
                ),
                "peak_rss": round(side["peak_rss_mb"] / ours["peak_rss_mb"], 3),
            }
            for name, side in sides.items()
            if name != "bfloat16"
        },
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a process")
    parser.add_argument("--warmup", type=int, default=3, help="unmeasured steps before")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--peer", help="a command that takes the steps of a peer")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    results.add_output_flag(parser, "dtypes")
    arguments = parser.parse_args()
    if arguments.one:
        serve(arguments)
        return

    with tempfile.TemporaryDirectory() as folder:
        commands = processes.commands(
            __file__, arguments, folder, leave_out=("dtype", "steps", "warmup")
        )
        sides = {
            dtype: processes.Side([*commands["ours"], f"--dtype={dtype}"], processes.huge_pages())
            for dtype in DTYPES
        }
        if "peer" in commands:
            sides["peer, bfloat16"] = processes.Side(
                [*commands["peer"], "--serve", "--dtype=bfloat16"]
            )
        runs = [
            run_round(sides, arguments.warmup, arguments.steps) for _ in range(arguments.rounds)
        ]
    report = {"summary": summary(runs), "runs": runs}
    results.write(arguments, report)
    print(json.dumps(report["summary"], indent=2))


if __name__ == "__main__":
    main()
