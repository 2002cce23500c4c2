"""Checks that MODEL_DIR holds the same run before resuming it.

A run may resume with a changed binding if the binding reaches only parameters on which no step
depends. A macro reaches each parameter whose value names it. For example, TRAIN_STEPS reaches the
last step of the run, and in some configs also the learning rate's schedule.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import provenance

# The last step, the reports, the files to keep, and paths. The model, the vocabulary and the
# training examples are compared by their checksums.
_FREE = {
    *(
        f"options.TrainingOptions.{name}"
        for name in (
            "total_steps", "relative_steps", "eval_period", "save_period", "keep_checkpoints",
            "best_metric", "best_is_lowest", "eval_loss", "early_stopping", "eval_split", "hooks",
            "model_dir", "checkpoint_path", "num_devices", "allow_changes", "record_settings",
        )
    ),
    "embeddings.checkpoint_load.checkpoint_path",
    "vocabularies.SentencePieceVocabulary.model_path",
    "vocabularies.SentencePieceVocabulary.sentencepiece_model_file",
    "tasks.TextTask.metrics",
    "tasks.TextTask.splits",
}  # fmt: skip

Change = Mapping[str, str | None]
"""The `name` of a binding, and its values `before` and `after`; None if it is not set."""


def check_same_run(
    directory: Path,
    old: Mapping[str, Any] | None,
    new: dict[str, Any],
    allowed: Sequence[str] = (),
) -> list[Change]:
    """Refuses to resume a run that differs from this one.

    Changes that were allowed earlier are kept in the new facts.

    Args:
      directory: The run's directory.
      old: The facts of the run in the directory (`run_facts.describe_run`); None if there is no
        run.
      new: The facts of this run.
      allowed: Names of bindings that may differ, with or without their scope (ALLOW_CHANGES); the
        name of a configurable allows all of its parameters.

    Returns:
      The differences that `allowed` names.

    Raises:
      InputError: If other facts differ, or `allowed` names no binding of either run.
    """
    if old is None:
        return []
    if "changes" in old:
        new["changes"] = old["changes"]
    before, after = provenance.bindings(old["config"]), provenance.bindings(new["config"])
    _check_known(allowed, {*before, *after})
    bound = _bound(old, before) | _bound(new, after)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    refused = [name for name in changed if name in bound and not _is_named(name, allowed)]
    if refused:
        name = refused[0]
        reached = sorted((_reached(name, before) | _reached(name, after)) - _FREE)
        through = f" (which sets {reached[0]})" if reached and "." not in name else ""
        raise InputError(
            f"MODEL_DIR {directory} holds another run: there {name} is "
            f"{before.get(name, 'not set')}, and here {after.get(name, 'not set')}{through}; give "
            f"another directory, or the same value, or allow it: ALLOW_CHANGES = {refused}"
        )
    found, asked = _checksums(old), _checksums(new)
    for name in {**found, **asked}:
        if found.get(name) != asked.get(name):
            raise InputError(
                f"MODEL_DIR {directory} holds another run: there {name} is "
                f"{found.get(name, 'not set')}, and here {asked.get(name, 'not set')}; give "
                "another directory, or the same value"
            )
    return [
        {"name": name, "before": before.get(name), "after": after.get(name)}
        for name in changed
        if _is_named(name, allowed)
    ]


def _bound(facts: Mapping[str, Any], bindings: Mapping[str, str]) -> set[str]:
    """Returns the names of the bindings on which steps may depend."""
    hooks = {plugin["name"] for plugin in facts["plugins"] if plugin["kind"] == "hooks"}
    return {
        name
        for name in bindings
        if any(
            parameter not in _FREE and parameter.split(".")[-2] not in hooks
            for parameter in _reached(name, bindings)
        )
    }


def _reached(name: str, bindings: Mapping[str, str]) -> set[str]:
    """Returns the parameters that a binding sets, without scopes; a macro sets all that name it.

    The binding of a parameter sets that parameter.
    """
    if "." in name:
        return {name.rpartition("/")[2]}
    found: set[str] = set()
    macros, seen = [name], set()
    while macros:
        macro = macros.pop()
        seen.add(macro)
        for other, value in bindings.items():
            if not re.search(rf"%{re.escape(macro)}\b", value):
                continue
            if "." in other:
                found.add(other.rpartition("/")[2])
            elif other not in seen:
                macros.append(other)
    return found


def _is_named(name: str, allowed: Collection[str]) -> bool:
    """Checks whether a list names a binding or its configurable, with or without the scope."""
    bare = name.rpartition("/")[2]
    return any(n in allowed for one in (name, bare) for n in (one, one.rpartition(".")[0]) if n)


def _check_known(allowed: Collection[str], names: Collection[str]) -> None:
    """Refuses a name that no binding has."""
    for one in allowed:
        if not any(_is_named(name, (one,)) for name in names):
            raise InputError(
                f"ALLOW_CHANGES has {one!r}, and no binding of the run has this name"
                f"{nearest(one, names)}"
            )


def _checksums(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts that no binding shows."""
    plugins = {
        f"the distribution of plugin {plugin['name']}": " ".join(
            (plugin["distribution"], plugin["version"])
        )
        for plugin in facts["plugins"]
        if plugin["kind"] != "hooks"
    }
    return {
        **plugins,
        "the seed": str(facts["seed"]),
        "the checksum of the model": facts["model"]["sha256"],
        "the checksum of the vocabulary": facts["vocabulary"]["sha256"],
        "the checksum of the training examples": facts["task"]["training_examples_sha256"],
    }
