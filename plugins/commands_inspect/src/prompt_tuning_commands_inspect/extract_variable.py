"""List the variables of a model, or save one as .npy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prompt_tuning_core.commands.text_tables import aligned
from prompt_tuning_core.errors import InputError, close
from prompt_tuning_files import formats, prompt_files, readable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a model of any installed form")
    parser.add_argument(
        "variable", metavar="VARIABLE", nargs="?", help="its name, such as token_embedder/embedding"
    )
    parser.add_argument("out", metavar="OUT.npy", nargs="?", help="the file to write")
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32", "float64"),
        default="float32",
        help="default: float32",
    )
    parser.epilog = (
        "Example: prompt-tuning extract-variable t5_small token_embedder/embedding table.npy"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the variables, or writes one."""
    model = formats.open_model(arguments.checkpoint)
    if arguments.variable is None:
        _print_variables(model.variables)
        return 0
    # As in the reference's script: a leading "/" or "target/" is optional.
    name = arguments.variable.strip("/").removeprefix("target/")
    if name not in model.variables:
        known = model.variables
        raise InputError(
            f"model {arguments.checkpoint}: has no variable {name!r}"
            + (close(name, known) or f"; without a variable, the command lists all {len(known)}")
        )
    if arguments.out is None:
        _print_variables({name: model.variables[name]})
        return 0
    out = Path(arguments.out)
    if out.suffix != ".npy" or out.is_dir():
        raise InputError(f"{out}: expected the name of a file that ends in .npy")
    array = readable.cast(model.read(name), arguments.dtype, f"variable {name}")
    existed = os.path.lexists(out)
    try:
        with prompt_files.atomic_write(out) as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    print(f"{'replaced' if existed else 'wrote'} {out}: {name}, {arguments.dtype} {array.shape}")
    return 0


def _print_variables(variables: Mapping[str, formats.Variable]) -> None:
    table = [("VARIABLE", "SHAPE", "DTYPE")]
    table += [(name, str(variable.shape), variable.dtype) for name, variable in variables.items()]
    print("\n".join(aligned(table)))
