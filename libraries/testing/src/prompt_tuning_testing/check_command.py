"""Check that installed plugins keep their contracts."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.kinds import KINDS
from prompt_tuning_core.registry import Plugin
from prompt_tuning_testing import checks
from prompt_tuning_testing.checks import CheckResult, CheckResults
from prompt_tuning_testing.contracts import contract_of

takes_unknown_flags = True  # --gin.NAME.PARAMETER=VALUE

_QUICK = 2
# Flags for plugins of one kind only: the kind, and the option of its subject.
_OPTIONS = {"shape": ("initializer", "shapes"), "first_token": ("prompt", "first_tokens")}
_BY_GIN = ("initializer", "prompt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        "name", metavar="NAME", help="a plugin, or a distribution for all plugins that it carries"
    )
    parser.add_argument("--kind", choices=KINDS, help="check only plugins of this kind")
    parser.add_argument(
        "--examples", type=int, metavar="N", help="examples for each check (default: by kind)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="determines the examples (default: 0)"
    )
    parser.add_argument(
        "--shape",
        action="append",
        type=_shape,
        metavar="PxH",
        help="for an initializer: a shape that it must serve, such as 20x512 (repeatable; "
        "default: many shapes)",
    )
    parser.add_argument(
        "--first-token",
        action="append",
        type=int,
        metavar="ID",
        help="for a prompt module: an id that examples may begin with (repeatable; default: any)",
    )
    parser.add_argument("--quick", action="store_true", help=f"as --examples={_QUICK}")
    parser.add_argument("--json", action="store_true", help="print a JSON array of the results")
    parser.epilog = (
        "--gin.NAME.PARAMETER=VALUE gives an initializer or a prompt module an argument. An engine "
        "gets all other flags for its runs. The exit code is 1 if a check fails. Example: "
        "prompt-tuning check init_random --gin.init_random.scale=0.1"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table of the checks of each plugin; returns 1 if one failed."""
    if arguments.examples is not None and arguments.examples < 1:
        raise InputError(f"--examples is {arguments.examples}, expected a number of at least 1")
    plugins = _named(arguments.name.removeprefix("plugins."), arguments.kind)
    # The output of plugins is not part of the results.
    with contextlib.redirect_stdout(sys.stderr):
        results = [_checked(plugin, arguments) for plugin in plugins]
    if arguments.json:
        rows = [
            {"kind": plugin.kind, "plugin": plugin.name, **dataclasses.asdict(result)}
            for plugin, found in zip(plugins, results, strict=True)
            for result in found
        ]
        print(json.dumps(rows, indent=2))
    else:
        print("\n\n".join(map(str, results)))
    return int(any(found.failed for found in results))


def _named(name: str, kind: str | None) -> list[Plugin]:
    """Returns the plugins of this name or distribution; refuses a blocked one."""
    found = registry.process_registry().named(name, kind)
    for plugin in found:
        if not plugin.kind:  # Of a distribution whose entry points cannot be read.
            raise InputError(f"{plugin.distribution} {plugin.version}: {plugin.detail}")
        if plugin.status == "blocked":
            raise InputError(f"{plugin} may not be used: {plugin.detail}")
    return found


def _checked(plugin: Plugin, arguments: argparse.Namespace) -> CheckResults:
    """Returns the results of one plugin."""
    installed = registry.process_registry()
    usable = installed.check(plugin)
    if usable.status != "ok":
        return Unusable(usable)
    contract = contract_of(plugin.kind)
    examples = arguments.examples or (_QUICK if arguments.quick else contract.examples)
    if sys.stderr.isatty():
        hint = "" if arguments.quick else " --quick tries fewer."
        print(f"checking {plugin} with up to {examples} examples a check.{hint}", file=sys.stderr)
    try:
        subject = contract.subject(
            installed.load_found(plugin),
            _given(plugin, arguments.unknown),
            max_examples=examples,
            seed=arguments.seed,
            **_options(plugin, arguments),
        )
    except InputError as error:
        raise InputError(f"{plugin}: {error}") from error
    results = checks.run_all(contract.checks, subject, seed=arguments.seed, max_examples=examples)
    flags = [f"--kind={plugin.kind}", f"--examples={examples}", f"--seed={arguments.seed}"]
    flags += [f"--shape={p}x{h}" for p, h in arguments.shape or ()]
    flags += [f"--first-token={token}" for token in arguments.first_token or ()]
    again = " ".join(["prompt-tuning check", plugin.name, *flags, *arguments.unknown])
    return CheckResults(str(plugin), results, again)


class Unusable(CheckResults):
    """The one result of a plugin that cannot be loaded."""

    def __init__(self, plugin: Plugin) -> None:
        statement = "it works with this core, can be imported, and no other plugin has its name"
        result = CheckResult("loads", 0, statement, "failed", plugin.detail, 1)
        super().__init__(str(plugin), [result], f"prompt-tuning check {plugin.name}")
        self._status = plugin.status

    def __str__(self) -> str:
        """Returns one line."""
        return f"{self.subject} cannot be checked ({self._status}): {self[0].detail}"


def _options(plugin: Plugin, arguments: argparse.Namespace) -> dict[str, Any]:
    options = {}
    for flag, (kind, option) in _OPTIONS.items():
        value = getattr(arguments, flag)
        if value and kind != plugin.kind:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is not for a plugin of the kind {plugin.kind}")
        if value:
            options[option] = value
    return options


def _given(plugin: Plugin, flags: Sequence[str]) -> Any:
    """Returns the arguments that the flags give to the plugin; None without flags."""
    if plugin.kind == "engine":
        return list(flags) or None
    if flags and plugin.kind not in _BY_GIN:
        raise InputError(f"unknown flag {flags[0]!r}")
    return _bindings(plugin.name, flags) or None


def _bindings(name: str, flags: Sequence[str]) -> Mapping[str, Any]:
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


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"is {text!r}, expected two sizes such as 20x512")
    return int(match[1]), int(match[2])
