"""Measures how fast the embedded engine loads a frozen model, for each form of file.

It writes a model of Flan-T5's shape with random weights, in float32, to a temporary folder: as a
Hugging Face directory with one file, as a directory with four shards, and as this project's own
file. A new process loads each of them, after its imports and with the file in the page cache. It
reads the sizes, reads and hashes every parameter, and places it on the device.

    python benchmarks/model_load.py

It exits with 1 if a Hugging Face directory of size small takes more than 3 s in the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import processes
import results
from shapes import HEAD_DIM, NUM_EMBEDDINGS, SIZES, Size

LIMIT_S = 3.0
"""The bound that issue 13 sets at size small on two cores."""

SHARDS = 4
FORMS = ("one file", "shards", "our own")


def write(size: Size, folder: Path) -> dict[str, Path]:
    """Writes the model in each form; returns the path of each."""
    from safetensors.numpy import save_file

    from prompt_tuning_format_huggingface import t5_config, t5_names, tensor_files

    config = t5_config.T5FileConfig(
        vocab_size=NUM_EMBEDDINGS,
        d_model=size.emb_dim,
        d_kv=HEAD_DIM,
        d_ff=size.mlp_dim,
        num_layers=size.num_layers,
        num_decoder_layers=size.num_layers,
        num_heads=size.num_heads,
        num_buckets=32,
        max_distance=128,
        gated=True,
        scaled_logits=False,
    )
    rng = np.random.default_rng(0)
    sources = t5_names.sources(config, has_output_layer=True)
    theirs = {s.tensor: rng.standard_normal(s.shape, np.float32) for s in sources.values()}
    ours = {
        name: np.ascontiguousarray(theirs[s.tensor].T) if s.transposed else theirs[s.tensor]
        for name, s in sources.items()
    }
    paths = {form: folder / form for form in FORMS}
    for path in paths.values():
        path.mkdir()
    save_file(ours, paths["our own"] / tensor_files.SINGLE)
    save_file(theirs, paths["one file"] / tensor_files.SINGLE)
    names = list(theirs)
    files = {
        f"model-{i + 1:05}-of-{SHARDS:05}.safetensors": names[i::SHARDS] for i in range(SHARDS)
    }
    for file, part in files.items():
        save_file({name: theirs[name] for name in part}, paths["shards"] / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (paths["shards"] / tensor_files.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    for form in ("one file", "shards"):
        (paths[form] / t5_config.FILE_NAME).write_text(json.dumps(config_json(config)))
    return paths


def config_json(config: Any) -> dict[str, Any]:
    """Returns the config.json of the model, as in the released Flan-T5 models."""
    sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        **{key: getattr(config, key) for key in sizes},
    }


def measure(path: Path) -> dict[str, float]:
    """Loads the model as the engine does."""
    import jax

    from prompt_tuning_engine_local.model import model_files, sizes
    from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
    from prompt_tuning_engine_local.runs.devices import Placement
    from prompt_tuning_prompt_basic import PromptBasic
    from random_t5 import NoVocabulary

    placement = Placement(None)
    begin = time.perf_counter()
    config = sizes.config_of_checkpoint(path)
    sized = time.perf_counter()
    model = EncoderDecoderModel(
        config,
        NoVocabulary(),
        lambda: PromptBasic(length=1, prompt_init=jax.nn.initializers.zeros),
    )
    parameters = model.frozen_parameters
    traced = time.perf_counter()
    frozen = model_files.load(path, parameters, placement.everywhere)
    jax.block_until_ready(dict(frozen.params))
    end = time.perf_counter()
    return {
        "sizes_s": round(sized - begin, 4),
        "shapes_s": round(traced - sized, 4),
        "load_s": round(end - traced, 4),
        "whole_s": round(end - begin, 4),
        "peak_rss_mb": processes.peak_rss_mb(),
    }


def main() -> int:
    """Measures, prints and writes; returns 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=Path, help="measure this model in this process")
    results.add_output_flag(parser, "model_load")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        paths = write(SIZES[arguments.size], Path(folder))
        sides = {
            form: processes.Side([sys.executable, __file__, "--one", str(path)])
            for form, path in paths.items()
        }
        runs = processes.interleave(sides, arguments.rounds)
    figures = ("sizes_s", "shapes_s", "load_s", "whole_s", "peak_rss_mb")
    summary = {
        form: {name: round(statistics.median(run[name] for run in found), 4) for name in figures}
        for form, found in runs.items()
    }
    results.write(arguments, {"summary": summary, "limit_s": LIMIT_S, "runs": runs})
    print(
        results.table(
            ["form", *figures],
            [[form, *(f"{found[name]:g}" for name in figures)] for form, found in summary.items()],
        )
    )
    slowest = max(summary[form]["whole_s"] for form in ("one file", "shards"))
    return int(arguments.size == "small" and slowest > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
