"""PEFT's prompt tuning of a T5 1.1 with random weights; needs torch, transformers and peft.

Install them in a separate environment, since this project does not depend on them:

    python -m venv peft-env && peft-env/bin/pip install torch transformers peft
"""

from __future__ import annotations

import argparse
from typing import Any

from shapes import HEAD_DIM, NUM_EMBEDDINGS, SIZES


def add_weights_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--make-weights`."""
    parser.add_argument("--make-weights", metavar="FOLDER", help="write random weights, and end")


def make_weights(arguments: argparse.Namespace) -> None:
    """Writes the weights that `load` reads."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    size = SIZES[arguments.size]
    config = T5Config(
        vocab_size=NUM_EMBEDDINGS,
        d_model=size.emb_dim,
        d_kv=HEAD_DIM,
        d_ff=size.mlp_dim,
        num_layers=size.num_layers,
        num_decoder_layers=size.num_layers,
        num_heads=size.num_heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        dropout_rate=arguments.dropout,
    )
    T5ForConditionalGeneration(config).save_pretrained(arguments.make_weights)


def load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the model with a prompt, and its device."""
    import torch
    from peft import PromptTuningConfig, get_peft_model
    from transformers import T5ForConditionalGeneration

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = T5ForConditionalGeneration.from_pretrained(
        arguments.weights, dtype=getattr(torch, arguments.dtype)
    )
    model = get_peft_model(
        base,
        # One submodule: by default PEFT doubles the prompt of an encoder-decoder model.
        PromptTuningConfig(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=arguments.prompt_length,
            num_transformer_submodules=1,
        ),
    )
    return model.to(device), device


def facts(device: Any) -> dict[str, Any]:
    """Returns the device, and the versions of the measured libraries."""
    import torch

    import results

    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        **(
            {"peak_device_mb": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)}
            if cuda
            else {}
        ),
        "versions": results.versions("torch", "transformers", "peft", "numpy"),
    }
