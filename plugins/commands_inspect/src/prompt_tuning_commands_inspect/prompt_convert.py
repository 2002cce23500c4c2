"""Write a prompt in the form that the ending of OUT names."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from prompt_tuning_files import formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("input", metavar="IN", help="a prompt of any installed form")
    parser.add_argument("out", metavar="OUT", help="the prompt to write, such as prompt.npy")
    parser.add_argument(
        "--hugging-face",
        metavar="NAME",
        help="the prompt's model at Hugging Face, or its folder; default: the provenance's model",
    )
    parser.epilog = "Example: prompt-tuning prompt convert out/run/prompt_300.npy adapter/"


def run(arguments: argparse.Namespace) -> int:
    """Writes the prompt with its provenance."""
    prompt = formats.read_prompt(arguments.input)
    provenance = prompt.provenance
    if arguments.hugging_face is not None:
        model = provenance.get("model")
        known = model if isinstance(model, Mapping) else {}
        provenance = {**provenance, "model": {**known, "hugging_face": arguments.hugging_face}}
    existed = os.path.lexists(arguments.out)
    array = prompt.matrix(arguments.input)
    formats.write_prompt(arguments.out, array, provenance)
    print(f"{'replaced' if existed else 'wrote'} {arguments.out}: float32 {array.shape}")
    return 0
