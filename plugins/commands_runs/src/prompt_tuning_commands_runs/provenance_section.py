"""The section of provenance: where the prompt comes from, and the settings of the run."""

from __future__ import annotations

from prompt_tuning_commands_inspect.flat_facts import flat
from prompt_tuning_commands_runs.html_elements import Safe, element, folded, table, together
from prompt_tuning_commands_runs.run_records import RunRecord
from prompt_tuning_commands_runs.saved_prompts import SavedPrompt


def provenance(record: RunRecord, prompt: SavedPrompt | None) -> Safe:
    """Returns the facts of the newest prompt; with RECORD_SETTINGS = False, there are fewer.

    Args:
      record: The run.
      prompt: Its newest prompt; None if there is none, or it cannot be read.
    """
    facts = record.facts if prompt is None else prompt.provenance
    rows = [
        [element("th", name, scope="row"), element("td", text, class_="text")]
        for name, text in flat({name: facts[name] for name in facts if name != "config"})
    ]
    source = "run.json" if prompt is None else prompt.path.name
    whole = folded(f"All facts of {source}", table(["fact", "value"], rows))
    config = facts.get("config")
    settings = folded("The gin config", element("pre", config)) if isinstance(config, str) else ""
    return together(whole, settings)
