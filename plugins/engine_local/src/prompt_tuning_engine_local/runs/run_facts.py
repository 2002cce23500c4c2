"""The provenance of a prompt: its origin, and the settings with which to make it again."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from prompt_tuning_engine_local.model.model_files import FrozenModel
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_files import module_files, provenance
from prompt_tuning_tasks.feature_lengths import FeatureLengths


def describe_run(
    model: EncoderDecoderModel,
    frozen: FrozenModel,
    task: str,
    module: str | None,
    lengths: FeatureLengths,
    seed: int,
    examples_sha256: str,
    settings: str | None = None,
) -> dict[str, Any]:
    """Returns the facts that hold for every prompt of a run, JSON-serialisable.

    See `prompt_tuning_files.provenance.facts` for `settings`, and for the right time for a call.
    """
    seqio = ("seqio", "tensorflow") if "seqio" in sys.modules else ()
    return {
        "model": {
            "path": frozen.path,
            "sha256": frozen.sha256,
            "step": frozen.step,
            **dataclasses.asdict(model.config),
        },
        "vocabulary": {
            "path": str(model.vocabulary.sentencepiece_model_file),
            "sha256": model.vocabulary.sha256,
            "size": model.vocabulary.vocab_size,
        },
        "task": {
            "name": task,
            "module": module,
            "feature_lengths": dataclasses.asdict(lengths),
            "training_examples_sha256": examples_sha256,
        },
        "prompt_module": module_files.describe(model.module),
        "seed": seed,
        **provenance.facts(("prompt-tuning-engine-local", *seqio), settings),
    }
