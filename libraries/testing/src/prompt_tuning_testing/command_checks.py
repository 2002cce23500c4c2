"""The contract of commands, as checks.

A command gets its arguments from a parser like the one that `prompt-tuning` makes. The output of
the command is not shown.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from prompt_tuning_core.commands import failures
from prompt_tuning_core.errors import InputError, PromptTuningError, one_line
from prompt_tuning_core.kinds import KINDS
from prompt_tuning_testing import watching
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract, name_of

SampleArguments = Callable[[Path], Sequence[str]]
"""Returns arguments that must work; writes the files that they name to the given folder."""

_LONGEST_SUMMARY = 100
_CORE_FLAGS = ("--allow-plugin", "--block-plugin", "--traceback")
# T5X's own flags, such as --gin_file, have underscores.
_FLAG = re.compile(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*|--gin_[a-z_]+|-[a-zA-Z]")
_UNKNOWN_FLAG = "--no-flag-of-any-command"


class _Parser(argparse.ArgumentParser):
    """A parser with the rules of `prompt-tuning`: whole names of flags, and errors of one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


@dataclasses.dataclass(frozen=True)
class CommandSubject:
    """A command, and how to try it; see `command_subject`."""

    command: Any
    sample_arguments: SampleArguments | None

    @property
    def takes_unknown_flags(self) -> object:
        """The command's attribute of this name; False if it has none."""
        return getattr(self.command, "takes_unknown_flags", False)

    def parser(self) -> argparse.ArgumentParser:
        """Makes a parser with the flags of the core and of the command."""
        parser = _Parser(prog="prompt-tuning COMMAND", description=self.command.__doc__)
        for flag in _CORE_FLAGS:
            parser.add_argument(flag, help="a flag of the core")
        try:
            self.command.add_arguments(parser)
        except argparse.ArgumentError as error:
            raise BrokenClauseError(
                f"add_arguments fails ({error}); the core has {', '.join(_CORE_FLAGS)}"
            ) from error
        return parser

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses arguments as `prompt-tuning` does."""
        # The core takes the bindings of gin out first, since they may contain blanks.
        bindings = [one for one in arguments if one.startswith("--gin.")]
        parser = self.parser()
        parsed, unknown = parser.parse_known_args([a for a in arguments if a not in bindings])
        unknown += bindings
        if unknown and not self.takes_unknown_flags:
            parser.error(f"unknown argument {unknown[0]!r}")
        parsed.unknown = unknown
        return parsed

    def run(self, arguments: Sequence[str]) -> Any:
        """Parses arguments, runs the command, and returns its exit code."""
        return self.command.run(self.parse(arguments))

    def samples(self, folder: Path) -> list[str]:
        """Returns the sample arguments, with their files in `folder`.

        Raises:
          NotTriedError: If there are none.
        """
        if self.sample_arguments is None:
            raise NotTriedError(
                "it has no sample_arguments(folder): a function that writes files to the folder, "
                "and returns arguments that must work"
            )
        found = list(self.sample_arguments(folder))
        wrong = [one for one in found if not isinstance(one, str)]
        require(not wrong, f"sample_arguments returned {wrong}, expected texts")
        return found


def command_subject(
    command: Any,
    arguments: SampleArguments | None = None,
    *,
    seed: int = 0,
    max_examples: int = 1,
) -> CommandSubject:
    """Returns the subject of the checks.

    Args:
      command: A module or an object with `add_arguments` and `run`.
      arguments: Returns arguments that must work, from a folder for their files; None for the
        command's own attribute `sample_arguments`, if it has one.
      seed: Not used: nothing is drawn.
      max_examples: Not used.

    Raises:
      InputError: If it has no `add_arguments` or no `run`.
    """
    del seed, max_examples
    complaint = KINDS["command"].complaint(command)
    if complaint:
        raise InputError(f"{name_of(command)}: the plugin {complaint}")
    return CommandSubject(command, arguments or getattr(command, "sample_arguments", None))


class _ClosedPipe(io.BytesIO):
    """A pipe that its reader has closed."""

    def write(self, data: object, /) -> int:
        raise BrokenPipeError("the reader closed the pipe")


@contextlib.contextmanager
def _captured(stream: io.BytesIO) -> Iterator[None]:
    """Sends standard output to a stream of bytes, and standard error nowhere."""
    text = io.TextIOWrapper(stream, encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        yield


def _quiet(subject: CommandSubject, arguments: Sequence[str]) -> Any:
    with _captured(io.BytesIO()):
        return subject.run(arguments)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Makes an empty folder the current directory, and yields it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "folder").absolute()
        folder.mkdir()
        with contextlib.chdir(folder):
            yield folder


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Returns the content of each file below a folder; None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def _check_summary(subject: CommandSubject, nothing: None) -> None:
    text = subject.command.__doc__
    require(isinstance(text, str) and text.strip(), "has no docstring, whose first line is shown")
    summary = text.strip().partition("\n")[0]
    require(
        len(summary) <= _LONGEST_SUMMARY,
        f"the first line of its docstring has {len(summary)} columns, expected at most "
        f"{_LONGEST_SUMMARY}: {summary!r}",
    )


def _check_arguments(subject: CommandSubject, nothing: None) -> None:
    parsers = [subject.parser() for _ in range(2)]
    try:
        first, second = (parser.format_help() for parser in parsers)
    except Exception as error:  # Of any type: argparse formats help texts with the operator %.
        raise BrokenClauseError(
            f"its help cannot be shown ({one_line(error)}); write %% for % in the help texts"
        ) from error
    require(first == second, "add_arguments adds other arguments at the second call")
    known = subject.takes_unknown_flags
    require(isinstance(known, bool), f"takes_unknown_flags is {known!r}, expected True or False")


def _check_flags(subject: CommandSubject, nothing: None) -> None:
    parser = subject.parser()
    for flag in (flag for action in parser._actions for flag in action.option_strings):
        require(
            _FLAG.fullmatch(flag),
            f"the flag {flag} is not of lower-case words with hyphens, such as --my-flag",
        )


def _check_help(subject: CommandSubject, nothing: None) -> None:
    for action in subject.parser()._actions:
        name = " ".join(action.option_strings) or action.dest
        require(action.help, f"the argument {name} has no help text")


def _check_adding_is_quiet(subject: CommandSubject, nothing: None) -> None:
    subject.parser()  # An import within add_arguments may change something once.
    shown, before = io.StringIO(), watching.state()
    with (
        watching.Audit.watch() as audit,
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(shown),
    ):
        subject.parser()
    found = [f"changed {name}" for name in watching.changed(before, watching.state())]
    found += audit.does + ([f"printed {shown.getvalue()!r}"] if shown.getvalue() else [])
    require(not found, f"add_arguments {', '.join(found)}")


def _check_refuses(subject: CommandSubject, nothing: None) -> None:
    takes = bool(subject.takes_unknown_flags)
    with _folder() as folder:
        # Without samples, the parser refuses the flag, or that an argument is missing.
        is_sampled = takes or subject.sample_arguments is not None
        arguments = [*(subject.samples(folder) if is_sampled else ()), _UNKNOWN_FLAG]
        try:
            if not takes:
                subject.parse(arguments)
            # A command that takes unknown flags must itself refuse a flag that it does not know.
            code = _quiet(subject, arguments) if takes else 0
        except InputError:
            code = 2
        except SystemExit as error:
            code = error.code
        found = f"takes the flag {_UNKNOWN_FLAG} (exit code {code!r}, expected 2)"
        require(code == 2, f"{'run' if takes else 'the parser'} {found}")


def _check_runs(subject: CommandSubject, nothing: None) -> None:
    outputs = []
    with _folder() as folder:
        for _ in range(2):
            # The same folder, as its name may be in the output.
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            arguments, stream = subject.samples(folder), io.BytesIO()
            with _captured(stream):
                try:
                    code = subject.run(arguments)
                except (Exception, SystemExit) as error:  # A command may raise anything.
                    raise BrokenClauseError(
                        f"for {arguments} it raises {one_line(error)}"
                    ) from error
                outputs.append(stream.getvalue().decode())
            require(
                type(code) is int and code == 0,
                f"run returned {code!r} for {arguments}, expected the exit code 0",
            )
    first, second = outputs
    require(first == second, f"printed {first[:200]!r}, and {second[:200]!r} the second time")


def _check_closed_pipe(subject: CommandSubject, nothing: None) -> None:
    with _folder() as folder:
        arguments = subject.samples(folder)
        try:
            with _captured(_ClosedPipe()):
                subject.run(arguments)
        except BrokenPipeError:
            return  # The core handles it.
        except (Exception, SystemExit) as error:
            raise BrokenClauseError(
                f"with a closed pipe for standard output, as by `| head`, it raises "
                f"{one_line(error)}; let the BrokenPipeError through"
            ) from error


def _missing_files(arguments: Sequence[str], folder: Path) -> Iterator[tuple[list[str], str]]:
    """Yields arguments with one path replaced by one that does not exist, and that path."""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.rpartition("=")
        path = folder / value
        is_there = path.is_file() or (path.is_dir() and any(path.iterdir()))
        if value and folder in path.parents and is_there:
            missing = f"{value}-missing"
            replaced = f"{flag}{equals}{missing}"
            yield [*arguments[:index], replaced, *arguments[index + 1 :]], missing


def _failing_runs(subject: CommandSubject) -> list[tuple[str, Any, list[str]]]:
    """Runs the command once for each missing file.

    Returns:
      For each run, the missing path, its end (an exception, or the exit code), and the names of the
      files that it left or changed.
    """
    found: list[tuple[str, Any, list[str]]] = []
    with _folder() as folder:
        for arguments, missing in _missing_files(subject.samples(folder), folder):
            before = set(_contents(folder).items())
            ended: Any
            try:
                ended = _quiet(subject, arguments)
            except (Exception, SystemExit) as error:  # A command may raise anything.
                ended = error
            differing = before ^ set(_contents(folder).items())
            found.append((missing, ended, sorted({name for name, _ in differing})))
    if not found:
        raise NotTriedError("its sample arguments name no file in the folder")
    return found


def _check_bad_input(subject: CommandSubject, nothing: None) -> None:
    for missing, ended, _ in _failing_runs(subject):
        where = f"for {missing}, which does not exist, it"
        if isinstance(ended, SystemExit):
            ended = ended.code
        if not isinstance(ended, Exception):
            require(ended == 2, f"{where} ends with {ended!r}, expected an error or exit code 2")
            continue
        require(
            isinstance(ended, PromptTuningError | ValueError | OSError)
            and failures.described(ended) is not None,
            f"{where} raises {one_line(ended)}, expected an InputError",
        )
        text = str(ended).strip()
        require("\n" not in text, f"{where} raises an error of several lines: {text!r}")
        require(
            Path(missing).name in text,
            f"{where} raises {one_line(ended)}, and the message does not name it",
        )


def _check_leaves_nothing(subject: CommandSubject, nothing: None) -> None:
    for missing, ended, differs in _failing_runs(subject):
        del ended  # `bad_input` looks at it.
        require(
            not differs,
            f"for {missing}, which does not exist, it leaves changed files: {', '.join(differs)}",
        )


COMMAND_CHECKS: tuple[Check[CommandSubject], ...] = (
    Check(
        "summary",
        1,
        f"the first line of its docstring is a summary of at most {_LONGEST_SUMMARY} columns",
        _check_summary,
    ),
    Check(
        "arguments",
        2,
        "add_arguments adds the same arguments to each new parser, which can show its help",
        _check_arguments,
        is_needed=True,
    ),
    Check("flags", 2, "flags are lower-case words with hyphens", _check_flags),
    Check("help", 2, "each argument has a help text", _check_help),
    Check(
        "adding_is_quiet",
        2,
        "add_arguments prints nothing and changes nothing",
        _check_adding_is_quiet,
    ),
    Check("refuses", 3, "an unknown flag is an error with exit code 2", _check_refuses),
    Check(
        "runs",
        4,
        "run returns 0 for sample arguments, and prints the same each time",
        _check_runs,
    ),
    Check(
        "closed_pipe",
        4,
        "with a closed standard output, it raises no error but BrokenPipeError",
        _check_closed_pipe,
    ),
    Check(
        "bad_input",
        5,
        "a file that does not exist is an error of one line that names it, or exit code 2",
        _check_bad_input,
    ),
    Check("leaves_nothing", 6, "a failing run leaves no file", _check_leaves_nothing),
)

CONTRACT = Contract(COMMAND_CHECKS, command_subject, examples=1)
