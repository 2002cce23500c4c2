"""The commands about models: `model show`, `model list`, `extract-variable`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prompt_tuning_core.errors import InputError, close
from prompt_tuning_core.text_tables import aligned
from prompt_tuning_files import formats, model_sizes, prompt_files, released


def show(args: argparse.Namespace) -> None:
    """Prints what a model is: `model show CHECKPOINT`."""
    found = formats.locate_model(args.checkpoint)
    model = found.format.open_model(found.path)
    sizes = model_sizes.derive(model.variables)
    dtypes = list(sizes.dtypes)
    if len(dtypes) > 1:
        dtypes = [f"{dtype} ({count:,} parameters)" for dtype, count in sizes.dtypes.items()]
    vocabulary = f"{_number(sizes.vocabulary_rows)} rows"
    rows = {
        "model": found.path,
        "form": found.form,
        "step": f"{model.step:,}",
        "parameters": f"{sizes.parameters:,} in {len(model.variables)} variables",
        "bytes": f"{sizes.size:,}",
        "dtype": ", ".join(dtypes),
        "width": _number(sizes.width),
        "encoder layers": _number(sizes.encoder_layers),
        "decoder layers": _number(sizes.decoder_layers),
        "heads": f"{_number(sizes.heads)} of width {_number(sizes.head_width)}",
        "MLP width": _number(sizes.mlp_width) + (", gated" if sizes.mlp_gated else ""),
        "vocabulary": vocabulary + (", which also make the logits" if sizes.logits_tied else ""),
    }
    print("\n".join(aligned(list(rows.items()))))


def list_models(args: argparse.Namespace) -> None:
    """Prints the released models: `model list`."""
    del args  # There are none.
    table = [("NAME", "PARAMETERS", "LAYERS", "WIDTH", "HUGGING FACE", "GIN FILE", "PATH")]
    table += [
        (m.name, f"{m.parameters:,}", f"{m.layers} + {m.layers}", f"{m.width}", m.hugging_face,
         m.gin_file, m.path)
        for m in released.models()
    ]  # fmt: skip
    print("\n".join(aligned(table)))
    for vocabulary in dict.fromkeys(model.vocabulary for model in released.models()):
        print(f"\nvocabulary: {vocabulary}, 100 extra ids included")


def extract_variable(args: argparse.Namespace) -> None:
    """Lists a model's variables or saves one: `extract-variable CHECKPOINT VARIABLE OUT.npy`."""
    model = formats.open_model(args.checkpoint)
    if args.variable is None:
        _print_variables(model.variables)
        return
    # As in the reference's script: a leading "/" or "target/" is optional.
    name = args.variable.strip("/").removeprefix("target/")
    if name not in model.variables:
        known = model.variables
        raise InputError(
            f"model {args.checkpoint}: has no variable {name!r}"
            + (close(name, known) or f"; without a variable, the command lists all {len(known)}")
        )
    if args.out is None:
        _print_variables({name: model.variables[name]})
        return
    out = Path(args.out)
    if out.suffix != ".npy" or out.is_dir():
        raise InputError(f"{out}: expected the name of a file that ends in .npy")
    array = _cast(model.read(name), args.dtype, name)
    existed = os.path.lexists(out)
    try:
        with prompt_files.atomic_write(out) as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    print(f"{'replaced' if existed else 'wrote'} {out}: {name}, {args.dtype} {array.shape}")


def _print_variables(variables: Mapping[str, formats.Variable]) -> None:
    table = [("VARIABLE", "SHAPE", "DTYPE")]
    table += [(name, str(variable.shape), variable.dtype) for name, variable in variables.items()]
    print("\n".join(aligned(table)))


def _cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # Told below.
        cast = array.astype(dtype)
    if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        raise InputError(f"variable {name}: has values beyond the range of {dtype}")
    return cast


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
