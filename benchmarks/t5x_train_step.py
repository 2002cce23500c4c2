"""Compares a step on T5X and Flaxformer, start-up, memory and saves with the reference.

The default is the shape of T5 1.1 small with a prompt of 100, batch 8, 128 input and 8 target
tokens, float32, Adafactor on the prompt only, and random weights. There are three sides, each in
its own process. In each round, the processes start one after the other, take steps in turn, and
save:

- `reference`: google-research/prompt-tuning, with its own gin files, in which embeddings are a
  product with one-hot vectors;
- `one_hot`: ours, with ONE_HOT_EMBEDDING = True;
- `gather`: ours, with the default of our gin files.

The gin files of each side configure the arguments of T5X's `train`, as in a real run: the model,
its optimizer, the partitioner, the trainer and the saves. The function `train` below replaces
T5X's. Judge by ratios: the times depend on the machine.

    python benchmarks/t5x_train_step.py --reference FOLDER

FOLDER is a checkout of the reference; T5X and Flaxformer are installed or on PYTHONPATH. Without
`--reference`, only ours is measured.

Saves are made in several ways, each into an empty folder. `orbax` is T5X's default. `legacy` is
T5X's own form (USE_ORBAX = False), the only one in which the reference also writes the prompt as an
array. `only_prompt` is ours with ONLY_PROMPT = True.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import processes
import results
import shapes

# The folder of a side's gin files, below gin's search paths, and its additional bindings.
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "reference": ("prompt_tuning/configs/", {}),
    "one_hot": ("", {"ONE_HOT_EMBEDDING": True}),
    "gather": ("", {}),
}


def configuration(side: str, arguments: argparse.Namespace, model_dir: str) -> str:
    """Returns the gin configuration of a run of a side, without data and without a checkpoint."""
    size = shapes.SIZES[arguments.size]
    configs, bindings = SIDES[side]
    macros = {
        "NUM_HEADS": size.num_heads,
        "NUM_ENCODER_LAYERS": size.num_layers,
        "NUM_DECODER_LAYERS": size.num_layers,
        "HEAD_DIM": shapes.HEAD_DIM,
        "EMBED_DIM": size.emb_dim,
        "MLP_DIM": size.mlp_dim,
        "NUM_EMBEDDINGS": shapes.NUM_EMBEDDINGS,
        "PROMPT_LENGTH": arguments.prompt_length,
        "ACTIVATION_DTYPE": arguments.dtype,
        "DROPOUT_RATE": arguments.dropout,
        "RANDOM_SEED": 0,
        "MODEL_DIR": model_dir,
        "INITIAL_CHECKPOINT_PATH": "",
        "MIXTURE_OR_TASK_NAME": "random ids",
        "TASK_FEATURE_LENGTHS": {
            "inputs": arguments.input_length,
            "targets": arguments.target_length,
        },
        "TRAIN_STEPS": 1,
        **bindings,
    }
    return "\n".join(
        [
            "from __gin__ import dynamic_registration",
            "import __main__ as train_script",
            "import seqio",
            f"include '{configs}models/t5_1_1_small_prompt.gin'",
            f"include '{configs}runs/prompt_finetune.gin'",
            *(f"{name} = {value!r}" for name, value in macros.items()),
            "VOCABULARY = @seqio.PassThroughVocabulary()",
            f"seqio.PassThroughVocabulary.size = {shapes.NUM_EMBEDDINGS}",
            *(
                f"train_script.train.{name}_dataset_cfg = None"
                for name in ("train", "train_eval", "infer_eval")
            ),
        ]
    )


def random_batch(rng: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns random ids in the form of T5X's converter: int32, without padding."""
    import numpy as np

    def ids(length: int) -> Any:
        found = rng.integers(shapes.FIRST_ID, shapes.LAST_ID, (arguments.batch, length))
        return found.astype(np.int32)

    targets = ids(arguments.target_length)
    return {
        "encoder_input_tokens": ids(arguments.input_length),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }


