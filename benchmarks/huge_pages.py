"""Compares a training step with and without huge pages: one process, and two at once.

The command `prompt-tuning` restarts itself with huge pages for malloc
(`prompt_tuning_engine_local.huge_pages`). Here, each side is a process of `train_step.py` with the
environment of that command. The sides take turns, so that both see the same load of the machine.
Judge by the ratios.

    python benchmarks/huge_pages.py --rounds 3
    python benchmarks/huge_pages.py --prompt-length 500 --steps 4
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import processes
import results
import shapes


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a process")
    parser.add_argument("--warmup", type=int, default=2, help="unmeasured steps before, at least 1")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    results.add_output_flag(parser, "huge_pages")
    arguments = parser.parse_args()
    arguments.peer, arguments.saves = None, 0

    found = processes.huge_pages()
    if not found:
        parser.error("this C library or this kernel has no huge pages")
    runs: dict[str, list[dict[str, Any]]] = {}
    script = str(Path(__file__).with_name("train_step.py"))
    with tempfile.TemporaryDirectory() as folder:
        command = processes.commands(script, arguments, folder)["ours"]
        cache = processes.compilation_cache(Path(folder, "cache"))
        sides = {
            "without": processes.Side(command, {**cache, "GLIBC_TUNABLES": None}),
            "with": processes.Side(command, {**cache, **found}),
        }
        for count, label in ((1, "alone"), (2, "two at once")):
            for _ in range(arguments.rounds):
                for name, side in sides.items():
                    with ThreadPoolExecutor(count) as pool:
                        ended = list(pool.map(lambda side: side.run(), [side] * count))
                    runs.setdefault(f"{name}, {label}", []).extend(ended)
    summary = {name: _summary(of) for name, of in runs.items()}
    compared = {
        label: {
            key: round(summary[f"with, {label}"][key] / summary[f"without, {label}"][key], 3)
            for key in ("median_step_s", "startup_s", "peak_rss_mb")
        }
        for label in ("alone", "two at once")
    }
    report = {"summary": summary, "with_over_without": compared}
    results.write(arguments, {**report, "runs": runs})
    print(json.dumps(report, indent=2))


def _summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "median_step_s": statistics.median(second for run in runs for second in run["step_s"]),
        "startup_s": statistics.median(run["startup_s"] for run in runs),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
    }


if __name__ == "__main__":
    main()
