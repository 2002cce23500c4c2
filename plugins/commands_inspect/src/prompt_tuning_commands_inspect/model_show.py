"""Show the form and the sizes of a model."""

from __future__ import annotations

import argparse

from prompt_tuning_core.commands.text_tables import aligned
from prompt_tuning_files import formats, model_sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a model of any installed form")
    parser.epilog = "Example: prompt-tuning model show demo"


def run(arguments: argparse.Namespace) -> int:
    """Prints the form and the sizes."""
    found = formats.locate_model(arguments.checkpoint)
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
    return 0


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
