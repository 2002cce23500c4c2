"""Trains every prompt variant on the demo's tasks, with the demo's settings, and compares them.

Each run is the ordinary command with a gin file of the demo. Nothing is tuned for a variant: steps,
batch size, learning rate and prompt length are the demo's, which were chosen with the plain prompt,
and the fields of a variant are its defaults. Runs that have finished in `--runs` are not repeated.

    python benchmarks/compare_variants.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors

import results
from prompt_tuning_core import registry
from prompt_tuning_files import prompt_files

PLAIN = "prompt_basic"
METRIC = "eval/exact_match"
TASKS = {"demo_reviews": "runs/demo.gin", "demo_plot_or_review": "runs/demo_plot_or_review.gin"}

# What a variant needs to run at all; `{task}` is the task's name, `{text}` its text below.
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

# Every run: the held-out sentences are scored before the first step and after the last. No choice
# is made by them.
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
    """Trains in `folder`, and returns and writes the figures; reads them of a finished run."""
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
    seconds = step_seconds(folder)
    figures = {
        "steps": rows[-1]["step"],
        "untrained": round(scores[0], 4),
        "held_out": round(scores[-1], 4),
        "trained_parameters": trained_parameters(folder),
        "median_step_s": round(statistics.median(seconds), 5),
        "load_after": round(os.getloadavg()[0], 2),
    }
    prompt_files.write_json(file, {"gin": gin, **figures})
    return figures


def trained_parameters(run: Path) -> int:
    """Returns how many numbers of the prompt module the run trained."""
    prompt = prompt_files.newest(run)
    assert prompt is not None
    file = prompt.with_suffix(".safetensors")
    if not file.exists():
        return prompt_files.load(prompt).size
    plugin = json.loads(prompt.with_suffix(".json").read_text())["prompt_module"]["plugin"]
    module = registry.process_registry().load("prompt", plugin)()
    with safetensors.safe_open(file, "np") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    # Without `prompt`, the matrix that a module amounts to.
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if "/prompt/" in name and module.is_trained(name.partition("/prompt/")[2])
    )


def step_seconds(run: Path) -> list[float]:
    """Returns the time from each training step to the next, of the run's file for TensorBoard."""
    return [
        seconds
        for file in sorted((run / "tensorboard").iterdir())
        for seconds in _between(list(_train_times(file.read_bytes())))
    ]


def _between(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def _train_times(content: bytes) -> Iterator[float]:
    from tensorboardX.proto import event_pb2

    while content:
        # A record: its length in 8 bytes, a checksum in 4, itself, a checksum in 4.
        end = 12 + struct.unpack("<Q", content[:8])[0]
        event = event_pb2.Event.FromString(content[12:end])
        if any(value.tag == "train/loss" for value in event.summary.value):
            yield event.wall_time
        content = content[end + 4 :]


def summary_of(runs: dict[str, dict[str, Any]], variant: str) -> dict[str, Any]:
    """Returns the figures of a variant, over all of its runs.

    The time of a step is relative to the plain prompt's of the same task and seed, a median over
    tasks and seeds.
    """
    own = [figures for figures in runs.values() if figures["variant"] == variant]
    scores: dict[str, list[float]] = {}
    ratios = []
    for figures in own:
        scores.setdefault(figures["task"], []).append(figures["held_out"])
        plain = runs[name_of(PLAIN, figures["task"], figures["seed"])]
        ratios.append(figures["median_step_s"] / plain["median_step_s"])
    return {
        "trained_parameters": own[0]["trained_parameters"],
        "held_out": {task: _spread(values, statistics.fmean, 4) for task, values in scores.items()},
        "step_over_plain": _spread(ratios, statistics.median, 2),
    }


def _spread(
    values: list[float], middle: Callable[[list[float]], float], digits: int
) -> dict[str, float]:
    found = {"middle": middle(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def name_of(variant: str, task: str, seed: int) -> str:
    """Returns the name of a run."""
    return f"{task}_{variant}_{seed}"


def markdown(summary: dict[str, dict[str, Any]], tasks: list[str]) -> str:
    """Returns the table for the documentation."""
    heads = ["variant", "trained parameters", *(f"`{task}`" for task in tasks), "step"]
    lines = [heads, ["---"] * len(heads)]
    for variant, figures in summary.items():
        cells = [f"`{variant}`", f"{figures['trained_parameters']:,}"]
        cells += [_cell(figures["held_out"][task], 3) for task in tasks]
        lines.append([*cells, _cell(figures["step_over_plain"], 2)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(spread: dict[str, float], digits: int) -> str:
    middle, least, most = (f"{spread[name]:.{digits}f}" for name in ("middle", "least", "most"))
    return f"{middle} ({least} to {most})"


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each run; by default the demo's own")
    parser.add_argument(
        "--runs", type=Path, default=Path("out/compare_variants"), help="where the runs go"
    )
    results.add_output_flag(parser, "compare_variants")
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.steps < 2:
        parser.error(
            f"--steps is {arguments.steps}, expected 2 or more: a step is timed from the last"
        )
    arguments.variants = list(dict.fromkeys([PLAIN, *arguments.variants]))

    runs: dict[str, dict[str, Any]] = {}
    # Variants innermost, so that all of a task and a seed meet a similar load of the machine.
    for seed, task, variant in itertools.product(
        arguments.seeds, arguments.tasks, arguments.variants
    ):
        name = name_of(variant, task, seed)
        gin = gin_of(variant, task, seed, arguments.steps)
        found = figures_of(arguments.runs.resolve() / name, gin)
        runs[name] = {"variant": variant, "task": task, "seed": seed, **found}
        print(name, found, file=sys.stderr, flush=True)
    summary = {variant: summary_of(runs, variant) for variant in arguments.variants}
    del arguments.runs  # A path of this machine.
    results.write(arguments, {"variants": summary, "runs": list(runs.values())})
    print(markdown(summary, arguments.tasks))


if __name__ == "__main__":
    main()
