"""A catalog of the demo's model and the prompts trained for it, files `MODEL/TASK.npy` here."""

from __future__ import annotations

from pathlib import Path

from prompt_tuning_demo import model
from prompt_tuning_files.names import Known, prompts_in


def models() -> tuple[Known, ...]:
    """Lists the demo's model, `demo`; its vocabulary is in the same folder."""
    folder = str(Path(model.checkpoint_path()).parent)
    facts = {
        "PARAMETERS": "1,607,040",
        "LAYERS": "2 + 1",
        "WIDTH": "128",
        "HUGGING FACE": "",
        "GIN FILE": "models/demo_prompt.gin",
        "PATH": folder,
    }
    return (Known("demo", lambda: folder, address=folder, facts=facts),)


def prompts() -> tuple[Known, ...]:
    """Lists the prompts."""
    return prompts_in(Path(__file__).parent)
