"""Finds the prompt that PROMPT_FILE names, and the settings that its provenance records."""

from __future__ import annotations

import ast
import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PromptTuningError
from prompt_tuning_core.gin_config import FilledMacros, Macros
from prompt_tuning_files import formats, names, prompt_files, provenance


@dataclasses.dataclass(frozen=True)
class TrainedPrompt:
    """A prompt that was trained before.

    Attributes:
      given: The value of PROMPT_FILE.
      path: Its file or directory; for the directory of a run, the prompt that is used.
      length: P, the number of its vectors; 0 if the file does not record it.
      provenance: The content of its provenance file; empty if there is none.
    """

    given: str
    path: str
    length: int
    provenance: Mapping[str, Any]

    @property
    def step(self) -> int | None:
        """The step at which it was saved, from its provenance or name; None if neither has it."""
        step = self.provenance.get("step")
        return step if isinstance(step, int) else prompt_files.step_of(self.path)

    @property
    def choice(self) -> str:
        """A line that names the prompt in use."""
        path, name = self.path, os.path.basename(self.path)
        if "://" in self.given:  # The path of the local copy means nothing to the user.
            inside = "" if self.given.endswith(name) else f"/{name}"
            path = self.given.rstrip("/") + inside
        step = "" if self.step is None else f", step {self.step}"
        best = ", the best of its run" if prompt_files.is_best(name) else ""
        return f"prompt: {path}{step}{best}"


def find(path: str | os.PathLike[str]) -> TrainedPrompt | None:
    """Finds the prompt that PROMPT_FILE means.

    Args:
      path: A prompt of any installed form, or the directory of a run; see `formats.locate_prompt`.

    Returns:
      The prompt; None for a `.npz` archive, which may hold several arrays.

    Raises:
      InputError: If there is none, or it cannot be read.
    """
    if prompt_files.is_archive(path):
        return None
    located = formats.locate_prompt(path)
    prompt = located.format.read_prompt(located.path)
    return TrainedPrompt(os.fspath(path), located.path, prompt.length, prompt.provenance)


def announce(macros: Macros) -> FilledMacros:
    """Notes which prompt PROMPT_FILE means; for `gin_config.parse` in training."""
    return FilledMacros(notes=[prompt.choice for prompt in _named(macros)])


def fill(macros: Macros) -> FilledMacros:
    """Fills missing macros from the prompts in use; for `eval` and `infer`.

    The prompts in use are the one in PROMPT_FILE, or all in PROMPT_FILES. From several prompts,
    this takes the longest TASK_FEATURE_LENGTHS, and other macros only if all prompts agree on them.
    PROMPT_FILE is then the first prompt.

    Raises:
      InputError: As in `macros_of`, and if PROMPT_FILE and PROMPT_FILES are both given.
    """
    prompts = _named(macros)
    if not prompts:
        return FilledMacros()
    found = _common([macros_of(prompt, macros.given, macros.known) for prompt in prompts])
    if not isinstance(macros.known.get("PROMPT_FILE"), str):
        found["PROMPT_FILE"] = prompts[0].given
        if prompts[0].length:
            found["PROMPT_LENGTH"] = prompts[0].length
    values = {name: value for name, value in found.items() if name in macros.used}
    whose = "this prompt" if len(prompts) == 1 else "these prompts"
    notes = [f"from {whose}: {name} = {value!r}" for name, value in values.items()]
    origin = f"the provenance of {', '.join(prompt.path for prompt in prompts)}"
    return FilledMacros(values, origin, [*(prompt.choice for prompt in prompts), *notes])


def _named(macros: Macros) -> list[TrainedPrompt]:
    """Finds the prompts of PROMPT_FILE and PROMPT_FILES, if a value refers to these macros."""
    one, several = (macros.known.get(name) for name in ("PROMPT_FILE", "PROMPT_FILES"))
    paths: list[Any] = [one] if "PROMPT_FILE" in macros.used else []
    if isinstance(several, Mapping) and "PROMPT_FILES" in macros.used:
        if one is not None:
            raise InputError(
                f"PROMPT_FILE is {one!r}, and there are PROMPT_FILES, too; leave one of them out"
            )
        paths = list(several.values())
    found = [find(path) for path in paths if isinstance(path, str)]
    return [prompt for prompt in found if prompt is not None]


