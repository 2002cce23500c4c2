"""Measures the time and memory for reading rows of an XXL embedding table in a T5X checkpoint.

It writes a table of T5 XXL's shape, 32128 x 4096 float32, 526 MB, in T5X's form, to a temporary
folder: gzip chunks of at most 64 MiB. There are two shapes of chunks: T5X's choice for the whole
table, and its choice if the width is partitioned eight ways. A new process makes each measurement:

- "rows": 100 rows from all over the table, by the plugin `format_t5x`;
- "population": 100 rows of the first 5000, by the same plugin;
- "whole table": the table read whole, then 100 rows of it.

It reports the growth of anonymous memory at its peak (Linux only, as in embedding_rows.py), in MB
and in decoded chunks. For a second call, it reports the time, and the bytes read as a share of the
table's bytes on disk. Run it from the repository's root; it writes
benchmarks/results/checkpoint_rows.json:

    python benchmarks/checkpoint_rows.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import results
from embedding_rows import VOCABULARY, WIDTH, Peak, read_bytes, resident

EMBEDDING = "token_embedder/embedding"
CHUNKS = ((4016, 4096), (32128, 512))
WAYS = ("rows", "population", "whole table")
ROWS, POPULATION = 100, 5000


def write_checkpoint(path: Path, chunks: tuple[int, int]) -> None:
    """Writes a T5X checkpoint that holds the table only."""
    import msgpack
    import tensorstore as ts

    name = f"target.{EMBEDDING.replace('/', '.')}/"
    spec = {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": name},
        "metadata": {
            "shape": [VOCABULARY, WIDTH],
            "chunks": list(chunks),
            "compressor": {"id": "gzip", "level": 1},
        },
    }
    inside = {**spec, "kvstore": {"driver": "file", "path": f"{path}/{name}"}}
    table = ts.open(inside, create=True).result()
    noise = np.random.default_rng(0).standard_normal(chunks, np.float32)
    for top in range(0, VOCABULARY, chunks[0]):
        for left in range(0, WIDTH, chunks[1]):
            scale = np.float32(1 + (top + left) / VOCABULARY)
            table[top : top + chunks[0], left : left + chunks[1]].write(noise * scale).result()
    target = {"token_embedder": {"embedding": spec}}
    index = {"version": 3, "optimizer": {"target": target, "state": {"step": 0}}}
    (path / "checkpoint").write_bytes(msgpack.packb(index))


def take(way: str, path: str) -> np.ndarray:
    """Reads 100 rows of the table in one of the ways."""
    from prompt_tuning_files import formats

    population = POPULATION if way == "population" else VOCABULARY
    ids = np.random.default_rng(1).choice(population, ROWS, replace=False)
    model = formats.open_model(path)
    return model.read(EMBEDDING)[ids] if way == "whole table" else model.rows(EMBEDDING, ids)


def measure(way: str, path: str) -> dict[str, Any]:
    """Measures one way in this process."""
    import tensorstore  # noqa: F401  Its import is not measured.

    thread = Peak()
    thread.start()
    time.sleep(0.05)
    before = resident()["RssAnon"]
    take(way, path)
    thread.stopped.set()
    thread.join()
    thread.sample()
    read, start = read_bytes(), time.perf_counter()
    take(way, path)
    seconds, read = time.perf_counter() - start, read_bytes() - read
    return {
        "anonymous_peak_bytes": thread.peak["RssAnon"] - before,
        "samples": thread.samples,
        "second_call_seconds": round(seconds, 4),
        "second_call_read_bytes": read,
    }


def main() -> None:
    """Runs the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="processes for each way")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CHECKPOINT"), help=argparse.SUPPRESS)
    results.add_output_flag(parser, "checkpoint_rows")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    figures: dict[str, Any] = {}
    lines = []
    for chunks in CHUNKS:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), chunks)
            on_disk = sum(file.stat().st_size for file in Path(folder).glob("target.*/[0-9]*"))
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(arguments.repeats):
                for way in WAYS:
                    command = [sys.executable, __file__, "--one", way, folder]
                    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                    runs[way].append(json.loads(output))
        for way, found in runs.items():
            peak = max(run["anonymous_peak_bytes"] for run in found)
            summary = {
                "anonymous_peak_bytes": peak,
                "anonymous_peak_chunks": round(peak / (chunks[0] * chunks[1] * 4), 2),
                "median_seconds": statistics.median(run["second_call_seconds"] for run in found),
                "share_read": round(found[0]["second_call_read_bytes"] / on_disk, 3),
            }
            figures[f"{way}, chunks {chunks}"] = {**summary, "runs": found}
            lines.append(
                [
                    f"{way}, chunks of {chunks[0]} x {chunks[1]}",
                    f"{peak / 1e6:.0f} MB",
                    f"{summary['anonymous_peak_chunks']:.1f}",
                    f"{summary['median_seconds']:.2f}",
                    f"{summary['share_read']:.0%}",
                ]
            )
    print(results.table(["", "anonymous", "in chunks", "seconds", "read"], lines))
    results.write(arguments, {"table": [VOCABULARY, WIDTH], "rows": ROWS, "ways": figures})


if __name__ == "__main__":
    main()