@dataclasses.dataclass
class Training:
    """A run made of T5X's classes.

    Attributes:
      trainer: T5X's trainer.
      batches: Batches without end.
      initializer: T5X's initializer, which has the shapes of the state.
      partitioner: The partitioner of the gin files.
      checkpoint_cfg: The settings of saves in the gin files.
      model_dir: The folder for checkpoints and prompts.
      loss: The loss of a token at the newest step.
    """

    trainer: Any
    batches: Iterator[dict[str, Any]]
    initializer: Any
    partitioner: Any
    checkpoint_cfg: Any
    model_dir: Path
    loss: float = float("nan")

    def step(self) -> float:
        """Takes one step and returns its seconds."""
        import jax

        begin = time.perf_counter()
        metrics = self.trainer.train(self.batches, 1)
        jax.block_until_ready(self.trainer.train_state)
        seconds = time.perf_counter() - begin
        self.loss = float(metrics.result()["loss_per_nonpadding_target_token"].value)
        return seconds

    def gflop(self) -> float:
        """Returns the GFLOP that XLA counts in the compiled step, a private attribute of T5X."""
        return float(self.trainer._compiled_train_step.cost_analysis()["flops"]) / 1e9

    def save(self, way: str) -> dict[str, float]:
        """Empties the folder and saves once, in one of the ways of this module's docstring."""
        from t5x import utils

        shutil.rmtree(self.model_dir, ignore_errors=True)
        self.model_dir.mkdir()
        save, restore = self.checkpoint_cfg.save, self.checkpoint_cfg.restore
        if way == "only_prompt":
            from prompt_tuning_engine_t5x import checkpoints

            manager_class = checkpoints.manager_class(only_prompt=True)
            save = dataclasses.replace(save, checkpoint_manager_cls=manager_class)
            restore = dataclasses.replace(restore, checkpoint_manager_cls=manager_class)
        shape, folder = self.initializer.global_train_state_shape, str(self.model_dir)
        if way == "legacy":
            manager = utils.LegacyCheckpointManager(
                save_cfg=save, restore_cfg=restore, train_state_shape=shape,
                partitioner=self.partitioner, model_dir=folder,
            )  # fmt: skip
        else:
            manager = utils.create_orbax_checkpoint_manager(
                save_cfg=save, restore_cfg=restore, train_state=shape,
                partitioner=self.partitioner, model_dir=folder,
            )  # fmt: skip
        begin = time.perf_counter()
        manager.save(self.trainer.train_state, save.state_transformation_fns)
        blocked = time.perf_counter() - begin
        manager.wait_until_finished()
        whole = time.perf_counter() - begin
        manager.close()
        written = [path for path in self.model_dir.rglob("*") if path.is_file()]
        return {
            "blocked_s": round(blocked, 3),
            "whole_s": round(whole, 3),
            "bytes": sum(path.stat().st_size for path in written),
            "files": len(written),
        }


def train(
    *,
    arguments: argparse.Namespace,
    model: Any,
    partitioner: Any,
    trainer_cls: Any,
    checkpoint_cfg: Any,
    model_dir: str,
    random_seed: int,
    **others: Any,
) -> Training:
    """Sets up a run, with the values that gin files bind for T5X's `train`; compiles its step.

    Args:
      arguments: The arguments of this process.
      model: See `t5x.train.train`.
      partitioner: See `t5x.train.train`.
      trainer_cls: See `t5x.train.train`.
      checkpoint_cfg: See `t5x.train.train`.
      model_dir: See `t5x.train.train`.
      random_seed: See `t5x.train.train`.
      **others: Other settings of a run, such as evaluations, which are not measured.
    """
    del others
    import jax
    import numpy as np
    from t5x import utils

    rng = np.random.default_rng(random_seed)
    batches = [random_batch(rng, arguments) for _ in range(8)]
    init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(random_seed))
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: array.shape for name, array in batches[0].items()},
        input_types={name: array.dtype for name, array in batches[0].items()},
        partitioner=partitioner,
    )
    trainer = trainer_cls(
        model=model,
        train_state=initializer.from_scratch(init_rng),
        partitioner=partitioner,
        train_state_axes=initializer.train_state_axes,
        eval_names=(),
        summary_dir=None,
        rng=trainer_rng,
    )
    trainer.compile_train(batches[0])
    return Training(
        trainer,
        itertools.cycle(batches),
        initializer,
        partitioner,
        checkpoint_cfg,
        Path(model_dir),
    )


def serve(arguments: argparse.Namespace) -> None:
    """Starts a side in this process; takes a step or saves for each question."""
    ways = ["orbax", "legacy"]
    if arguments.side == "reference":
        make_importable(arguments.reference)
    else:
        ways.append("only_prompt")

    import gin
    import t5x.train  # noqa: F401  All that a run of T5X imports.

    from prompt_tuning_core import gin_config

    for searched in gin_config.search_paths("t5x"):
        gin.add_config_file_search_path(str(searched.path))
    configured = gin.configurable(train)
    with tempfile.TemporaryDirectory() as folder:
        gin.parse_config(configuration(arguments.side, arguments, f"{folder}/run"))
        gin.finalize()
        imported = processes.since_start()
        training = configured(arguments=arguments)
        training.step()
        started = {
            "imported_s": round(imported, 2),
            "startup_s": round(processes.since_start(), 2),
            "xla_gflop": round(training.gflop(), 2),
        }
        processes.answer(
            {
                "start": lambda: started,
                "step": lambda: round(training.step(), 4),
                "loss": lambda: round(training.loss, 4),
                "peak": processes.peak_rss_mb,
                "save": lambda: {way: training.save(way) for way in ways},
            }
        )
    training.trainer.close()


