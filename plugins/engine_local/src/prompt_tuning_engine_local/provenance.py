"""What is written beside a prompt: where it came from and how to make it again."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import re
import sys
from typing import Any

from prompt_tuning_core import gin_config, registry
from prompt_tuning_engine_local.data import FeatureLengths
from prompt_tuning_engine_local.model_files import FrozenModel
from prompt_tuning_engine_local.models import EncoderDecoderModel

_VERSIONS_OF = ("prompt-tuning-core", "prompt-tuning-engine-local", "jax", "flax", "optax", "numpy")


def describe_run(
    model: EncoderDecoderModel,
    frozen: FrozenModel,
    task: str,
    lengths: FeatureLengths,
    seed: int,
    examples_sha256: str,
) -> dict[str, Any]:
    """Returns the facts that hold for every prompt of a run, JSON-serialisable.

    Call it when the run's gin configurables have been called: the operative config and the list of
    plugins hold those in use.
    """
    config = gin_config.operative_config()
    # Not formats: all that are installed are asked what a file is.
    plugins = [p for p in registry.process_registry().loaded() if p.kind != "format"]
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
            "feature_lengths": dataclasses.asdict(lengths),
            "training_examples_sha256": examples_sha256,
        },
        "initializer": [
            line for plugin in plugins if plugin.kind == "initializer"
            for line in _bindings_of(plugin.name, config)
        ],
        "seed": seed,
        "plugins": [
            {key: getattr(plugin, key) for key in ("kind", "name", "distribution", "version")}
            for plugin in plugins
        ],
        "versions": {name: importlib.metadata.version(name) for name in _in_use()},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config,
    }  # fmt: skip


def _in_use() -> tuple[str, ...]:
    return _VERSIONS_OF + (("seqio", "tensorflow") if "seqio" in sys.modules else ())


def bindings(config: str) -> dict[str, str]:
    """Returns what a config binds: values, each on one line, by name with its scope and module."""
    # A long value goes on in indented lines.
    found = re.findall(r"^(\S+) = (.*(?:\n[ \t].*)*)", config, re.MULTILINE)
    return {name: re.sub(r"\s*\\?\n\s*", " ", value).strip() for name, value in found}


def _bindings_of(name: str, config: str) -> list[str]:
    """Returns the bindings of the configurable `name` in a config, in any scope, a line each."""
    return [
        f"{bound} = {value}"
        for bound, value in bindings(config).items()
        if re.fullmatch(rf"(?:\S+/)?(?:[\w.]+\.)?{name}\.\w+", bound)
    ]
