"""Tables of the models and prompts that catalogs know by name."""

from __future__ import annotations

from collections.abc import Sequence

from prompt_tuning_core.commands.text_tables import aligned
from prompt_tuning_files.names import Listed


def print_table(listed: Sequence[Listed]) -> None:
    """Prints one line for each entry with facts, and then the notes of all entries."""
    shown = [one for one in listed if one.entry.facts]
    headings = list(dict.fromkeys(heading for one in shown for heading in one.entry.facts))
    table = [["NAME", "FROM", *headings]]
    for one in shown:
        facts = [one.entry.facts.get(heading, "") for heading in headings]
        table.append([one.entry.name, one.distribution, *facts])
    print("\n".join(aligned(table)))
    for note in dict.fromkeys(note for one in shown for note in one.entry.notes):
        print(f"\n{note}")
