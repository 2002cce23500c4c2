"""Registers the task of a run with seqio, so that T5X can read it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_tasks import seqio_registration
from prompt_tuning_tasks.feature_lengths import FeatureLengths, LengthCheck

if TYPE_CHECKING:
    import seqio


def for_seqio(
    name: str,
    vocabulary: seqio.Vocabulary,
    module: str | None = None,
    bucketing: bool = False,
    pack: bool = False,
    task_feature_lengths: Mapping[str, int] | None = None,
    strict_lengths: bool = False,
    splits: Sequence[str] = (),
) -> str:
    """Registers a text task with seqio, and returns its name.

    A text task, described in gin or registered by a module, becomes a task of seqio with the same
    name. Ids, targets and metrics are the same as in the embedded engine. A task that seqio already
    has stays unchanged.

    Args:
      name: MIXTURE_OR_TASK_NAME.
      vocabulary: The vocabulary of inputs and targets, for a text task.
      module: A tasks plugin or a module, imported first (MIXTURE_OR_TASK_MODULE).
      bucketing: Must be False: T5X pads each batch to TASK_FEATURE_LENGTHS (BUCKETING).
      pack: Must be False: prompt tuning does not support packed examples (PACK).
      task_feature_lengths: The largest numbers of ids in a text task's "inputs" and "targets".
        seqio cuts longer texts without a message, so this function warns and gives their number
        (TASK_FEATURE_LENGTHS). None if nothing is cut.
      strict_lengths: True makes a longer text an error (STRICT_LENGTHS).
      splits: The splits in use.

    Raises:
      InputError: If there is no such task, the module fails to import, a text is too long with
        `strict_lengths`, or T5X or prompt tuning does not support a setting.
    """
    _refuse_other_batches(bucketing, pack)
    if module:
        tasks.import_module(module)
    if name in tasks.names():
        task = tasks.get(name)
        if task_feature_lengths is not None:
            lengths = FeatureLengths.of(task_feature_lengths)
            _say_what_is_cut(task, splits, vocabulary, lengths, strict_lengths)
        return str(seqio_registration.register(task, vocabulary).name)
    if strict_lengths:
        raise InputError(
            f"STRICT_LENGTHS is True, and {name!r} is no text task; leave it False, or use "
            "--engine local"
        )
    _check_is_known(name)
    return name


def _refuse_other_batches(bucketing: bool, pack: bool) -> None:
    """Refuses settings of batches that T5X or prompt tuning does not support."""
    if bucketing:
        raise InputError(
            "BUCKETING is True, and T5X pads every batch to TASK_FEATURE_LENGTHS; leave it False, "
            "or use --engine local"
        )
    if pack:
        raise InputError("PACK is True, and prompt tuning does not support packed examples")


def _check_is_known(name: str) -> None:
    """Refuses a name that no text task and no task or mixture of seqio has."""
    import seqio

    known = [*tasks.names(), *seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in known:
        raise InputError(
            f"unknown task {name!r}{nearest(name, known)} (neither a text task nor one of seqio's "
            "has that name)"
        )


def for_inference(
    vocabulary: seqio.Vocabulary,
    name: str | None = None,
    module: str | None = None,
    bucketing: bool = False,
    input_file: str | os.PathLike[str] | None = None,
    split: str = "test",
    task_feature_lengths: Mapping[str, int] | None = None,
    strict_lengths: bool = False,
) -> str:
    """Registers the texts to answer as a task of seqio, and returns its name.

    Args:
      vocabulary: The vocabulary of inputs and targets.
      name: The task whose inputs to answer. With `input_file`: the task whose input template the
        texts fill, or None to use the texts unchanged (MIXTURE_OR_TASK_NAME).
      module: See `for_seqio`.
      bucketing: See `for_seqio`.
      input_file: The file of texts, in a form that `prompt_tuning_tasks.read_inputs` reads
        (INFER_INPUT_FILE). None to answer a split of the task `name`.
      split: The split that gets the texts of the file.
      task_feature_lengths: See `for_seqio`.
      strict_lengths: See `for_seqio`.

    Raises:
      InputError: In the cases of `for_seqio`. Also if neither a file nor a task is given, if the
        file cannot be read, or if the task has no input template.
    """
    if input_file is None:
        if name is None:
            raise InputError(
                "neither INFER_INPUT_FILE nor MIXTURE_OR_TASK_NAME is set; set one of them"
            )
        return for_seqio(
            name, vocabulary, module, bucketing,
            task_feature_lengths=task_feature_lengths, strict_lengths=strict_lengths,
            splits=(split,),
        )  # fmt: skip
    if module:
        tasks.import_module(module)
    template = (
        tasks.TextTask("infer", {}) if name is None else tasks.with_a_template(tasks.get(name))
    )
    texts = tasks.read_inputs(os.path.expanduser(input_file), template)
    rows = [{"inputs": text.inputs, "targets": ""} for text in texts]
    # seqio allows word characters, dots and colons in names.
    answered = re.sub(r"[^\w.:]", "_", tasks.stem(input_file))
    tasks.register(tasks.TextTask(answered, {split: lambda: rows}, metrics=()))
    return for_seqio(
        answered, vocabulary, None, bucketing,
        task_feature_lengths=task_feature_lengths, strict_lengths=strict_lengths, splits=(split,),
    )  # fmt: skip


_said: list[tuple[object, ...]] = []


def _say_what_is_cut(
    task: tasks.Task,
    splits: Sequence[str],
    vocabulary: seqio.Vocabulary,
    lengths: FeatureLengths,
    strict: bool,
) -> None:
    """Warns of a text task's texts that are too long, once for each task."""
    asked = (task, splits, vocabulary, lengths, strict)
    if asked in _said:
        return
    _said.append(asked)
    for component, _ in task.components:
        for split in splits:
            check = LengthCheck(lengths, f"task {component.name!r}, split {split!r}", strict)
            for example in component.examples(split):
                # Including EOS, which is appended before seqio cuts.
                inputs, targets = (
                    len(vocabulary.encode(text)) + 1 for text in (example.inputs, example.targets)
                )
                check.see(inputs, targets, example.place)
            check.report()