def run_round(
    sides: Mapping[str, processes.Side], warmup: int, steps: int
) -> dict[str, dict[str, Any]]:
    """Starts a process of each side; makes them take steps in turn, then save; returns figures.

    Args:
      sides: The sides by name.
      warmup: Number of steps before the measured ones, including the first step.
      steps: Number of measured steps.
    """
    workers, found = {}, {}
    for name, side in sides.items():
        load = round(os.getloadavg()[0], 2)
        workers[name] = processes.Worker(side)
        found[name] = {"load_before": load, **workers[name].ask("start")}
    turns = [
        {name: worker.ask("step") for name, worker in workers.items()}
        for _ in range(warmup - 1 + steps)
    ][warmup - 1 :]
    for name, worker in workers.items():
        found[name]["step_s"] = [turn[name] for turn in turns]
        found[name]["loss"] = worker.ask("loss")
        found[name]["peak_rss_mb"] = worker.ask("peak")
        found[name]["saves"] = worker.ask("save")
        worker.close()
    return found


def make_importable(checkout: str) -> None:
    """Puts the reference's checkout on the path, and replaces a module that Flax has removed.

    The reference derives a class from a class of `flax.optim`. Its gin files use T5X's class
    instead.
    """
    from t5x import optimizers

    sys.path.insert(0, checkout)
    gone = types.ModuleType("flax.optim")
    gone.__dict__.update(
        MultiOptimizer=optimizers.MultiOptimizer, OptimizerDef=optimizers.OptimizerDef
    )
    sys.modules[gone.__name__] = gone


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the medians of a side's processes, its best step and its peak memory."""
    steps = [second for run in runs for second in run["step_s"]]

    def middle(values: Iterator[float]) -> float:
        return round(statistics.median(values), 4)

    return {
        "median_step_s": middle(iter(steps)),
        "best_step_s": min(steps),
        "imported_s": middle(run["imported_s"] for run in runs),
        "startup_s": middle(run["startup_s"] for run in runs),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "xla_gflop": runs[0]["xla_gflop"],
        "saves": {
            way: {name: middle(run["saves"][way][name] for run in runs) for name in figures}
            for way, figures in runs[0]["saves"].items()
        },
    }


def compared(
    summaries: Mapping[str, dict[str, Any]], runs: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Returns the ratios of the reference's figures to ours: above 1, ours is better."""
    theirs = summaries["reference"]
    ratios = {}
    for side in ("one_hot", "gather"):
        for name in ("median_step_s", "best_step_s", "startup_s", "peak_rss_mb", "xla_gflop"):
            ratios[f"{side}_{name}"] = theirs[name] / summaries[side][name]
        # The ratio of each step to the step right after it, since both see the same load.
        ratios[f"{side}_step_in_turn"] = statistics.median(
            their_step / our_step
            for their_run, our_run in zip(runs["reference"], runs[side], strict=True)
            for their_step, our_step in zip(their_run["step_s"], our_run["step_s"], strict=True)
        )
    for way, saved in summaries["gather"]["saves"].items():
        # Saves of the prompt alone are compared with T5X's default.
        against = theirs["saves"].get(way, theirs["saves"]["orbax"])
        for name in ("blocked_s", "whole_s", "bytes", "files"):
            ratios[f"{way}_save_{name}"] = against[name] / saved[name]
    return {name: round(value, 3) for name, value in ratios.items()}


def commits(reference: str | None) -> dict[str, str]:
    """Returns the commit of each measured checkout; an installed package has none."""

    def git(folder: str, *command: str) -> str:
        done = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True)
        return done.stdout.strip()

    specs = {name: importlib.util.find_spec(name) for name in ("t5x", "flaxformer")}
    folders = {
        name: next(iter(spec.submodule_search_locations or ()))
        for name, spec in specs.items()
        if spec is not None
    }
    if reference:
        folders["prompt-tuning"] = reference
    return {
        name: git(folder, "rev-parse", "--short", "HEAD")
        for name, folder in folders.items()
        # An environment may be inside some other checkout.
        if git(folder, "ls-tree", "HEAD", ".")
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a process")
    parser.add_argument("--warmup", type=int, default=2, help="unmeasured steps before, at least 1")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--reference", help="a checkout of google-research/prompt-tuning")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    results.add_output_flag(parser, "t5x_train_step")
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments)
        return
    given = shapes.flags(arguments, "rounds", "steps", "warmup", "output")
    sides = {
        side: processes.Side(
            [sys.executable, __file__, f"--side={side}", *given],
            {"JAX_COMPILATION_CACHE_DIR": None},
        )
        for side in SIDES
        if side != "reference" or arguments.reference
    }
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, found in run_round(sides, arguments.warmup, arguments.steps).items():
            runs[side].append(found)
    report: dict[str, Any] = {
        "commits": commits(arguments.reference),
        "summary": {side: summary(of_side) for side, of_side in runs.items()},
    }
    if arguments.reference:
        report["reference_over_ours"] = compared(report["summary"], runs)
        del arguments.reference  # A path of this machine.
    results.write(arguments, {**report, "runs": runs})
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
