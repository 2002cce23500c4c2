"""Compares a training step of T5 1.1, start-up, memory and a save with PEFT's, in one run.

The default is the shape of T5 1.1 small with a prompt of 100, batch 8, 128 input and 8 target
tokens, float32, and Adafactor on the prompt only. Weights are random, and written once before the
measurement. Each process reads them as a real run reads its model.

Each round starts three processes: ours with an empty compilation cache ("cold"), ours again with
the cache of the first ("warm"), and the peer's. Ours have huge pages, as the command
`prompt-tuning` gives itself. Each process of ours also measures the speed of a
matrix product at that time. Judge by ratios: the times depend on the machine.

    python benchmarks/train_step.py                      # ours alone
    python benchmarks/train_step.py --peer 'peft-env/bin/python benchmarks/peft_train_step.py'

A peer takes the same flags and `--weights FOLDER`, and `--make-weights FOLDER` to write such a
folder. It prints one JSON line with `step_s` (seconds of each step), `startup_s` (process start to
the end of the first step), `peak_rss_mb`, `save_s` and `save_bytes`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flop
import processes
import results
import shapes


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Takes `arguments.steps` steps in this process and returns the figures.

    The start-up does the same as `training.train`: it sets the compilation cache, imports
    everything, reads the weights and their checksum, and compiles and takes a step.
    """
    import prompt_tuning_engine_local as engine

    engine.set_up_command()

    import numpy as np

    import random_t5
    import training_loop

    imported = processes.since_start()
    loop = training_loop.TrainingLoop(random_t5.make(arguments), arguments.weights)
    loaded = processes.since_start()
    rng = np.random.default_rng(0)
    batches = [random_t5.batch(rng, arguments) for _ in range(8)]
    first = loop.step(batches[0])
    startup = processes.since_start()
    seconds = [
        loop.step(batches[step % len(batches)])
        for step in range(1, arguments.warmup + arguments.steps)
    ][arguments.warmup - 1 :]
    figures = {
        "impl": "ours",
        "step_s": [round(value, 4) for value in seconds],
        "imported_s": round(imported, 2),
        "loaded_s": round(loaded, 2),
        "first_step_s": round(first, 2),
        "startup_s": round(startup, 2),
        "peak_rss_mb": processes.peak_rss_mb(),
        **training_loop.device_facts(),
        "loss": round(loop.loss, 4),
        "gemm_gflop_s": round(flop.gemm_peak(arguments.dtype) / 1e9, 1),
    }
    if arguments.saves:
        import saving

        with tempfile.TemporaryDirectory() as folder:
            saved = saving.measure(loop, batches[0], arguments.saves, Path(folder))
        figures["save_s"] = statistics.median(saved["blocked_s"])
        figures["save_bytes"] = saved["state_bytes"] + saved["prompt_bytes"]
    return figures


def step_summary(runs: list[dict[str, Any]], gflop: float) -> dict[str, float]:
    """Returns the median and the best step, and their share of a matrix product's speed."""
    steps = [second for run in runs for second in run["step_s"]]
    found = {"median_step_s": round(statistics.median(steps), 4), "best_step_s": min(steps)}
    if "gemm_gflop_s" in runs[0]:
        peak = found["gemm_gflop_s"] = max(run["gemm_gflop_s"] for run in runs)
        for kind in ("best", "median"):
            found[f"share_of_gemm_peak_{kind}"] = round(gflop / found[f"{kind}_step_s"] / peak, 3)
    return found


def cost_summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the median start-up and save, and the peak memory."""
    figures: dict[str, Callable[[Iterable[float]], float]] = {
        "startup_s": statistics.median,
        "peak_rss_mb": max,
        "peak_device_mb": max,
        "save_s": statistics.median,
        "save_bytes": max,
    }
    return {
        name: round(function(run[name] for run in runs), 4)
        for name, function in figures.items()
        if name in runs[0]
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a process")
    parser.add_argument("--warmup", type=int, default=2, help="unmeasured steps before, at least 1")
    parser.add_argument("--saves", type=int, default=4, help="saves of each process of ours, or 0")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--peer", help="a command that prints the same figures of a peer")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    results.add_output_flag(parser, "train_step")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return

    runs: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        commands = processes.commands(__file__, arguments, folder, peer_leaves_out=("saves",))
        for number in range(arguments.rounds):
            cache = processes.compilation_cache(Path(folder, f"cache_{number}"))
            environment = {**cache, **processes.huge_pages()}
            sides = {
                name: processes.Side(commands["ours"], environment) for name in ("cold", "warm")
            }
            if "peer" in commands:
                sides["peer"] = processes.Side(commands["peer"])
            for name, found in processes.interleave(sides, 1).items():
                runs[name] += found
    gflop = (
        flop.training_step(
            shapes.SIZES[arguments.size], arguments.batch, arguments.input_length,
            arguments.prompt_length, arguments.target_length,
        )
        / 1e9
    )  # fmt: skip
    ours = [run for name in ("cold", "warm") for run in runs[name]]
    report: dict[str, Any] = {
        "gflop": round(gflop, 1),
        "summary": {
            "ours": step_summary(ours, gflop),
            "cold": cost_summary(runs["cold"]),
            "warm": cost_summary(runs["warm"]),
        },
    }
    if arguments.peer:
        report["summary"]["peer"] = {
            **step_summary(runs["peer"], gflop),
            **cost_summary(runs["peer"]),
        }
        report["compared"] = _compared(report["summary"])
    results.write(arguments, {**report, "runs": runs})
    print(json.dumps(report, indent=2))


def _compared(summaries: dict[str, dict[str, Any]]) -> dict[str, float]:
    peer = summaries["peer"]
    return {
        **{
            f"peer_over_ours_{name}": round(peer[name] / summaries["ours"][name], 3)
            for name in ("median_step_s", "best_step_s")
        },
        **{
            f"{side}_over_peer_{name}": round(summaries[side][name] / peer[name], 3)
            for name in ("startup_s", "peak_rss_mb")
            for side in ("cold", "warm")
        },
    }


if __name__ == "__main__":
    main()
