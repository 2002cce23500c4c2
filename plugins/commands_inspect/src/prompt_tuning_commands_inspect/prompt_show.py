"""Show a prompt: shape, norms, provenance, nearest pieces."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning_commands_inspect import nearest_pieces
from prompt_tuning_commands_inspect.flat_facts import flat
from prompt_tuning_core.commands.text_tables import aligned
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import formats, vocabularies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("prompt", metavar="PROMPT", help="a prompt of any installed form")
    parser.add_argument("--model", metavar="CHECKPOINT", help="a model, for its embeddings")
    parser.add_argument(
        "--vocabulary", metavar="FILE", help="the model's vocabulary; default: in its folder"
    )
    parser.add_argument(
        "--nearest", metavar="N", type=int, help="pieces to show for each position; default: 5"
    )
    parser.epilog = "Example: prompt-tuning prompt show out/run --model demo --nearest 3"


def run(arguments: argparse.Namespace) -> int:
    """Prints the facts of the prompt."""
    for flag in ("vocabulary", "nearest"):
        if getattr(arguments, flag) is not None and arguments.model is None:
            raise InputError(f"--{flag} needs --model; see prompt-tuning prompt show -h")
    if arguments.nearest is not None and arguments.nearest < 1:
        raise InputError(f"--nearest is {arguments.nearest}, expected at least 1")
    found = formats.locate_prompt(arguments.prompt)
    prompt: formats.Prompt = found.format.read_prompt(found.path)
    facts = {"prompt": found.path, "form": found.form}
    if prompt.module is not None:
        facts |= _module_facts(prompt.module)
    if prompt.array is not None:
        facts |= _matrix_facts(prompt.array)
    table = _table(prompt, found.path, arguments)
    print("\n".join(aligned(list(facts.items()))))
    provenance = list(flat(prompt.provenance))
    print("\nprovenance:", "" if provenance else "the file has none")
    print("".join(f"  {line}\n" for line in aligned(provenance)) if provenance else "")
    print("\n".join(aligned(table)))
    return 0


def _table(
    prompt: formats.Prompt, path: str, arguments: argparse.Namespace
) -> list[tuple[str, ...]]:
    """Returns a heading and a row for each position of a plain prompt; [] for another prompt."""
    if prompt.array is None and arguments.model is None:
        return []
    array = prompt.matrix(path)  # Only vectors of the input can be near to pieces.
    norms = np.linalg.norm(array, axis=1)
    rows = [(str(position), f"{norm:.4g}") for position, norm in enumerate(norms)]
    if arguments.model is None:
        return [("POSITION", "NORM"), *rows]
    pieces = _nearest(array, prompt.provenance, arguments)
    return [
        ("POSITION", "NORM", "NEAREST PIECES, BY COSINE"),
        *((*row, near) for row, near in zip(rows, pieces, strict=True)),
    ]


def _module_facts(module: formats.SavedModule) -> dict[str, str]:
    return {
        "prompt module": f"{module.plugin} of {module.distribution} {module.version}",
        **{f"  {name}": json.dumps(value) for name, value in module.fields.items()},
        **{f"  {name}": f"float32 {array.shape}" for name, array in module.parameters.items()},
    }


def _matrix_facts(array: np.ndarray) -> dict[str, str]:
    norms = np.linalg.norm(array, axis=1)
    return {
        "shape": str(array.shape),
        "norm": f"{np.linalg.norm(array):.4g}",
        "norm of a position": f"{norms.mean():.4g} on average, {norms.min():.4g} to "
        f"{norms.max():.4g}",
    }


def _nearest(
    array: np.ndarray, provenance: Mapping[str, Any], arguments: argparse.Namespace
) -> list[str]:
    """Returns a cell for each position: the pieces nearest to it, with their cosines."""
    if not np.isfinite(array).all():
        raise InputError("the prompt has values that aren't finite: no pieces are near to it")
    known = provenance.get("vocabulary")
    pieces = nearest_pieces.read_pieces(
        vocabularies.SentencePieceVocabulary(
            vocabularies.locate(arguments.vocabulary, arguments.model, "--vocabulary")
        ),
        known if isinstance(known, Mapping) else None,
    )
    ids, cosines = nearest_pieces.nearest_rows(
        formats.open_model(arguments.model), array, arguments.nearest or 5, rows=len(pieces)
    )
    return [
        "  ".join(
            f"{pieces[number]} {cosine:.2f}" for number, cosine in zip(row, near, strict=True)
        )
        for row, near in zip(ids, cosines, strict=True)
    ]
