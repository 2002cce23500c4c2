"""Compares a batch with a different prompt for each text with one prompt for all texts.

By default, 8 prompts of 30 to 100 vectors are compared with one prompt of 100, on T5 1.1 small with
128 input tokens, 8 generated tokens and batches of 32. Both sides answer the same texts in one
process, in turn. It also compares log-likelihoods of texts in such a batch with their
log-likelihoods under their prompt alone.

    python benchmarks/prompt_of_each.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

import random_t5
import results
import shapes
from prompt_tuning_engine_local.model import model_files
from prompt_tuning_engine_local.model.prompt_of_each import PromptOfEach, PromptTable
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_engine_local.runs.devices import Placement

NAME = "encoder/prompt/prompt/prompt"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answers and scores with both sides, and returns the figures."""
    model = random_t5.make(arguments, random_t5.NoVocabulary(eos_id=-1))
    each = EncoderDecoderModel(model.config, model.vocabulary, PromptOfEach)
    place = Placement(1).everywhere
    frozen = model_files.load(arguments.weights, model.frozen_parameters, place).params
    rng = np.random.default_rng(0)
    longest = arguments.prompt_length
    lengths = np.linspace(0.3 * longest, longest, arguments.prompts).astype(int)
    matrices = [
        rng.uniform(-0.5, 0.5, (length, model.config.emb_dim)).astype(np.float32)
        for length in lengths
    ]
    numbers = rng.permutation(np.arange(arguments.batch) % arguments.prompts).astype(np.int32)
    batch = place(random_t5.batch(rng, arguments))
    one = place({NAME: matrices[-1]})
    several = place(PromptTable.of(matrices).parameters(numbers))
    sides = {"one prompt": (model, one), "a prompt for each": (each, several)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats + 1):
        for name, (side, prompt) in sides.items():
            begin = time.perf_counter()
            tokens = batch["encoder_input_tokens"]
            ids = side.compiled_best_ids(prompt, frozen, tokens, max_length=arguments.target_length)
            jax.block_until_ready(ids)
            if repeat:  # The first call compiles.
                seconds[name].append(time.perf_counter() - begin)
    mixed = np.asarray(each.compiled_score(several, frozen, batch))
    differences = []
    for number in (0, len(matrices) - 1):  # The shortest and the longest.
        shape = argparse.Namespace(**{**vars(arguments), "prompt_length": len(matrices[number])})
        own = random_t5.make(shape, model.vocabulary)
        alone = np.asarray(own.compiled_score({NAME: matrices[number]}, frozen, batch))
        rows = numbers == number
        differences.append(np.max(np.abs(mixed - alone)[rows] / np.abs(alone)[rows]))
    return {
        "seconds": {name: [round(one, 4) for one in found] for name, found in seconds.items()},
        "largest_relative_difference_of_scores": float(max(differences)),
        "prompt_lengths": lengths.tolist(),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.set_defaults(batch=32)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10, help="measured calls of each side")
    results.add_output_flag(parser, "prompt_of_each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments.weights = str(random_t5.write(arguments, folder))
        found = measure(arguments)
    alone, each = (statistics.median(times) for times in found["seconds"].values())
    report = {"examples_per_s_over_one_prompt": round(alone / each, 3), **found}
    results.write(arguments, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
