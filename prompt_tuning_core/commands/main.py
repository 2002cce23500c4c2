"""The command `prompt-tuning`: finds the named command among the plugins, and runs it.

Every command, and `list-plugins` most of all, must start quickly and work with any set of plugins.
So the names of the commands come from the entry points, and only the named command is imported.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from prompt_tuning_core import __version__, registry
from prompt_tuning_core.commands.text_tables import aligned, printable
from prompt_tuning_core.errors import InputError, nearest

PROGRAM = "prompt-tuning"

_FILTERS = {"--allow-plugin": "use only", "--block-plugin": "don't use"}


class _Parser(argparse.ArgumentParser):
    """A parser that gives errors of one line and accepts no abbreviated flags."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: The arguments. If None, the arguments of this process.

    Returns:
      The exit code. It is 2 for bad input, with one line on standard error, 130 if interrupted, and
      1 if the reader of the output has closed the pipe. Else the command gives it. For example,
      `list-plugins --check` gives 1 if a plugin cannot be used.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _run(argv)
        sys.stdout.flush()  # Here, where a closed pipe is caught.
        return code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, closed the pipe: keep Python from flushing into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, SystemExit) as error:  # gin and plugins raise errors of any type.
        from prompt_tuning_core.commands import failures  # Late: only errors need it.

        line = failures.described(error)
        if line is None or "--traceback" in argv or os.environ.get("PROMPT_TUNING_TRACEBACK"):
            raise
    print(f"{PROGRAM}: error: {printable(' '.join(line.split()))}", file=sys.stderr)
    return 2


def _run(argv: list[str]) -> int:
    filters = _filters_parser().parse_known_args(argv)[0]
    installed = registry.configure(filters.allow_plugin, filters.block_plugin)
    claims = [plugin for plugin in installed.discover() if plugin.kind == "command"]
    commands = {plugin.name: plugin for plugin in claims if plugin.status == "ok"}
    if not argv or argv[0] in ("-h", "--help"):
        _print_help(commands)
        return 0
    if argv[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    name, rest = _named(argv, [plugin.name for plugin in claims])
    if name is None:
        _print_group_help(argv[0], commands)
        return 0
    command = installed.load("command", name)
    parser = _Parser(
        prog=f"{PROGRAM} {name.replace('.', ' ')}",
        description=_summary(command),
        parents=[_filters_parser()],
    )
    command.add_arguments(parser)
    warnings.formatwarning = _one_line
    return int(command.run(_parse(parser, rest, getattr(command, "takes_unknown_flags", False))))


def _filters_parser() -> _Parser:
    parser = _Parser(add_help=False)
    for flag, verb in _FILTERS.items():
        parser.add_argument(
            flag,
            action="append",
            default=[],
            metavar="NAME",
            help=f"{verb} this: a plugin, a distribution, or distribution:plugin (repeatable; "
            f"also PROMPT_TUNING_{flag[2:].split('-')[0].upper()}_PLUGINS)",
        )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def _named(argv: Sequence[str], known: Sequence[str]) -> tuple[str | None, list[str]]:
    """Splits arguments into a command's name and the rest; the name is None for a group's help.

    Args:
      argv: The arguments.
      known: The names of the commands, including those that fail when they are loaded.

    Raises:
      InputError: If there is no such command.
    """
    name, *rest = argv
    if name not in known and any(command.startswith(f"{name}.") for command in known):
        if not rest or rest[0] in ("-h", "--help"):
            return None, []
        name, *rest = f"{name}.{rest[0]}", *rest[1:]
    if name not in known:
        words = name.replace(".", " ")
        hint = nearest(words, [command.replace(".", " ") for command in known])
        raise InputError(f"unknown command {words!r}{hint}")
    return name, rest


def _parse(parser: _Parser, argv: Sequence[str], takes_unknown_flags: bool) -> argparse.Namespace:
    """Parses a command's arguments; puts unknown flags into `unknown` if the command takes them."""
    # Kept from argparse, which takes a flag with a blank in it for a positional argument.
    bindings = [argument for argument in argv if argument.startswith("--gin.")]
    arguments, unknown = parser.parse_known_args([a for a in argv if a not in bindings])
    unknown += bindings
    if unknown and not takes_unknown_flags:
        parser.error(f"unknown argument {unknown[0]!r}")
    arguments.unknown = unknown
    return arguments


_python_format = warnings.formatwarning


def _one_line(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """Formats a warning for the user, without the file and line that Python adds."""
    if category is UserWarning:
        return f"{PROGRAM}: warning: {message}\n"
    return _python_format(message, category, *where, **line)


def _summary(command: object) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _print_help(commands: Mapping[str, registry.Plugin]) -> None:
    """Prints a line for each command of the core, then the other commands by distribution.

    It imports no plugin.
    """
    own = {name: plugin for name, plugin in commands.items() if plugin.is_core}
    load = functools.partial(registry.process_registry().load, "command")
    lines = aligned([[f"  {name}", _summary(load(name)).rstrip(".")] for name in own])
    groups: dict[str, list[str]] = {}
    for name, plugin in commands.items():
        if name not in own:
            heading = f"{plugin.description} ({plugin.distribution})"
            groups.setdefault(heading, []).append(f"  {name.replace('.', ' ')}")
    print(
        f"usage: {PROGRAM} COMMAND …\n\nPrompt tuning of frozen T5 models, extended by plugins.\n"
    )
    print("\n".join(["commands:", *lines]))
    for heading, names in groups.items():
        print("\n".join(["", f"{heading}:", *names]))
    print(f"\n{PROGRAM} COMMAND --help describes a command; --version prints the version.")


def _print_group_help(group: str, commands: Mapping[str, registry.Plugin]) -> None:
    names = [name.replace(".", " ") for name in commands if name.startswith(f"{group}.")]
    print(f"usage: {PROGRAM} {group} ACTION …\n\nactions:")
    print("\n".join(f"  {name}" for name in names))
