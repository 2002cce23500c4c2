"""Compares the time of `list-plugins` and `--help` with a bare listing of entry points.

It runs whole processes in turn, so that all see the same load of the machine: our commands, a bare
`importlib_metadata.entry_points(group=…)`, and `pass`, which shows the cost of Python alone. Judge
by the ratio of the medians: the times depend on the machine.

    python benchmarks/list_plugins.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import importlib_metadata

import prompt_tuning_core
from prompt_tuning_core import registry

# The bound that issue 21 sets, for each of our commands.
LIMIT = 1.3

PROMPT_TUNING = str(Path(sys.executable).with_name("prompt-tuning"))

COMMANDS = {
    "list-plugins": [PROMPT_TUNING, "list-plugins"],
    "--help": [PROMPT_TUNING, "--help"],
    "entry_points": [
        sys.executable,
        "-c",
        "import importlib_metadata; "
        "importlib_metadata.entry_points(group='prompt_tuning.initializers')",
    ],
    "pass": [sys.executable, "-c", "pass"],
}


def measure(runs: int) -> dict[str, list[float]]:
    """Returns the seconds of `runs` runs of each command, interleaved, after one for the caches."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(runs + 1):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            elapsed = time.perf_counter() - begin
            if run:
                seconds[name].append(elapsed)
    return seconds


def main() -> int:
    """Measures, prints and writes; returns 1 if a ratio is above `LIMIT`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=40, help="runs of each (default: 40)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "list_plugins.json",
        help="the file for the figures",
    )
    args = parser.parse_args()

    load = os.getloadavg()
    seconds = measure(args.runs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {
        name: round(medians[name] / medians["entry_points"], 3)
        for name in ("list-plugins", "--help")
    }
    report = {
        "median_ms": {name: round(1000 * median, 1) for name, median in medians.items()},
        "quartiles_ms": {
            name: [round(1000 * cut, 1) for cut in statistics.quantiles(times, n=4)]
            for name, times in seconds.items()
        },
        "ratios": ratios,
        "limit": LIMIT,
        "runs": args.runs,
        "plugins": len(registry.process_registry().discover()),
        "distributions": len(list(importlib_metadata.distributions())),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load_average": [round(value, 2) for value in load],
        "versions": {
            "python": platform.python_version(),
            "importlib_metadata": importlib_metadata.version("importlib-metadata"),
            "prompt_tuning_core": prompt_tuning_core.__version__,
        },
    }
    text = json.dumps(report, indent=2)
    print(text)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text + "\n")
    return int(max(ratios.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
