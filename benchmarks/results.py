"""Files of results: the figures, and the machine and versions of the measurement."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def versions(*distributions: str) -> dict[str, str]:
    """Returns the installed version of each distribution."""
    return {name: importlib.metadata.version(name) for name in distributions}


def add_output_flag(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds `--output`, by default `results/NAME.json` next to this module."""
    parser.add_argument(
        "--output", type=Path, default=FOLDER / f"{name}.json", help="the file for the figures"
    )


def write(arguments: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Writes figures to `arguments.output`, with machine, load, versions, date and arguments."""
    hidden = ("output", "peer", "one", "weights")
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "load_average_after": [round(value, 2) for value in os.getloadavg()],
        "versions": versions("jax", "jaxlib", "flax", "optax", "numpy", "prompt-tuning-core"),
        "arguments": {k: v for k, v in vars(arguments).items() if k not in hidden},
        **figures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2)
    # Puts a list of numbers on one line.
    text = re.sub(r"\[[^][{}]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    arguments.output.write_text(text + "\n", encoding="utf-8")


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Returns columns of text: the first flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [heads, *rows]
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
