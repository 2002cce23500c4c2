"""Writes the demo's model in the form of a T5 of Hugging Face Transformers, to try that form.

    python -m prompt_tuning_demo.hugging_face FOLDER

This needs the distribution prompt-tuning-format-huggingface, which knows the names of the tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from prompt_tuning_core.errors import InputError
from prompt_tuning_demo import model, scripts
from prompt_tuning_demo.recipe import EXTRA_IDS, Recipe


def main(arguments: Sequence[str]) -> None:
    """Writes `config.json`, `model.safetensors` and `spiece.model` to a new folder.

    Raises:
      InputError: If there is not one argument, or the folder exists.
    """
    from prompt_tuning_format_huggingface import t5_config, t5_names

    if len(arguments) != 1 or Path(arguments[0]).exists():
        raise InputError(f"arguments {list(arguments)}: expected one folder, which does not exist")
    folder = Path(arguments[0])
    weights = safetensors.numpy.load_file(model.checkpoint_path())
    folder.mkdir(parents=True)
    (folder / t5_config.FILE_NAME).write_text(json.dumps(_config(Recipe()), indent=2) + "\n")
    sources = t5_names.sources(t5_config.read_config(folder), has_output_layer=True)
    tensors = {
        source.tensor: np.ascontiguousarray(weights[name].T if source.transposed else weights[name])
        for name, source in sources.items()
    }
    # `save_file` makes a file that nobody else may read.
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))
    shutil.copyfile(model.vocabulary_path(), folder / "spiece.model")


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": recipe.pieces + EXTRA_IDS,
        "d_model": recipe.emb_dim,
        "d_kv": recipe.head_dim,
        "d_ff": recipe.mlp_dim,
        "num_heads": recipe.num_heads,
        "num_layers": recipe.num_encoder_layers,
        "num_decoder_layers": recipe.num_decoder_layers,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


if __name__ == "__main__":
    scripts.run("hugging_face", main)
