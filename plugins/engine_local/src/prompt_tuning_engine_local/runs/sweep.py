r"""Train a prompt for each combination of values, one after another.

For example, three seeds of two initializers are six runs, in folders of MODEL_DIR:

    prompt-tuning sweep --gin_file=runs/demo.gin --gin.MODEL_DIR="'out/sweep'" \
      --vary RANDOM_SEED=0,1,2 \
      --vary gin_file=prompts/from_class_labels.gin,prompts/from_random_uniform.gin

All runs share one frozen model in memory. If the command is stopped, the same command continues
from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prompt_tuning_core import registry
from prompt_tuning_core.commands import run as run_command
from prompt_tuning_core.errors import InputError, PromptTuningError

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import RunFlags

takes_unknown_flags = True  # --gin.NAME=VALUE.

Varied = Sequence[tuple[str, Sequence[str]]]
"""Names of macros, parameters or `gin_file`, each with its values."""

# A comma within quotes or brackets separates no values.
_VALUE = re.compile(
    r"""(?: [^,'"(\[{] | '[^']*' | "[^"]*" | \([^)]*\) | \[[^\]]*\] | \{[^}]*\} )+""", re.VERBOSE
)


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: The name of its folder in MODEL_DIR, such as `RANDOM_SEED=0,from_string`.
      flags: The flags that train it.
    """

    name: str
    flags: RunFlags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train`, and `--vary`."""
    run_command.add_flags(
        parser,
        "prompt-tuning sweep --gin_file=runs/demo.gin --gin.MODEL_DIR=\"'out'\" --vary "
        "RANDOM_SEED=0,1,2",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="values of a macro or a parameter, joined by commas; or gin_file=FILE,FILE "
        "(repeatable: every combination is trained)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains each run, and shows the table of `prompt-tuning runs` if that is installed.

    Returns:
      0, or 1 if a run failed; the other runs are trained even then.

    Raises:
      PromptTuningError: If a run cannot begin with these flags; nothing is written then.
    """
    # Late: `--help` needs no JAX.
    from prompt_tuning_engine_local import refuse_other_flags, set_up_command

    flags = run_command.flags_of(arguments)
    refuse_other_flags(flags)
    varied = [parsed(one) for one in arguments.vary]
    set_up_command()
    directory, runs = planned(flags, varied)
    frozen: dict[tuple[str, str], Any] = {}
    failed = [one.name for one in runs if not _is_trained(one, frozen)]
    sys.stdout.write(f"{len(runs) - len(failed)} of {len(runs)} runs finished in {directory}\n")
    if len(failed) < len(runs) and registry.process_registry().has("command", "runs"):
        from prompt_tuning_core.commands import main

        main.main(["runs", str(directory)])
    return 1 if failed else 0


def parsed(given: str) -> tuple[str, list[str]]:
    """Returns the name and the values of `--vary`.

    Raises:
      InputError: If it has another form, or has a value twice.
    """
    name, separator, values = given.partition("=")
    found = [value.strip() for value in _VALUE.findall(values)]
    if not (name.strip() and separator and found and all(found)):
        raise InputError(
            f"--vary is {given!r}, expected NAME=VALUE,VALUE such as RANDOM_SEED=0,1,2"
        )
    if len(set(found)) < len(found):
        raise InputError(f"--vary {given}: a value is there twice; give each once")
    return name.strip(), found


def planned(flags: RunFlags, varied: Varied) -> tuple[Path, list[Run]]:
    """Returns MODEL_DIR and the runs, after all checks of each run that read no file.

    Args:
      flags: The flags that all runs share.
      varied: The settings that differ.

    Raises:
      PromptTuningError: If the files or the values cannot be used.
    """
    if not varied:
        raise InputError("nothing varies; give --vary NAME=VALUE,VALUE, or use `train`")
    combined = list(_combined(flags, varied))
    directory = Path(_options(combined[0].flags).model_dir).expanduser()
    runs = [one._replace(flags=_in(directory / one.name, one.flags)) for one in combined]
    for one in runs:
        _options(one.flags)
    return directory, runs


def _combined(flags: RunFlags, varied: Varied) -> Iterator[Run]:
    """Yields a run for each combination; all have the same MODEL_DIR."""
    for values in itertools.product(*(values for _, values in varied)):
        files, bindings, parts = [], [], []
        for (name, _), value in zip(varied, values, strict=True):
            if name == "gin_file":
                files.append(value)
                parts.append(Path(value).stem)
            else:
                bindings.append(f"{name} = {value}")
                parts.append(f"{name}={value}")
        # A value may be a path or a list: keep what is safe in the name of a folder.
        name = re.sub(r"[^\w.=,@%+-]+", "_", ",".join(parts))
        yield Run(
            name,
            dataclasses.replace(
                flags,
                gin_files=(*flags.gin_files, *files),
                gin_bindings=(*flags.gin_bindings, *bindings),
            ),
        )


def _in(directory: Path, flags: RunFlags) -> RunFlags:
    binding = f"MODEL_DIR = {str(directory)!r}"
    return dataclasses.replace(flags, gin_bindings=(*flags.gin_bindings, binding))


def _options(flags: RunFlags) -> Any:
    from prompt_tuning_engine_local.runs import from_gin

    return from_gin.configured("train", flags)[0]


def _is_trained(one: Run, frozen: dict[tuple[str, str], Any]) -> bool:
    """Trains one run; returns False if it fails, with a line about it.

    Args:
      one: The run.
      frozen: The frozen models of earlier runs, by path and dtype. This run's model is added.
    """
    from prompt_tuning_engine_local.runs import training
    from prompt_tuning_engine_local.runs.options import Given

    sys.stdout.write(f"== {one.name}\n")
    try:
        options = _options(one.flags)
        model = options.checkpoint_path, options.model.config.dtype
        given = Given(frozen=frozen.get(model))
        frozen[model] = training.train(dataclasses.replace(options, given=given)).frozen
    except PromptTuningError as error:
        sys.stderr.write(f"prompt-tuning: error: {one.name}: {' '.join(str(error).split())}\n")
        return False
    return True
