"""Divides the time of a training step among its parts.

One process gives two answers, at the shape of T5 1.1 small that `train_step.py` measures:

- the speed of each matrix product of the step, computed alone at its own shape, and the speed of a
  large square product: this shows the cost of the shapes;
- the time that XLA's threads spend in each kind of operation, from JAX's profiler: this shows the
  cost of other operations (CPU only).

    python benchmarks/step_profile.py
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flop
import results
import shapes

_KINDS = (
    ("matrix products", re.compile(r"ynn_fusion|dot|gemm|onednn")),
    ("transposes and copies", re.compile(r"transpose|copy|bitcast$|concatenate")),
    ("random bits", re.compile(r"while|rng")),
)
_OTHER = "elementwise, softmax and norms"


def kind_of(operation: str) -> str:
    """Returns the kind of work of an operation in a compiled step, by its name."""
    return next((kind for kind, names in _KINDS if names.search(operation)), _OTHER)


def thread_seconds(trace: Path, operations: set[str]) -> dict[str, float]:
    """Sums the time of a trace's events by kind.

    Args:
      trace: The folder that `jax.profiler.trace` wrote.
      operations: Names of the compiled program's operations; other events are left out.
    """
    (path,) = trace.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    found: dict[str, float] = collections.defaultdict(float)
    for event in events:
        if event.get("ph") == "X" and event["name"] in operations:
            found[kind_of(event["name"])] += event["dur"] / 1e6
    return dict(found)


def profiled_step(arguments: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Returns the seconds of the fastest step, and of XLA's threads by kind of operation."""
    import jax

    import training_loop

    with tempfile.TemporaryDirectory() as folder:
        loop, batch = training_loop.of_random_weights(arguments, folder)
        for _ in range(2):
            loop.step(batch)
        fastest = min(loop.step(batch) for _ in range(arguments.steps))
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(arguments.steps):
                loop.step(batch)
        return fastest, thread_seconds(Path(folder), loop.operations(batch))


def each_alone(products: Sequence[flop.Product], dtype: str, peak: float) -> list[dict[str, Any]]:
    """Computes each matrix product by itself; returns its seconds and its share of the peak."""
    found = []
    for product in products:
        seconds = product.count * flop.best_seconds(product, dtype)
        shape = f"{product.m} x {product.k} x {product.n}"
        found.append(
            {
                "product": shape if product.batch == 1 else f"{product.batch} of {shape}",
                "count": product.count,
                "gflop": round(product.flop / 1e9, 2),
                "seconds": round(seconds, 4),
                "share_of_peak": round(product.flop / seconds / peak, 3),
            }
        )
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    results.add_output_flag(parser, "step_profile")
    arguments = parser.parse_args()

    import training_loop

    step_s, kinds = profiled_step(arguments)
    products = flop.products(
        shapes.SIZES[arguments.size], arguments.batch, arguments.input_length,
        arguments.prompt_length, arguments.target_length,
    )  # fmt: skip
    peak = flop.gemm_peak(arguments.dtype)
    found = each_alone(products, arguments.dtype, peak)
    total = sum(product.flop for product in products)
    alone = sum(entry["seconds"] for entry in found)
    busy = sum(kinds.values())
    summary = {
        "gflop": round(total / 1e9, 1),
        "gemm_gflop_s": round(peak / 1e9, 1),
        "best_step_s": round(step_s, 4),
        "step_share_of_peak": round(total / step_s / peak, 3),
        "products_at_peak_s": round(total / peak, 4),
        "products_at_their_shapes_s": round(alone, 4),
        "products_share_of_peak": round(total / alone / peak, 3),
        "thread_seconds_share": {kind: round(value / busy, 3) for kind, value in kinds.items()},
    }
    results.write(
        arguments, {**training_loop.device_facts(), "summary": summary, "products": found}
    )
    print(
        results.table(
            ["product", "count", "GFLOP", "s", "of peak"],
            [
                [entry["product"], str(entry["count"]), f"{entry['gflop']:.2f}",
                 f"{entry['seconds']:.3f}", f"{entry['share_of_peak']:.2f}"]
                for entry in found
            ],
        )
    )  # fmt: skip
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