def _common(macros: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the macros on which all prompts agree, and the longest of their feature lengths."""
    first = macros[0]
    found = {
        name: value
        for name, value in first.items()
        if all(others.get(name) == value for others in macros)
    }
    lengths = [mapping(others.get("TASK_FEATURE_LENGTHS")) for others in macros]
    if all(lengths):
        found["TASK_FEATURE_LENGTHS"] = {
            name: max(one[name] for one in lengths) for name in lengths[0]
        }
    return found


def macros_of(
    prompt: TrainedPrompt, given: Mapping[str, Any], known: Collection[str]
) -> dict[str, Any]:
    """Returns the macros that `eval` and `infer` take from a prompt and its provenance.

    Args:
      prompt: The prompt.
      given: The macros that the user has bound; none of them is returned.
      known: The macros that have any value, for example from a packaged file.

    Returns:
      The values, by name, that the prompt and its provenance have for these macros and `given`
      lacks: PROMPT_LENGTH, TASK_FEATURE_LENGTHS, MIXTURE_OR_TASK_NAME, MIXTURE_OR_TASK_MODULE (if
      it is a plugin), CHECKPOINT_PATH (if it is not `known`, and is on this machine),
      VOCABULARY_FILE and VOCABULARY_EXTRA_IDS.

    Raises:
      InputError: If PROMPT_LENGTH differs, if the vocabulary is missing and no other is known, or
        if the task is in a module that is no plugin and the user has bound neither task nor module.
    """
    found: dict[str, Any] = {"PROMPT_LENGTH": prompt.length} if prompt.length else {}
    length = given.get("PROMPT_LENGTH", prompt.length)
    if isinstance(length, int) and length != prompt.length and prompt.length:
        raise InputError(
            f"PROMPT_LENGTH is {length}, and the prompt {prompt.path} has {prompt.length} "
            "positions; leave PROMPT_LENGTH out, or give another PROMPT_FILE"
        )
    task = mapping(prompt.provenance.get("task"))
    name = task.get("name")
    if name and given.get("MIXTURE_OR_TASK_NAME", name) == name:
        found["MIXTURE_OR_TASK_NAME"] = name
        module = task.get("module")
        if module and registry.process_registry().has("tasks", module):
            found["MIXTURE_OR_TASK_MODULE"] = module
        elif module and not {"MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE"} & set(given):
            # A file may come from anywhere, so its text alone never imports a module.
            raise InputError(
                f"the task {name!r} of the prompt {prompt.path} is in the Python module "
                f"{module!r}, which is no plugin; if you trust it, give "
                f"--gin.MIXTURE_OR_TASK_MODULE=\"'{module}'\", or name another task "
                "(MIXTURE_OR_TASK_NAME, None in infer)"
            )
    if lengths := mapping(task.get("feature_lengths")):
        found["TASK_FEATURE_LENGTHS"] = dict(lengths)
    model = mapping(prompt.provenance.get("model")).get("path")
    if isinstance(model, str) and "CHECKPOINT_PATH" not in known and _is_here(model):
        found["CHECKPOINT_PATH"] = model
    vocabulary = mapping(prompt.provenance.get("vocabulary")).get("path")
    if isinstance(vocabulary, str) and "VOCABULARY_FILE" not in given:
        if "://" in vocabulary or os.path.exists(os.path.expanduser(vocabulary)):
            found["VOCABULARY_FILE"] = vocabulary
            extra_ids = _macro_of(prompt.provenance.get("config"), "VOCABULARY_EXTRA_IDS")
            if extra_ids is not None:
                found["VOCABULARY_EXTRA_IDS"] = extra_ids
        elif "VOCABULARY_FILE" not in known:
            raise InputError(
                f"the vocabulary of the prompt {prompt.path} is {vocabulary} by its provenance, "
                "and there is no such file; set VOCABULARY_FILE"
            )
    return {name: value for name, value in found.items() if name not in given}


def _is_here(model: str) -> bool:
    """Checks that a model's path or name leads to something on this machine.

    An address does not count: only a user's own words open the network.
    """
    try:
        located = names.resolve_model(model)
    except PromptTuningError:
        return False
    return "://" not in located and os.path.exists(os.path.expanduser(located))


def mapping(value: object) -> Mapping[str, Any]:
    """Returns an entry of a provenance if it is a mapping, else an empty mapping."""
    return value if isinstance(value, Mapping) else {}


def _macro_of(config: object, name: str) -> Any:
    """Returns the value of a macro in an operative config; None if this is no plain value."""
    text = provenance.bindings(config).get(name) if isinstance(config, str) else None
    try:
        return None if text is None else ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None  # A reference, which only the files of that run explain.
