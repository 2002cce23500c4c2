"""Checks that the memory of a long run does not grow.

It trains a prompt for the demo's model with the ordinary command, with an evaluation and a save
every few seconds, and reads the resident memory of the process all the time. It then interrupts the
run as a user would, and the run must save and end.

    python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results


def resident_mb(pid: int) -> float:
    """Returns the resident memory of a process in MB (2**20 bytes); Linux."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--period", type=int, default=20, help="steps between evaluations")
    parser.add_argument("--every", type=float, default=5, help="seconds between measurements")
    results.add_output_flag(parser, "soak")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "prompt_tuning_core", "train", "--gin_file=runs/demo.gin",
            f"--gin.MODEL_DIR='{folder}'", "--gin.TRAIN_STEPS=1000000", "--gin.RANDOM_SEED=0",
            f"--gin.EVAL_PERIOD={arguments.period}", f"--gin.SAVE_PERIOD={arguments.period}",
            "--gin.KEEP_CHECKPOINTS=3",
        ]  # fmt: skip
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        seconds, resident = [], []
        while time.monotonic() - begin < 60 * arguments.minutes:
            time.sleep(arguments.every)
            if process.poll() is not None:
                sys.exit(f"the run ended with exit code {process.returncode}")
            seconds.append(round(time.monotonic() - begin, 1))
            resident.append(round(resident_mb(process.pid), 1))
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        lines = Path(folder, "metrics.jsonl").read_text().splitlines()
        saved = [
            int(path.stem.removeprefix("prompt_")) for path in Path(folder).glob("prompt_*.npy")
        ]
    # By then every shape has been compiled, and the first saves and evaluations are over.
    settled = resident[len(resident) // 10 :]
    tenth = max(1, len(settled) // 10)
    slope = statistics.linear_regression(seconds[-len(settled) :], settled).slope
    summary = {
        "exit_code": process.returncode,
        "last_logged_step": max(json.loads(line)["step"] for line in lines),
        "last_saved_step": max(saved),
        "first_tenth_mb": round(statistics.median(settled[:tenth]), 1),
        "last_tenth_mb": round(statistics.median(settled[-tenth:]), 1),
        "most_mb": max(settled),
        "growth_mb_an_hour": round(3600 * slope, 2),
    }
    results.write(arguments, {"summary": summary, "seconds": seconds, "resident_mb": resident})
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
