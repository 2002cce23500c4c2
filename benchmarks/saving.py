"""Measures the cost of saving a run: the pause of training, the time to the disk, the size.

A save is the prompt with its provenance, and the training state (again the prompt, the optimizer's
state, the position in the data) that Orbax writes in the background. After every second save, the
next step follows at once, to measure how the background work slows it down. After each of the other
saves, the benchmark waits for the end of the save. The temporary folder is on the disk of TMPDIR.

    python benchmarks/saving.py

It exits with 1 if training waits for a save longer than 50 ms in the median, or if a save takes 700
kB or more (at the default shape).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import results
import shapes

if TYPE_CHECKING:
    from training_loop import TrainingLoop

LIMIT_BLOCKED_S, LIMIT_BYTES = 0.050, 700_000
"""The bounds that issue 12 sets for a prompt of 100 and a width of 512."""


def measure(loop: TrainingLoop, batch: dict[str, Any], saves: int, folder: Path) -> dict[str, Any]:
    """Saves as `training.train` does, between steps.

    Args:
      loop: A run that has taken a step.
      batch: The batch of every further step.
      saves: Number of saves to make.
      folder: The run's directory.
    """
    from prompt_tuning_engine_local.runs import state_store
    from prompt_tuning_files import prompt_files

    begin = time.perf_counter()
    store = state_store.StateStore(folder)
    figures: dict[str, Any] = {"open_store_s": round(time.perf_counter() - begin, 4)}
    blocked, durable, plain_steps, steps_beside = [], [], [], []
    for number in range(saves):
        plain_steps.append(loop.step(batch))
        state = loop.state({"data": {"next_index": number}, "metrics": {}, "best": None})
        begin = time.perf_counter()
        path = folder / prompt_files.name_at(state.step)
        prompt_files.save(path, loop.matrix(), {"step": state.step})
        store.save(state)
        blocked.append(time.perf_counter() - begin)
        if number % 2:
            steps_beside.append(loop.step(batch))
            store.wait()
        else:
            store.wait()
            durable.append(time.perf_counter() - begin)
    store.close()
    newest = max((folder / "state").iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
    return {
        **figures,
        "blocked_s": _rounded(blocked),
        "until_durable_s": _rounded(durable),
        "step_s": _rounded(plain_steps),
        "step_beside_save_s": _rounded(steps_beside),
        "state_bytes": _size(newest),
        "prompt_bytes": _size(path) + _size(path.with_suffix(".json")),
    }


def main() -> int:
    """Measures, prints and writes; returns 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--saves", type=int, default=20)
    results.add_output_flag(parser, "saving")
    arguments = parser.parse_args()

    import training_loop

    with tempfile.TemporaryDirectory() as folder:
        loop, batch = training_loop.of_random_weights(arguments, folder)
        loop.step(batch)
        runs = measure(loop, batch, arguments.saves, Path(folder, "run"))
    summary = {
        f"{name}_{kind}": round(function(runs[name]), 4)
        for name in ("blocked_s", "until_durable_s", "step_s", "step_beside_save_s")
        for kind, function in (("median", statistics.median), ("most", max))
    }
    summary["bytes"] = runs["state_bytes"] + runs["prompt_bytes"]
    limits = {"blocked_s_median": LIMIT_BLOCKED_S, "bytes": LIMIT_BYTES}
    results.write(
        arguments,
        {**training_loop.device_facts(), "summary": summary, "limits": limits, "runs": runs},
    )
    print(
        results.table(
            ["saving", "value"], [[name, f"{value:g}"] for name, value in summary.items()]
        )
    )
    return int(any(summary[name] > limit for name, limit in limits.items()))


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


if __name__ == "__main__":
    sys.exit(main())
