"""One training step of a T5 1.1: ours beside PEFT's, in one interleaved run.

The shape is T5 1.1 small with a prompt of 100, batch 8, 128 input and 8 target tokens, float32,
Adafactor on the prompt only. Each round starts a process of either side; each process also measures
what the machine gives a matrix product at that time. Judge by ratios: the times are the machine's.

    python benchmarks/train_step.py                      # ours alone
    python benchmarks/train_step.py --peer 'peft-env/bin/python benchmarks/peft_train_step.py'

A peer prints one JSON line with `step_s` (seconds of each step), `startup_s` (process start to the
end of the first step), `peak_rss_mb` and `save_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {
    "small": (512, 6, 1024, 8),
    "base": (768, 12, 2048, 12),
    "large": (1024, 16, 2816, 24),
}
HEAD_DIM, NUM_EMBEDDINGS = 64, 32128


def since_start() -> float:
    """Returns the seconds since this process was started, its imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Takes `arguments.steps` steps in this process and returns the figures."""
    from types import SimpleNamespace

    import jax
    import numpy as np

    from prompt_tuning_core import prompt_files
    from prompt_tuning_engine_local import models, optimizers, training
    from prompt_tuning_engine_local.network import T5Config
    from prompt_tuning_prompt_basic import PromptBasic

    emb_dim, num_heads, mlp_dim, layers = SIZES[arguments.size]
    config = T5Config(
        num_embeddings=NUM_EMBEDDINGS,
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=HEAD_DIM,
        mlp_dim=mlp_dim,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        dropout_rate=arguments.dropout,
        dtype=arguments.dtype,
    )
    model = models.EncoderDecoderModel(
        config,
        SimpleNamespace(vocab_size=NUM_EMBEDDINGS, eos_id=1),  # type: ignore[arg-type]
        lambda: PromptBasic(
            length=arguments.prompt_length, prompt_init=jax.nn.initializers.uniform(0.5)
        ),
    )
    rng = np.random.default_rng(0)
    frozen = {
        name: jax.device_put(
            rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
            if len(shape) > 1
            else np.ones(shape, np.float32)
        )
        for name, shape in model.frozen_shapes.items()
    }
    batches = [_batch(rng, arguments) for _ in range(8)]
    optimizer = optimizers.adafactor()
    prompt: Any = model.init_prompt(jax.random.key(0))
    state = optimizer.init(prompt)
    step_fn: Any = training.make_step(model, optimizer)
    key = jax.random.key(1)
    compiled = step_fn.lower(prompt, state, frozen, batches[0], key, 0).compile()
    cost = compiled.cost_analysis() or {}
    seconds = []
    startup = 0.0
    for step in range(arguments.warmup + arguments.steps):
        begin = time.perf_counter()
        prompt, state, metrics = compiled(
            prompt, state, frozen, batches[step % len(batches)], key, step
        )
        jax.block_until_ready(metrics)
        if step == 0:
            startup = since_start()
        if step >= arguments.warmup:
            seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        prompt_files.save(Path(folder) / "prompt.npy", models.prompt_matrix(prompt), {})
        save = time.perf_counter() - begin
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "impl": "ours",
        "device": str(jax.devices()[0]),
        "step_s": [round(value, 4) for value in seconds],
        "startup_s": round(startup, 2),
        "peak_rss_mb": round(peak, 1),
        "save_s": round(save, 4),
        "save_bytes": size,
        "flop": cost.get("flops"),
        "gemm_gflop_s": round(_gemm_peak(arguments.dtype), 1),
        "loss": round(float(metrics["loss"]), 4),
    }


def _batch(rng: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    shape = (arguments.batch, arguments.input_length)
    targets = rng.integers(3, 32000, (arguments.batch, arguments.target_length), np.int32)
    return {
        "encoder_input_tokens": rng.integers(3, 32000, shape, np.int32),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


def _gemm_peak(dtype: str, size: int = 2048, repeats: int = 8) -> float:
    """Returns the best of several GFLOP/s of a square matrix product."""
    import jax
    import jax.numpy as jnp

    size = size if jax.default_backend() == "cpu" else 4 * size
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(product(x, x))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e9


def interleave(arguments: argparse.Namespace, own: list[str]) -> dict[str, Any]:
    """Runs processes of both sides in turn; returns their figures and the ratios."""
    sides = {"ours": own, **({"peer": shlex.split(arguments.peer)} if arguments.peer else {})}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, command in sides.items():
            load = os.getloadavg()[0]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[name].append({**json.loads(printed.splitlines()[-1]), "load": round(load, 2)})
    summary = {name: _summary(found) for name, found in results.items()}
    report: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "arguments": {k: v for k, v in vars(arguments).items() if k not in ("output", "peer")},
        "summary": summary,
        "runs": results,
    }
    if arguments.peer:
        report["peer_over_ours"] = {
            figure: round(summary["peer"][figure] / summary["ours"][figure], 3)
            for figure in ("median_step_s", "best_step_s", "startup_s", "peak_rss_mb")
        }
    return report


def _summary(found: list[dict[str, Any]]) -> dict[str, float]:
    steps = [second for run in found for second in run["step_s"]]
    summary = {
        "median_step_s": statistics.median(steps),
        "best_step_s": min(steps),
        "startup_s": statistics.median(run["startup_s"] for run in found),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in found),
    }
    if all(run.get("flop") for run in found):
        peak = max(run["gemm_gflop_s"] for run in found)
        flop = found[0]["flop"] / 1e9
        summary["gflop"] = round(flop, 1)
        summary["share_of_gemm_peak_best"] = round(flop / summary["best_step_s"] / peak, 3)
        summary["share_of_gemm_peak_median"] = round(flop / summary["median_step_s"] / peak, 3)
    return summary


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input-length", type=int, default=128)
    parser.add_argument("--target-length", type=int, default=8)
    parser.add_argument("--prompt-length", type=int, default=100)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a process")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--peer", help="a command that prints the same figures of a peer")
    parser.add_argument("--one", action="store_true", help="measure in this process, once")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "train_step.json"
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    report = interleave(arguments, [sys.executable, __file__, "--one", *sys.argv[1:]])
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k not in ("runs",)}, indent=2))


if __name__ == "__main__":
    main()
