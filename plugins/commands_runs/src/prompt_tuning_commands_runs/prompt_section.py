"""The section of the prompt: the nearest pieces of each position, and the prompt's geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prompt_tuning_commands_runs import prompt_geometry
from prompt_tuning_commands_runs.frozen_models import NEAREST, FrozenTable, open_table
from prompt_tuning_commands_runs.html_elements import Safe, element, number_cell, table, together
from prompt_tuning_commands_runs.run_records import RunRecord
from prompt_tuning_commands_runs.run_tables import number_text
from prompt_tuning_commands_runs.saved_prompts import SavedPrompt
from prompt_tuning_core.errors import InputError, PluginError


def prompt(record: RunRecord, prompts: Sequence[SavedPrompt], labels: Sequence[str]) -> Safe:
    """Returns the table of positions, and the figure.

    Args:
      record: The run.
      prompts: Its first and its newest prompt; only one if it has one.
      labels: The class labels, whose embeddings the figure shows; none if there are too many.
    """
    if not prompts:
        return element("p", "No prompt is saved in the run's directory.")
    arrays = [one.array for one in prompts if one.array is not None]
    if len(arrays) != len(prompts):
        return element(
            "p", f"The prompt module {record.variant} has no equivalent plain prompt [P, H]; only "
            "a plain prompt has nearest pieces and a geometry.",
        )  # fmt: skip
    notes = []
    if len(prompts) == 1:
        notes.append(f"Only the prompt of step {prompts[0].step} is saved.")
    frozen: FrozenTable | None = None
    try:
        frozen = open_table(record.facts)
        pieces = frozen.nearest(arrays[-1])
    except (InputError, PluginError) as error:
        pieces = [[] for _ in arrays[-1]]
        frozen = None
        notes.append(f"Nearest pieces and labels are not shown: {error}.")
    vectors = {} if frozen is None else {label: frozen.embedding(label) for label in labels}
    return together(
        [element("p", note) for note in notes],
        prompt_geometry.figures([one.step for one in prompts], arrays, vectors),
        _positions(prompts, arrays, pieces),
    )


def _positions(
    prompts: Sequence[SavedPrompt],
    arrays: Sequence[np.ndarray],
    pieces: Sequence[Sequence[tuple[str, float]]],
) -> Safe:
    columns = ["position", *(f"norm, step {one.step}" for one in prompts)]
    columns += ["distance"] if len(arrays) > 1 else []
    columns += [f"{NEAREST} nearest pieces, with their cosines"] if any(pieces) else []
    rows = []
    for position, near in enumerate(pieces):
        vectors = [array[position] for array in arrays]
        lengths = [float(np.linalg.norm(vector)) for vector in vectors]
        if len(vectors) > 1:
            lengths.append(float(np.linalg.norm(vectors[1] - vectors[0])))
        row = [element("th", str(position), scope="row")]
        row += [number_cell(length, number_text(length)) for length in lengths]
        if near:
            row.append(element("td", together(*map(_piece, near)), class_="pieces"))
        rows.append(row)
    return table(columns, rows, f"The positions of {prompts[-1].path.name}")


def _piece(near: tuple[str, float]) -> Safe:
    piece, cosine = near
    return element("span", element("code", piece), f" {cosine:.2f}")
