"""Trains every prompt variant on the demo's tasks, with the demo's settings, and compares them.

Each run is the ordinary command with a gin file of the demo. Nothing is tuned for a variant. Steps,
batch size, learning rate and prompt length are the demo's, which were chosen for the plain prompt.
The fields of a variant have their defaults. Runs that have finished in `--runs` are not repeated.

    python benchmarks/compare_variants.py
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import results
from prompt_tuning_core import registry
from prompt_tuning_demo import base, demo_tasks
from prompt_tuning_demo import model as demo_model
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_files import prompt_files
from training_loop import TrainingLoop

PLAIN = "prompt_basic"
METRIC = "eval/exact_match"
BATCH_SIZE = 64
SENTINEL = 4095
"""The id of <extra_id_0> in the demo's vocabulary."""
TASKS = {"demo_reviews": "runs/demo.gin", "demo_plot_or_review": "runs/demo_plot_or_review.gin"}

# The settings that a variant requires; `{task}` is the task's name, `{text}` its text below.
VARIANTS = {
    PLAIN: "",
    "prompt_deep": "",
    "prompt_prefix": "",
    "prompt_ia3": "",
    "prompt_reparam": "",
    "prompt_multitask": """
plugins.prompt_multitask.tasks = 1
plugins.prompt_multitask.sentinel = 4095  # <extra_id_0> in the demo's vocabulary.
MIXTURE_OR_TASK_NAME = '{task}_sentinel'
MIXTURE_OR_TASK_MODULE = 'sentinel_tasks'
""",
    "prompt_wayward": """
plugins.prompt_wayward.target_init = @target/plugins.init_string()
target/plugins.init_string:
  embeddings = @prompt_init/embeddings.checkpoint_load()
  vocab = %VOCABULARY
  text = '{text}'
""",
}
TEXTS = {
    "demo_reviews": "is this review positive or negative?",
    "demo_plot_or_review": "is this from a plot or from a review?",
}

# For every run. The held-out sentences are scored before the first step and after the last step. No
# choice depends on the scores.
EVERY_RUN = """from __gin__ import dynamic_registration

from prompt_tuning_core import plugins
from prompt_tuning_engine_local.runs import options
from prompt_tuning_files import embeddings

include '{gin_file}'

PROMPT = @plugins.{variant}
options.TrainingOptions.eval_split = 'test'
EVAL_PERIOD = %TRAIN_STEPS
SAVE_PERIOD = %TRAIN_STEPS
HOOKS = ()
"""


def gin_of(variant: str, task: str, seed: int, steps: int | None) -> str:
    """Returns the gin file of a run."""
    lines = EVERY_RUN + VARIANTS[variant] + "\nRANDOM_SEED = {seed}\n"
    if steps is not None:
        lines += "TRAIN_STEPS = {steps}\n"
    return lines.format(
        gin_file=TASKS[task], variant=variant, task=task, text=TEXTS[task], seed=seed, steps=steps
    )


def figures_of(folder: Path, gin: str) -> dict[str, Any]:
    """Trains in `folder`, and returns and writes the figures; reads those of a finished run."""
    file = folder / "figures.json"
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text())
        if known.pop("gin") != gin:
            sys.exit(f"{folder} holds a run with other settings; name another folder with --runs")
        return known
    folder.mkdir(parents=True, exist_ok=True)
    gin_file = folder / "run.gin"
    gin_file.write_text(gin)
    here = str(Path(__file__).parent)
    subprocess.run(
        [
            sys.executable, "-m", "prompt_tuning_core", "train", f"--gin_file={gin_file}",
            f"--gin.MODEL_DIR='{folder}'",
        ],
        check=True,
        stdout=sys.stderr,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, os.getenv("PYTHONPATH", "")])},
    )  # fmt: skip
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = [row[METRIC] for row in rows if METRIC in row]
    figures = {
        "steps": rows[-1]["step"],
        "untrained": round(scores[0], 4),
        "held_out": round(scores[-1], 4),
    }
    prompt_files.write_json(file, {"gin": gin, **figures})
    return figures


