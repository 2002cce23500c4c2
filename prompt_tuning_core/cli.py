"""The command `prompt-tuning`.

Imports are late: `list-plugins` must work, and be quick, whatever is installed, so it imports
neither a plugin nor anything that only the other commands use.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from prompt_tuning_core import __version__
from prompt_tuning_core.errors import InputError, PromptTuningError, nearest
from prompt_tuning_core.text_tables import aligned

if TYPE_CHECKING:
    from typing import TextIO

    from prompt_tuning_core.registry import Plugin

PROGRAM = "prompt-tuning"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, and nowhere an abbreviated flag."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(allow_abbrev=False, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: The arguments; those of the process if `None`.

    Returns:
      The exit code: 0; 1 if `list-plugins --check` found a plugin that cannot be used; 2 for bad
      input, with one line on standard error; 130 if interrupted.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # Here, where a reader that has left is no error.
        return code
    except PromptTuningError as error:
        return _fail(_own_line(error))
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has left; keep Python from flushing into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # What is wrong with a config, gin raises as any type.
        line = _explained_by_gin(error)
        if line is None:
            raise
        return _fail(line)


def _fail(line: str) -> int:
    print(f"{PROGRAM}: error: {line}", file=sys.stderr)
    return 2


def _own_line(error: PromptTuningError) -> str:
    # gin appends to an exception that passes through it the calls that it passed through.
    return " ".join(str(error).split("\n  In call to configurable")[0].split())


def _explained_by_gin(error: Exception) -> str | None:
    if "gin" not in sys.modules:
        return None
    from prompt_tuning_core import gin_config

    return gin_config.explain(error)


def _run(argv: list[str]) -> int:
    parser, commands = _parsers()
    _refuse_unknown(argv, commands)
    # Set apart because argparse takes a flag with a blank in it for a positional argument.
    bindings = [argument for argument in argv if argument.startswith("--gin.")]
    args, unknown = parser.parse_known_args([a for a in argv if a not in bindings])
    if args.command is None:
        parser.print_help()
        return 0
    if args.command in ("train", "eval", "infer"):
        return _run_engine(args, bindings, unknown)
    name = f"{args.command} {args.action}" if "action" in args else args.command
    unknown += bindings
    if unknown:
        commands[name].error(f"unknown argument {unknown[0]!r}")
    command: Callable[[argparse.Namespace], int] = {
        "list-plugins": _list_plugins,
        "find-module": _find_module,
        "gin-path": _gin_path,
    }.get(name, functools.partial(_run_on_files, name))
    return command(args)


def _refuse_unknown(argv: Sequence[str], commands: Iterable[str]) -> None:
    words = [argument for argument in argv if not argument.startswith("-")]
    grouped = any(command.startswith(f"{word} ") for word in words[:1] for command in commands)
    name = " ".join(words[: 2 if grouped else 1])
    if name and name not in commands and not (grouped and len(words) == 1):
        raise InputError(f"unknown command {name!r}{nearest(name, commands)}")


def _parsers() -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog=PROGRAM, description="Prompt tuning of frozen T5 models, extended by plugins."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands: dict[str, argparse.ArgumentParser] = {}

    def group(name: str, summary: str) -> Any:
        parser = subparsers.add_parser(name, help=summary, description=summary + ".")
        return parser.add_subparsers(
            dest="action", metavar="ACTION", title="actions", required=True
        )

    def add(name: str, summary: str, among: Any = subparsers) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = among.add_parser(
            name.split()[-1], help=summary, description=summary + "."
        )
        for flag, verb in (
            ("--allow-plugin", "use no plugin but"),
            ("--block-plugin", "don't use"),
        ):
            command.add_argument(
                flag,
                action="append",
                default=[],
                metavar="NAME",
                help=f"{verb} this: a plugin, a distribution, or distribution:plugin (repeatable; "
                f"also PROMPT_TUNING_{flag[2:].split('-')[0].upper()}_PLUGINS)",
            )
        commands[name] = command
        return command

    listing = add("list-plugins", "List the installed plugins, without importing them")
    listing.add_argument("--json", action="store_true", help="as a JSON array of objects")
    listing.add_argument(
        "--check",
        action="store_true",
        help="import each and compare what it requires of the core; exit with 1 if one is "
        "incompatible, broken or in conflict",
    )
    module = add("find-module", "Print the folder of a Python module, for --gin_search_paths")
    module.add_argument("module", help="a dotted name; it is not imported")
    path = add("gin-path", "Print the folder of the packaged gin files, or the path of one")
    path.add_argument("file", nargs="?", help="such as models/sizes/small.gin")
    extract = add("extract-variable", "List the variables of a model, or save one as .npy")
    extract.add_argument("checkpoint", metavar="CHECKPOINT", help="a model of any installed form")
    extract.add_argument(
        "variable", metavar="VARIABLE", nargs="?", help="such as token_embedder/embedding"
    )
    extract.add_argument("out", metavar="OUT.npy", nargs="?", help="the file to write")
    extract.add_argument(
        "--dtype",
        choices=("float16", "float32", "float64"),
        default="float32",
        help="default: float32",
    )
    models = group("model", "Show models")
    shown = add("model show", "Show the form and the sizes of a model", models)
    shown.add_argument("checkpoint", metavar="CHECKPOINT", help="a model of any installed form")
    add("model list", "List the released models, which can be named where a path is", models)
    prompts = group("prompt", "Show and convert prompts")
    shown = add("prompt show", "Show a prompt: shape, norms, provenance, nearest pieces", prompts)
    shown.add_argument("prompt", metavar="PROMPT", help="a prompt of any installed form")
    shown.add_argument("--model", metavar="CHECKPOINT", help="whose embeddings to compare with")
    shown.add_argument(
        "--vocabulary", metavar="FILE", help="the model's vocabulary; default: in its folder"
    )
    shown.add_argument(
        "--nearest", metavar="N", type=int, help="pieces to show for each position; default: 5"
    )
    convert = add("prompt convert", "Write a prompt in the form that OUT's ending names", prompts)
    convert.add_argument("input", metavar="IN", help="a prompt of any installed form")
    convert.add_argument("out", metavar="OUT", help="such as prompt.npy")
    convert.add_argument(
        "--hugging-face",
        metavar="NAME",
        help="the prompt's model at Hugging Face, or its folder; default: as the provenance says",
    )
    add("prompt list", "List the prompts that can be named where a path is", prompts)
    for name, summary in (
        ("train", "Train a prompt"),
        ("eval", "Evaluate a prompt"),
        ("infer", "Predict with a prompt"),
    ):
        engine = add(name, summary)
        engine.add_argument("--engine", default="local", metavar="NAME", help="default: local")
        engine.add_argument(
            "--gin_file",
            action="append",
            default=[],
            metavar="FILE",
            help="a gin file (repeatable; later ones override)",
        )
        engine.add_argument(
            "--gin_search_paths",
            action="append",
            default=[],
            metavar="FOLDERS",
            help="folders to look for gin files in first, joined by commas",
        )
        engine.add_argument(
            "--gin_bindings", action="append", default=[], metavar="NAME=VALUE", help="--gin.NAME"
        )
        engine.add_argument(
            "--hooks",
            action="append",
            default=[],
            metavar="NAMES",
            help="hooks plugins to run, joined by commas",
        )
        engine.epilog = "--gin.NAME=VALUE sets a macro or a parameter, over the files (repeatable)."
    return parser, commands


def _list_plugins(args: argparse.Namespace) -> int:
    from prompt_tuning_core import registry

    installed = registry.configure(args.allow_plugin, args.block_plugin)
    plugins = installed.discover()
    if args.check:
        import contextlib

        # What a plugin prints while it is imported is not part of the list.
        with contextlib.redirect_stdout(sys.stderr):
            plugins = tuple(installed.check(plugin) for plugin in plugins)
    if args.json:
        import json

        fields = (
            "kind", "name", "gin", "distribution", "version", "status", "description", "detail"
        )  # fmt: skip
        rows = [{field: getattr(plugin, field) for field in fields} for plugin in plugins]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif plugins:
        _print_table(plugins)
    else:
        print("no plugins are installed")
    if args.check and any(plugin.status not in ("ok", "blocked") for plugin in plugins):
        return 1
    return 0


def _print_table(plugins: Sequence[Plugin]) -> None:
    """Prints one line a plugin; a plugin that is not ok says why in place of its description."""
    fields = ("kind", "name", "gin", "status", "distribution", "version")
    table = [[*fields, "description"]]
    for plugin in plugins:
        row = [getattr(plugin, field) or "?" for field in fields]
        table.append([*row, plugin.detail or plugin.description])
    heading, *lines = aligned(table)
    print("\n".join([heading.upper(), *lines]))


def _run_on_files(name: str, args: argparse.Namespace) -> int:
    """Runs a command that reads or writes models and prompts."""
    from prompt_tuning_commands_inspect import model_commands, prompt_commands
    from prompt_tuning_core import registry

    registry.configure(args.allow_plugin, args.block_plugin)
    _show_warnings_in_one_line()
    {
        "extract-variable": model_commands.extract_variable,
        "model list": model_commands.list_models,
        "model show": model_commands.show,
        "prompt convert": prompt_commands.convert,
        "prompt list": prompt_commands.list_prompts,
        "prompt show": prompt_commands.show,
    }[name](args)
    return 0


def _find_module(args: argparse.Namespace) -> int:
    from prompt_tuning_core import gin_config

    print(gin_config.find_module(args.module))
    return 0


def _gin_path(args: argparse.Namespace) -> int:
    from prompt_tuning_core import gin_config

    folder = gin_config.config_dir()
    print(gin_config.find(args.file, [folder]) if args.file else folder)
    return 0


def _run_engine(args: argparse.Namespace, bindings: Sequence[str], extra: Sequence[str]) -> int:
    from prompt_tuning_core import registry
    from prompt_tuning_core.protocols import RunFlags

    for binding in bindings:
        if "=" not in binding:
            raise InputError(f"{binding!r} has no value; write {binding}=VALUE")
    flags = RunFlags(
        gin_files=tuple(args.gin_file),
        gin_bindings=tuple(
            _spaced(binding.removeprefix("--gin.")) for binding in [*args.gin_bindings, *bindings]
        ),
        gin_search_paths=_split(args.gin_search_paths),
        hooks=_split(args.hooks),
        extra=tuple(extra),
    )
    _show_warnings_in_one_line()
    # As with `python -m`, a task module may stand in the current directory; last, so that nothing
    # there hides what is installed.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    engine = registry.configure(args.allow_plugin, args.block_plugin).load("engine", args.engine)
    getattr(engine(), args.command)(flags)
    return 0


def _show_warnings_in_one_line() -> None:
    """Shows what is said to the person who runs the command without Python's file and line."""
    import warnings

    show = warnings.showwarning

    def showwarning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning and file is None:
            print(f"{PROGRAM}: warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = showwarning


def _spaced(binding: str) -> str:
    name, separator, value = binding.partition("=")
    if not (name.strip() and separator and value.strip()):
        raise InputError(f"the binding {binding!r} is not of the form NAME=VALUE")
    return f"{name.strip()} = {value.strip()}"


def _split(lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(item.strip() for joined in lists for item in joined.split(",") if item.strip())
