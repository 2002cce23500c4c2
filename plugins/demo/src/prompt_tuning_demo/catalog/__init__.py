"""A catalog of the prompts trained for the demo's model; files are `MODEL/TASK.npy` here."""

from __future__ import annotations

from pathlib import Path

from prompt_tuning_files.names import Known, prompts_in


def models() -> tuple[Known, ...]:
    """Lists no models: the demo's gin files name its own."""
    return ()


def prompts() -> tuple[Known, ...]:
    """Lists the prompts."""
    return prompts_in(Path(__file__).parent)
