"""Check that an installed plugin keeps its contract."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_testing.checks import CheckResults
from prompt_tuning_testing.initializers import Shape, check_initializer
from prompt_tuning_testing.prompt_modules import check_prompt
from prompt_tuning_testing.sample_values import arguments_of

takes_unknown_flags = True  # --gin.NAME.PARAMETER=VALUE

_QUICK = 2
_DEFAULTS = {"initializer": 20, "prompt": 4}  # Examples, by kind.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        "name", metavar="NAME", help="an initializer or a prompt module, as gin files name it"
    )
    parser.add_argument(
        "--examples", type=int, metavar="N", help="examples of each check (default: 20, prompts 4)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="determines the examples (default: 0)"
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="PxH",
        help="of an initializer: a shape that it must serve, such as 20x512; without one, many are "
        "tried (repeatable)",
    )
    parser.add_argument(
        "--first-token",
        action="append",
        default=[],
        type=int,
        metavar="ID",
        help="of a prompt module: an id that examples may begin with, if not any (repeatable)",
    )
    parser.add_argument("--quick", action="store_true", help=f"as --examples={_QUICK}")
    parser.add_argument("--json", action="store_true", help="print a JSON array of the results")
    parser.epilog = (
        "--gin.NAME.PARAMETER=VALUE gives the plugin an argument. Example: prompt-tuning check "
        "init_random --gin.init_random.scale=0.1"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table of the checks; returns 1 if one failed."""
    name = arguments.name.removeprefix("plugins.")
    installed = registry.process_registry()
    plugin = installed.find_in_gin(name)
    if plugin.kind not in _DEFAULTS:
        kinds = " and ".join(_DEFAULTS)
        raise InputError(f"{plugin} cannot be checked: there are checks of {kinds} plugins only")
    factory = installed.load(plugin.kind, name)
    given = _given(name, arguments.unknown)
    examples = arguments.examples
    if examples is None:
        examples = _QUICK if arguments.quick else _DEFAULTS[plugin.kind]
    if examples < 1:
        raise InputError(f"--examples is {examples}, expected a number of at least 1")
    shapes, first = [_shape(text) for text in arguments.shape], arguments.first_token
    if (shapes and plugin.kind == "prompt") or (first and plugin.kind == "initializer"):
        flag = "--shape" if shapes else "--first-token"
        raise InputError(f"{flag} is not for a plugin of the kind {plugin.kind}")
    options = {"max_examples": examples, "seed": arguments.seed}
    if plugin.kind == "prompt":
        found = check_prompt(factory, given, first_tokens=first, **options)
    else:
        try:
            values = arguments_of(factory, given)
        except InputError as error:
            raise InputError(f"{plugin}: {error} (--gin.{name}.PARAMETER=VALUE)") from error
        found = check_initializer(factory, values, shapes=shapes or None, **options)
    command = f"prompt-tuning check {name} --examples={examples} --seed={arguments.seed}"
    flags = [f"--shape={text}" for text in arguments.shape]
    flags += [f"--first-token={token}" for token in first]
    results = CheckResults(str(plugin), found, " ".join([command, *flags, *arguments.unknown]))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
    else:
        print(results)
    return int(bool(results.failed))


def _given(name: str, flags: Sequence[str]) -> Mapping[str, Any]:
    """Returns the values of `--gin.NAME.PARAMETER=VALUE` by parameter."""
    given = {}
    for flag in flags:
        match = re.fullmatch(
            rf"--gin\.(?:plugins\.)?{re.escape(name)}\.(\w+)=(.*)", flag, re.DOTALL
        )
        if match is None:
            raise InputError(f"unknown flag {flag!r}; it takes --gin.{name}.PARAMETER=VALUE")
        try:
            given[match[1]] = ast.literal_eval(match[2].strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise InputError(
                f"{flag}: {match[2]} is no value; write a number, a list, or text in quotes"
            ) from error
    return given


def _shape(text: str) -> Shape:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise InputError(f"--shape is {text!r}, expected two sizes such as 20x512")
    return int(match[1]), int(match[2])
