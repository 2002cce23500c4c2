"""Decoding with a key-value cache and a prompt, greedily or with beams: ours beside PEFT's.

By default at the shape of T5 1.1 small with a prompt of 100, 128 input tokens and 32 generated
tokens, float32, batches of 8 and 32. Each process generates 32 tokens, and only one, in turn: the
whole call counts the encoder, and the difference between the two is what the decoder alone takes
for the other 31. Nothing ends a sequence early: for ours there is no EOS, a peer gets the same
number as its minimum. The benchmark counts the tokens of the results: with `--beams`, of the best
sequence of each text alone. Ours has huge pages, as the command `prompt-tuning` gives itself.

    python benchmarks/decoding.py                        # ours alone
    python benchmarks/decoding.py --peer 'peft-env/bin/python benchmarks/peft_decoding.py'

A peer takes the same flags and `--weights FOLDER`, and `--make-weights FOLDER` to write such a
folder. It prints one JSON line with `batches`, a mapping of batch size to `tokens`, `whole_s` and
`first_s` (seconds of each call).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import processes
import results
import shapes


def add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that describe the texts, for ours and the peer."""
    parser.add_argument("--batches", default="8,32", help="batch sizes, joined by commas")
    parser.add_argument("--input-length", type=int, default=128)
    parser.add_argument("--generated", type=int, default=32, help="tokens of each sequence")
    parser.add_argument("--beams", type=int, default=1, help="1 for greedy decoding")
    parser.add_argument("--repeats", type=int, default=5, help="measured calls of a process")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decodes in this process and returns the figures."""
    import jax
    import numpy as np

    import random_t5
    import training_loop
    from prompt_tuning_engine_local.model import model_files
    from prompt_tuning_engine_local.runs.devices import Placement

    model = random_t5.make(arguments, random_t5.NoVocabulary(eos_id=-1))
    placement = Placement(1)
    frozen = model_files.load(
        arguments.weights, model.frozen_parameters, placement.everywhere
    ).params
    prompt = placement.everywhere(model.init_prompt(jax.random.key(0)))
    generate = random_t5.answers(model, arguments.beams)
    rng = np.random.default_rng(0)
    found = {}
    for batch in map(int, arguments.batches.split(",")):
        shape = (batch, arguments.input_length)

        def decode(length: int, shape: tuple[int, int] = shape) -> int:
            ids = rng.integers(shapes.FIRST_ID, shapes.LAST_ID, shape, dtype=np.int32)
            made = np.asarray(generate(prompt, frozen, placement.split(ids), length))
            return made.size

        found[batch] = timed(decode, arguments)
    return {"impl": "ours", "batches": found, **training_loop.device_facts()}


def timed(decode: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures calls of `decode`, which takes a length and returns how many tokens it made."""
    times: dict[int, list[float]] = {1: [], arguments.generated: []}
    tokens = 0
    for repeat in range(arguments.repeats + 1):
        for length, seconds in times.items():
            begin = time.perf_counter()
            tokens = decode(length)
            # The first call of each length compiles, and fills caches.
            if repeat:
                seconds.append(round(time.perf_counter() - begin, 4))
    return {"tokens": tokens, "whole_s": times[arguments.generated], "first_s": times[1]}


def summary(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns by batch size tokens a second, and how long each step of the decoder takes."""
    found = {}
    for batch in runs[0]["batches"]:
        mine = [run["batches"][batch] for run in runs]
        whole = statistics.median(second for run in mine for second in run["whole_s"])
        first = statistics.median(second for run in mine for second in run["first_s"])
        found[batch] = {
            "tokens_per_s": round(mine[0]["tokens"] / whole, 1),
            "first_token_s": round(first, 4),
            "further_token_s": round((whole - first) / (arguments.generated - 1), 5),
        }
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    add_decoding_flags(parser)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--peer", help="a command that prints the same figures of a peer")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    results.add_output_flag(parser, "decoding")
    arguments = parser.parse_args()
    if arguments.generated < 2:
        parser.error("--generated is at least 2, since the first token is taken off")
    if arguments.beams < 1:
        parser.error("--beams is at least 1")
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return

    with tempfile.TemporaryDirectory() as folder:
        commands = processes.commands(__file__, arguments, folder)
        sides = {name: processes.Side(command) for name, command in commands.items()}
        sides["ours"] = processes.Side(commands["ours"], processes.huge_pages())
        runs = processes.interleave(sides, arguments.rounds)
    report: dict[str, Any] = {
        "summary": {name: summary(found, arguments) for name, found in runs.items()}
    }
    if arguments.peer:
        ours, theirs = report["summary"]["ours"], report["summary"]["peer"]
        report["ours_over_peer_tokens_per_s"] = {
            batch: round(figures["tokens_per_s"] / theirs[batch]["tokens_per_s"], 3)
            for batch, figures in ours.items()
        }
        report["peer_over_ours_further_token_s"] = {
            batch: round(theirs[batch]["further_token_s"] / figures["further_token_s"], 3)
            for batch, figures in ours.items()
        }
    results.write(arguments, {**report, "runs": runs})
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
