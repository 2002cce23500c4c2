"""The commands about prompts: `prompt show`, `prompt convert`, `prompt list`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping

import numpy as np

from prompt_tuning_commands_inspect import nearest_pieces
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.text_tables import aligned
from prompt_tuning_files import bundled_prompts, formats, released, vocabularies

_LINE = 80  # Longer lists are broken.


def convert(args: argparse.Namespace) -> None:
    """Writes a prompt in another form: `prompt convert IN OUT`."""
    prompt = formats.read_prompt(args.input)
    provenance = prompt.provenance
    if args.hugging_face is not None:
        model = provenance.get("model")
        known = model if isinstance(model, Mapping) else {}
        provenance = {**provenance, "model": {**known, "hugging_face": args.hugging_face}}
    existed = os.path.lexists(args.out)
    formats.write_prompt(args.out, prompt.array, provenance)
    print(f"{'replaced' if existed else 'wrote'} {args.out}: float32 {prompt.array.shape}")


def show(args: argparse.Namespace) -> None:
    """Prints what a prompt is: `prompt show PROMPT`."""
    for flag in ("vocabulary", "nearest"):
        if getattr(args, flag) is not None and args.model is None:
            raise InputError(f"--{flag} needs --model; see prompt-tuning prompt show -h")
    if args.nearest is not None and args.nearest < 1:
        raise InputError(f"--nearest is {args.nearest}, expected at least 1")
    found = formats.locate_prompt(args.prompt)
    prompt = found.format.read_prompt(found.path)
    positions = _positions(prompt.array)
    if args.model is not None:
        pieces = _nearest(prompt, args.model, args.vocabulary, args.nearest or 5)
        positions = [(*row, near) for row, near in zip(positions, pieces, strict=True)]
    norms = np.linalg.norm(prompt.array, axis=1)
    facts = {
        "prompt": found.path,
        "form": found.form,
        "shape": str(prompt.array.shape),
        "norm": f"{np.linalg.norm(prompt.array):.4g}",
        "norm of a position": f"{norms.mean():.4g} on average, {norms.min():.4g} to "
        f"{norms.max():.4g}",
    }
    print("\n".join(aligned(list(facts.items()))))
    provenance = list(_flat(prompt.provenance))
    print("\nprovenance:", "" if provenance else "the file has none")
    print("".join(f"  {line}\n" for line in aligned(provenance)) if provenance else "")
    heading = ("POSITION", "NORM", *(["NEAREST PIECES, BY COSINE"] if args.model else []))
    print("\n".join(aligned([heading, *positions])))


def list_prompts(args: argparse.Namespace) -> None:
    """Prints the prompts that are known by name: `prompt list`."""
    del args  # There are none.
    table = [("NAME", "FROM", "FILE")]
    table += [(p.name, p.distribution, str(p.path)) for p in bundled_prompts.installed()]
    for prompt in released.prompts():
        state = "" if prompt.path.is_file() else " (not on this machine)"
        table.append((prompt.name, prompt.repository, f"{prompt.path}{state}"))
    print("\n".join(aligned(table)))


def _positions(array: np.ndarray) -> list[tuple[str, ...]]:
    norms = np.linalg.norm(array, axis=1)
    return [(str(position), f"{norm:.4g}") for position, norm in enumerate(norms)]


def _nearest(prompt: formats.Prompt, model: str, vocabulary: str | None, count: int) -> list[str]:
    """Returns a cell for each position: the pieces nearest to it, with their cosines."""
    if not np.isfinite(prompt.array).all():
        raise InputError("the prompt has values that aren't finite: no pieces are near to it")
    known = prompt.provenance.get("vocabulary")
    pieces = nearest_pieces.read_pieces(
        vocabularies.SentencePieceVocabulary(
            vocabularies.locate(vocabulary, model, "--vocabulary")
        ),
        known if isinstance(known, Mapping) else None,
    )
    ids, cosines = nearest_pieces.nearest_rows(
        formats.open_model(model), prompt.array, count, rows=len(pieces)
    )
    return [
        "  ".join(
            f"{pieces[number]} {cosine:.2f}" for number, cosine in zip(row, near, strict=True)
        )
        for row, near in zip(ids, cosines, strict=True)
    ]


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields nested facts by dotted names, each short enough for a line."""
    for key, value in facts.items():
        name = prefix + key
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and len(text) > _LINE:
            yield from _flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif len(text.splitlines()) > 1:
            yield name, f"{len(text.splitlines())} lines"
        else:
            yield name, text
