"""Measures the memory of initializing a prompt from an XXL embedding table.

It writes a table of T5 XXL's shape, 32128 x 4096 float32, 526 MB, to a temporary folder. In a new
process for each measurement, it makes a prompt of length 100 from the table:

- `init_vocab` and `init_labels` (with `init_vocab` for the remaining positions) of this project;
- "reference": reads the whole table, gives it to JAX and then indexes it, as the reference does;
  for labels, a second time for the fallback;
- "memory map": the sampled rows of `np.load(path, mmap_mode="r")`.

It reports the growth, at its peak, of anonymous memory (RssAnon of /proc/self/status, so Linux
only) and of file-backed memory (RssFile). A thread samples both. Before, the same initializer runs
on a table that takes no memory, so that JAX has compiled everything. For a second call, it reports
the time and the bytes read. Run it from the repository's root; it writes
benchmarks/results/embedding_rows.json:

    python benchmarks/embedding_rows.py

It exits with 1 if `init_vocab` or `init_labels` takes more than 16 MB.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, WIDTH, LENGTH = 32128, 4096, 100
LABELS = ("positive", "negative")
LIMIT_BYTES = 16_000_000
RESULTS = Path(__file__).parent / "results" / "embedding_rows.json"


class Words:
    """A vocabulary with three pieces for each word."""

    def encode(self, s: str) -> list[int]:
        """Returns ids spread over the table, the same for the same word."""
        return [(len(s) * 997 + ord(letter) * 241) % VOCABULARY for letter in s[:3]]


def make_table(path: Path) -> None:
    """Writes the table; each block of rows is the same noise at another scale."""
    block_rows = 1024
    noise = np.random.default_rng(0).standard_normal((block_rows, WIDTH), np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (VOCABULARY, WIDTH)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, VOCABULARY, block_rows):
            rows = noise[: min(block_rows, VOCABULARY - start)]
            file.write((rows * np.float32(1 + start / VOCABULARY)).data)


def our_vocab(table: Any) -> Callable[[], Any]:
    """Our `init_vocab` on a table."""
    import jax

    from prompt_tuning_init_vocab import init_vocab

    return lambda: init_vocab(table)(jax.random.key(0), (LENGTH, WIDTH))


def our_labels(table: Any) -> Callable[[], Any]:
    """Our `init_labels` on a table, with `init_vocab` as the fallback."""
    import jax

    from prompt_tuning_init_labels import init_labels
    from prompt_tuning_init_vocab import init_vocab

    def run() -> Any:
        initializer = init_labels(table, Words(), LABELS, init_vocab(table))
        return initializer(jax.random.key(0), (LENGTH, WIDTH))

    return run


def reference_vocab(path: str) -> Any:
    """The reference's way: the whole table becomes a JAX array."""
    import jax

    table = jax.device_put(np.load(path), jax.local_devices(backend="cpu")[0])
    return table[jax.random.choice(jax.random.key(0), VOCABULARY, (LENGTH,), False)]


def reference_labels(path: str) -> Any:
    """The reference's way: one table for the labels, and another one for the fallback."""
    import jax.numpy as jnp

    table = np.load(path)
    prompt = reference_vocab(path)
    for i, label in enumerate(LABELS):
        prompt = prompt.at[i].set(jnp.mean(table[np.array(Words().encode(label))], axis=0))
    return prompt


def mapped_vocab(path: str) -> Any:
    """The sampled rows of a memory-mapped file."""
    import jax
    import jax.numpy as jnp

    index = jax.random.choice(jax.random.key(0), VOCABULARY, (LENGTH,), False)
    return jnp.asarray(np.load(path, mmap_mode="r")[np.asarray(index)])


def prepare(way: str, path: str) -> Callable[[], Any]:
    """Compiles all programs of a way without the table, and returns the call to measure."""
    from prompt_tuning_files.embeddings import np_load
    from prompt_tuning_testing import SampleTable

    small = SampleTable(VOCABULARY, WIDTH)
    if way == "init_labels":
        our_labels(small)().block_until_ready()
        return our_labels(np_load(path))
    our_vocab(small)().block_until_ready()
    if way == "init_vocab":
        return our_vocab(np_load(path))
    function = {
        "reference vocab": reference_vocab,
        "reference labels": reference_labels,
        "memory map vocab": mapped_vocab,
    }[way]
    return lambda: function(path)


WAYS = ("init_vocab", "init_labels", "memory map vocab", "reference vocab", "reference labels")


def resident() -> dict[str, int]:
    """Returns this process's anonymous and file-backed memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


class Peak(threading.Thread):
    """Samples the memory until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = resident()
        self.samples = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        """Takes a sample each millisecond, or as often as the interpreter allows."""
        while not self.stopped.wait(0.001):
            self.sample()

    def sample(self) -> None:
        """Takes one sample."""
        for name, value in resident().items():
            self.peak[name] = max(self.peak[name], value)
        self.samples += 1


def read_bytes() -> int:
    """Returns the number of bytes that this process has read by system calls."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def measure(way: str, path: str) -> dict[str, Any]:
    """Measures one way in this process."""
    call = prepare(way, path)
    thread = Peak()
    thread.start()
    time.sleep(0.05)
    before = resident()
    call().block_until_ready()
    thread.stopped.set()
    thread.join()
    thread.sample()
    read, start = read_bytes(), time.perf_counter()
    call().block_until_ready()
    seconds, read = time.perf_counter() - start, read_bytes() - read
    return {
        "anonymous_peak_bytes": thread.peak["RssAnon"] - before["RssAnon"],
        "file_backed_peak_bytes": thread.peak["RssFile"] - before["RssFile"],
        "samples": thread.samples,
        "second_call_seconds": round(seconds, 5),
        "second_call_read_bytes": read,
    }


def machine() -> dict[str, Any]:
    """Describes the machine of the measurement."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    packages = ("jax", "jaxlib", "numpy", "prompt-tuning-core")
    return {
        "cpu": cpu[0].split(":")[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def main() -> int:
    """Runs the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="processes for each way")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "TABLE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return 0
    report: dict[str, Any] = {
        "table": {"shape": [VOCABULARY, WIDTH], "dtype": "float32"},
        "prompt_length": LENGTH,
        "limit_bytes": LIMIT_BYTES,
        "machine": machine(),
        "ways": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.npy")
        make_table(path)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, str(path)]
                environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
                output = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, env=environment, text=True
                ).stdout
                runs[way].append(json.loads(output))
    print(f"{'':18}{'anonymous MB':>14}{'file-backed MB':>16}{'read MB':>10}{'seconds':>10}")
    for way, found in runs.items():
        worst = {
            name: max(run[name] for run in found)
            for name in ("anonymous_peak_bytes", "file_backed_peak_bytes", "second_call_read_bytes")
        }
        seconds = statistics.median(run["second_call_seconds"] for run in found)
        report["ways"][way] = {"worst": worst, "median_seconds": seconds, "runs": found}
        columns = [value / 1e6 for value in worst.values()]
        print(f"{way:18}{columns[0]:14.1f}{columns[1]:16.1f}{columns[2]:10.1f}{seconds:10.4f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    ours = [report["ways"][way]["worst"]["anonymous_peak_bytes"] for way in WAYS[:2]]
    print(f"limit {LIMIT_BYTES / 1e6:.0f} MB: {'kept' if max(ours) <= LIMIT_BYTES else 'EXCEEDED'}")
    return int(max(ours) > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