def steps_in_turn(variants: Sequence[str], count: int) -> dict[str, dict[str, Any]]:
    """Times training steps of all variants, in turn.

    Whole runs, one after another, would see different loads of a shared machine.

    Returns:
      For each variant, the number of its trained numbers, and the seconds of each step.
    """
    models = {variant: model_of(variant) for variant in variants}
    batch = median_batch(models[PLAIN])
    loops = {
        variant: TrainingLoop(model, demo_model.checkpoint_path())
        for variant, model in models.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for variant, loop in loops.items():
        loop.step(batch)  # Compiles.
        trained, _ = models[variant].split(loop.prompt)
        found[variant] = {
            "trained_parameters": sum(leaf.size for leaf in trained.values()),
            "step_s": [],
        }
    for _ in range(count):
        for variant, loop in loops.items():
            found[variant]["step_s"].append(round(loop.step(batch), 5))
    return found


def median_batch(model: EncoderDecoderModel) -> batching.Batch:
    """Returns the batch of median length among 32 of the demo; its inputs begin with a sentinel."""
    sentences = demo_tasks.DEMO_REVIEWS.examples("train")[: 32 * BATCH_SIZE]
    examples = batching.tokenize(sentences, model.vocabulary, base.LENGTHS, "demo_reviews")
    stream = batching.training_batches([examples], base.LENGTHS, BATCH_SIZE, seed=0)
    batches = sorted(
        itertools.islice(stream, 32), key=lambda one: one["encoder_input_tokens"].shape[1]
    )
    tokens = np.array(batches[16]["encoder_input_tokens"])
    tokens[:, 0] = SENTINEL
    return {**batches[16], "encoder_input_tokens": tokens}


def model_of(variant: str) -> EncoderDecoderModel:
    """Returns the demo's model with this prompt module."""
    normal = jax.nn.initializers.normal(0.05)
    fields: dict[str, dict[str, Any]] = {
        "prompt_multitask": {"tasks": 1, "sentinel": SENTINEL},
        "prompt_wayward": {"target_init": normal},
    }
    module = functools.partial(
        registry.process_registry().load("prompt", variant),
        length=base.PROMPT_LENGTH,
        prompt_init=normal,
        **fields.get(variant, {}),
    )
    plain = base.make_model(normal)
    return EncoderDecoderModel(plain.config, plain.vocabulary, module, plain.z_loss)


def summary_of(
    runs: Sequence[Mapping[str, Any]], steps: Mapping[str, Mapping[str, Any]], variant: str
) -> dict[str, Any]:
    """Returns the figures of a variant, over all of its runs.

    The time of a step is relative to the plain prompt's step in the same turn.
    """
    scores: dict[str, list[float]] = {}
    for run in runs:
        if run["variant"] == variant:
            scores.setdefault(run["task"], []).append(run["held_out"])
    taken = zip(steps[variant]["step_s"], steps[PLAIN]["step_s"], strict=True)
    return {
        **steps[variant],
        "held_out": {
            task: {
                "mean": round(statistics.fmean(values), 4),
                "least": min(values),
                "most": max(values),
            }
            for task, values in scores.items()
        },
        "step_over_plain": round(statistics.median(own / plain for own, plain in taken), 2),
    }


def markdown(summary: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """Returns the table for the documentation."""
    heads = ["variant", "trained parameters", *(f"`{task}`" for task in tasks), "step"]
    lines = [heads, ["---"] * len(heads)]
    for variant, figures in summary.items():
        scores = [figures["held_out"][task] for task in tasks]
        lines.append(
            [
                f"`{variant}`",
                f"{figures['trained_parameters']:,}",
                *(f"{s['mean']:.3f} ({s['least']:.3f} to {s['most']:.3f})" for s in scores),
                f"{figures['step_over_plain']:.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps of each run (default: the demo's)")
    parser.add_argument("--timed-steps", type=int, default=30, help="timed steps of each variant")
    parser.add_argument(
        "--runs", type=Path, default=Path("out/compare_variants"), help="folder for the runs"
    )
    results.add_output_flag(parser, "compare_variants")
    arguments = parser.parse_args()
    arguments.variants = list(dict.fromkeys([PLAIN, *arguments.variants]))

    runs = []
    # Variants are innermost, so that all have the same seeds if this is stopped early.
    for seed, task, variant in itertools.product(
        arguments.seeds, arguments.tasks, arguments.variants
    ):
        name = f"{task}_{variant}_{seed}"
        gin = gin_of(variant, task, seed, arguments.steps)
        found = figures_of(arguments.runs.resolve() / name, gin)
        runs.append({"variant": variant, "task": task, "seed": seed, **found})
        print(name, found, file=sys.stderr, flush=True)
    steps = steps_in_turn(arguments.variants, arguments.timed_steps)
    summary = {variant: summary_of(runs, steps, variant) for variant in arguments.variants}
    del arguments.runs  # A path of this machine.
    results.write(arguments, {"variants": summary, "runs": runs})
    print(markdown(summary, arguments.tasks))


if __name__ == "__main__":
    main()
