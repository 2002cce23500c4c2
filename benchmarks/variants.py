"""Compares the cost of prompt variants and of the plain prompt: steps, compiling, decoding.

All variants take their steps in turn, in one process, over the same weights and batches.

    python benchmarks/variants.py
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import random_t5
import results
import shapes
from prompt_tuning_core import registry
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from training_loop import TrainingLoop

PLAIN = "prompt_basic"
VARIANTS = (PLAIN, "prompt_deep", "prompt_prefix", "prompt_ia3", "prompt_reparam")


def model_of(variant: str, arguments: argparse.Namespace, eos_id: int) -> EncoderDecoderModel:
    """Returns a model with this prompt module."""
    module = registry.process_registry().load("prompt", variant)
    return random_t5.make(arguments, random_t5.NoVocabulary(eos_id), module)


def steps_in_turn(arguments: argparse.Namespace, weights: Any) -> dict[str, dict[str, Any]]:
    """Returns, for each variant, the seconds of the first step and of the others."""
    loops = {
        variant: TrainingLoop(model_of(variant, arguments, eos_id=1), weights)
        for variant in arguments.variants
    }
    rng = np.random.default_rng(0)
    first = random_t5.batch(rng, arguments)
    # The first step of a process does more than compile.
    TrainingLoop(model_of(PLAIN, arguments, eos_id=1), weights).step(first)
    # The first step compiles: no compiled program is on disk.
    found: dict[str, dict[str, Any]] = {
        variant: {
            "trained_parameters": sum(leaf.size for leaf in loop.prompt.values()),
            "first_step_s": round(loop.step(first), 2),
            "step_s": [],
        }
        for variant, loop in loops.items()
    }
    for _ in range(arguments.steps):
        batch = random_t5.batch(rng, arguments)
        for variant, loop in loops.items():
            found[variant]["step_s"].append(round(loop.step(batch), 4))
    return found


def decoding_in_turn(arguments: argparse.Namespace, weights: Any) -> dict[str, list[float]]:
    """Returns, for each variant, the tokens decoded in a second in each of several rounds."""
    tokens = random_t5.batch(np.random.default_rng(1), arguments)["encoder_input_tokens"]
    runs: dict[str, Callable[[], Any]] = {}
    for variant in arguments.variants:
        model = model_of(variant, arguments, eos_id=-1)  # No answer ends early.
        loop = TrainingLoop(model, weights)
        runs[variant] = functools.partial(
            random_t5.answers(model), loop.prompt, loop.frozen, tokens, arguments.decode_length
        )
        runs[variant]().block_until_ready()
    found: dict[str, list[float]] = {variant: [] for variant in runs}
    for _ in range(arguments.rounds):
        for variant, run in runs.items():
            begin = time.perf_counter()
            run().block_until_ready()
            seconds = time.perf_counter() - begin
            found[variant].append(round(len(tokens) * arguments.decode_length / seconds, 1))
    return found


def add_ratios(found: dict[str, dict[str, Any]]) -> None:
    """Adds medians, and ratios to the plain prompt: the median of the ratios in each turn."""
    plain = found[PLAIN]
    for figures in found.values():
        for name in ("step_s", "tokens_per_s"):
            ratios = [a / b for a, b in zip(figures[name], plain[name], strict=True)]
            figures[f"median_{name}"] = round(statistics.median(figures[name]), 4)
            figures[f"{name}_over_plain"] = round(statistics.median(ratios), 3)
        figures["first_step_over_plain"] = round(figures["first_step_s"] / plain["first_step_s"], 2)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--steps", type=int, default=15, help="measured steps of each variant")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of decoding")
    parser.add_argument("--decode-length", type=int, default=32, help="ids of an answer")
    results.add_output_flag(parser, "variants")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)

    with tempfile.TemporaryDirectory() as folder:
        weights = random_t5.write(arguments, folder)
        found = steps_in_turn(arguments, weights)
        for variant, rates in decoding_in_turn(arguments, weights).items():
            found[variant]["tokens_per_s"] = rates
    add_ratios(found)
    results.write(arguments, {"variants": found})
    print(
        results.table(
            [
                "variant",
                "parameters",
                "step s",
                "ratio",
                "first step s",
                "ratio",
                "tokens/s",
                "ratio",
            ],
            [
                [
                    variant,
                    str(figures["trained_parameters"]),
                    f"{figures['median_step_s']:.3f}",
                    f"{figures['step_s_over_plain']:.2f}",
                    f"{figures['first_step_s']:.1f}",
                    f"{figures['first_step_over_plain']:.2f}",
                    f"{figures['median_tokens_per_s']:.0f}",
                    f"{figures['tokens_per_s_over_plain']:.2f}",
                ]
                for variant, figures in found.items()
            ],
        )
    )


if __name__ == "__main__":
    main()
