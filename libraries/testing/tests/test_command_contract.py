"""The contract of commands: each check finds its faults, and sound commands pass."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_testing import check_plugin, checks, parametrize_with_checks
from prompt_tuning_testing.command_checks import COMMAND_CHECKS, command_subject
from prompt_tuning_testing.strangers import STRANGERS

BY_NAME = {check.name: check for check in COMMAND_CHECKS}
FIRST_PARTY = [p.name for p in registry.Registry().discover() if p.kind == "command"]
COUNT = itertools.count()
SAMPLED = {"runs", "closed_pipe", "bad_input", "leaves_nothing"}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Prompt files are written to disk before they have their names; that is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Sound:
    """Copy a text to a file, and print its length."""

    def add_arguments(self, parser):
        parser.add_argument("text", help="a file")
        parser.add_argument("--out", metavar="FILE", help="where to (100%% of the text)")

    def run(self, arguments):
        try:
            text = Path(arguments.text).read_text()
        except OSError as error:
            raise InputError(f"{arguments.text}: {error.strerror}") from error
        Path(arguments.out).write_text(text)
        self.show(text)
        return 0

    def show(self, text):
        sys.stdout.write(f"{len(text)}\n")

    def sample_arguments(self, folder):
        (folder / "text.txt").write_text("a text")
        return [str(folder / "text.txt"), f"--out={folder / 'copy.txt'}"]


class SoundWithUnknownFlags(Sound):
    """Take the flags of gin, and refuse all others."""

    takes_unknown_flags = True

    def run(self, arguments):
        for flag in arguments.unknown:
            if not flag.startswith("--gin."):
                raise InputError(f"unknown flag {flag}")
        return super().run(arguments)

    def sample_arguments(self, folder):
        return [*super().sample_arguments(folder), "--gin.x='a b'"]


class NoDocstring(Sound):
    __doc__ = None


class LongSummary(Sound):
    __doc__ = "Copy " + "a very long text " * 6 + "to a file."


class FailsAtTheSecondParser(Sound):
    flags = ("--mine",)

    def add_arguments(self, parser):
        for flag in self.flags:
            parser.add_argument(flag, help="mine")
        self.flags = (*self.flags, "--more")


class LonePercent(Sound):
    def add_arguments(self, parser):
        parser.add_argument("text", help="100% of it")


class TakesAFlagOfTheCore(Sound):
    def add_arguments(self, parser):
        parser.add_argument("--traceback", help="mine")


class TakesUnknownFlagsMaybe(Sound):
    takes_unknown_flags = "no"


class FlagWithUnderscore(Sound):
    def add_arguments(self, parser):
        parser.add_argument("--my_flag", help="mine")


class FlagInAGroup(Sound):
    def add_arguments(self, parser):
        parser.add_argument_group("mine").add_argument("-v", "--Verbose", help="mine")


class FlagWithoutHelp(Sound):
    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument("--quick", action="store_true")


class PositionalWithoutHelp(Sound):
    def add_arguments(self, parser):
        parser.add_argument("text")


class PrintsAtOnce(Sound):
    def add_arguments(self, parser):
        sys.stdout.write("welcome")


class SetsAVariable(Sound):
    def add_arguments(self, parser):
        os.environ["MY_COUNT"] = str(next(COUNT))


class WritesAtOnce(Sound):
    def add_arguments(self, parser):
        with open(os.devnull, "w") as file:
            file.write("at once")


class TakesTheRest(Sound):
    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument("rest", nargs=argparse.REMAINDER, help="anything")

    def sample_arguments(self, folder):
        return [*super().sample_arguments(folder)[::-1], "more"]


class IgnoresErrors(Sound):
    def add_arguments(self, parser):
        parser.error = lambda message: None


class IgnoresUnknownFlags(Sound):
    takes_unknown_flags = True


class ReturnsNone(Sound):
    def run(self, arguments):
        super().run(arguments)


class ReturnsTrue(Sound):
    def run(self, arguments):
        return super().run(arguments) == 0


class ReturnsOne(Sound):
    def run(self, arguments):
        return super().run(arguments) + 1


class Exits(Sound):
    def run(self, arguments):
        sys.exit(super().run(arguments))


class Counts(Sound):
    def show(self, text):
        sys.stdout.write(f"{next(COUNT)}\n")


class AsksTheTerminal(Sound):
    def show(self, text):
        os.get_terminal_size(sys.stdout.fileno())


class SamplesOfPaths(Sound):
    def sample_arguments(self, folder):
        super().sample_arguments(folder)
        return [folder / "text.txt"]


class CallsTheClosedPipeBadInput(Sound):
    def show(self, text):
        try:
            super().show(text)
        except OSError as error:
            raise InputError("the text cannot be copied") from error


class FailsWithTheClosedPipe(Sound):
    def show(self, text):
        try:
            super().show(text)
        except BrokenPipeError:
            sys.exit("no output")


class DoesNotCare(Sound):
    def run(self, arguments):
        return 0


class ReturnsOneForBadInput(Sound):
    def run(self, arguments):
        try:
            return super().run(arguments)
        except InputError:
            return 1


class RaisesAKeyError(Sound):
    def run(self, arguments):
        files = {name: name for name in os.listdir()}
        return len(files[Path(arguments.text).name]) * 0


class SeveralLines(Sound):
    def run(self, arguments):
        if not Path(arguments.text).exists():
            raise InputError(f"{arguments.text}:\nis missing")
        return super().run(arguments)


class DoesNotNameTheFile(Sound):
    def run(self, arguments):
        if not Path(arguments.text).exists():
            raise InputError("a file is missing")
        return super().run(arguments)


class WritesFirst(Sound):
    def run(self, arguments):
        Path(arguments.out).write_text("")
        return super().run(arguments)


class EmptiesAnotherFile(Sound):
    def run(self, arguments):
        Path("text.txt").write_text("")
        return super().run(arguments)


class Planted(NamedTuple):
    """A command with a fault, the check that must find it, and a part of what it says."""

    check: str
    command: Any
    says: str


PLANTED = [
    Planted("summary", NoDocstring, "has no docstring"),
    Planted("summary", LongSummary, "has 117 columns, expected at most 100"),
    Planted("arguments", FailsAtTheSecondParser, "other arguments at the second call"),
    Planted("arguments", LonePercent, "write %% for % in the help texts"),
    Planted("arguments", TakesAFlagOfTheCore, "conflicting option string: --traceback"),
    Planted("arguments", TakesUnknownFlagsMaybe, "takes_unknown_flags is 'no'"),
    Planted("flags", FlagWithUnderscore, "the flag --my_flag is not"),
    Planted("flags", FlagInAGroup, "the flag --Verbose is not"),
    Planted("help", FlagWithoutHelp, "the argument --quick has no help text"),
    Planted("help", PositionalWithoutHelp, "the argument text has no help text"),
    Planted("adding_is_quiet", PrintsAtOnce, "printed 'welcome'"),
    Planted("adding_is_quiet", SetsAVariable, "changed the environment"),
    Planted("adding_is_quiet", WritesAtOnce, f"wrote the file {os.devnull}"),
    Planted("refuses", TakesTheRest, "the parser takes the flag --no-flag-of-any-command"),
    Planted("refuses", IgnoresErrors, "the parser takes the flag --no-flag-of-any-command"),
    Planted("refuses", IgnoresUnknownFlags, "run takes the flag --no-flag-of-any-command"),
    Planted("runs", ReturnsNone, "run returned None"),
    Planted("runs", ReturnsTrue, "run returned True"),
    Planted("runs", ReturnsOne, "run returned 1"),
    Planted("runs", Exits, "it raises SystemExit: 0"),
    Planted("runs", Counts, "the second time"),
    Planted("runs", AsksTheTerminal, "it raises"),
    Planted("runs", SamplesOfPaths, "sample_arguments returned [PosixPath"),
    Planted("closed_pipe", CallsTheClosedPipeBadInput, "let the BrokenPipeError through"),
    Planted("closed_pipe", FailsWithTheClosedPipe, "raises SystemExit: no output"),
    Planted("bad_input", DoesNotCare, "text.txt-missing, which does not exist, it ends with 0"),
    Planted("bad_input", ReturnsOneForBadInput, "ends with 1, expected an error or exit code 2"),
    Planted("bad_input", RaisesAKeyError, "raises KeyError: 'text.txt-missing', expected an Input"),
    Planted("bad_input", SeveralLines, "an error of several lines"),
    Planted("bad_input", DoesNotNameTheFile, "the message does not name it"),
    Planted("leaves_nothing", WritesFirst, "it leaves changed files: copy.txt"),
    Planted("leaves_nothing", EmptiesAnotherFile, "it leaves changed files: text.txt"),
]


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.command.__name__)
def test_each_planted_fault_is_found_by_its_check(case):
    result = checks.run(BY_NAME[case.check], command_subject(case.command()))
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED} == BY_NAME.keys()


@parametrize_with_checks(Sound(), kind="command")
def test_a_sound_command_keeps_the_contract(check, capsys):
    check()
    assert capsys.readouterr() == ("", "")


@parametrize_with_checks(SoundWithUnknownFlags(), kind="command")
def test_a_sound_command_with_unknown_flags_keeps_the_contract(check):
    check()


def test_an_object_without_run_is_refused():
    with pytest.raises(InputError, match="object: the plugin names a command without add_argu"):
        check_plugin(object, "command")


def _prompt(folder):
    np.save(folder / "p.npy", np.ones((2, 3), np.float32))
    return str(folder / "p.npy")


# Of commands that show or convert what a small file holds.
SAMPLES = {
    "list-plugins": lambda folder: ["--json"],
    "gin-path": lambda folder: ["--engine=local"],
    "find-module": lambda folder: ["json"],
    "model.list": lambda folder: [],
    "prompt.list": lambda folder: [],
    "prompt.show": lambda folder: [_prompt(folder)],
    "prompt.convert": lambda folder: [_prompt(folder), str(folder / "q.safetensors")],
    "new-plugin": lambda folder: ["mine", "--kind=hooks", f"--folder={folder / 'new'}"],
}


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_our_own_commands_keep_the_contract(name):
    command = registry.process_registry().load("command", name)
    results = check_plugin(command, "command", SAMPLES.get(name))
    results.raise_if_failed()
    skipped = {result.name for result in results if result.outcome == "not tried"}
    if name not in SAMPLES:
        takes = getattr(command, "takes_unknown_flags", False)
        assert skipped == SAMPLED | ({"refuses"} if takes else set())
    else:
        has_file = name in ("prompt.show", "prompt.convert")
        assert skipped == (set() if has_file else {"bad_input", "leaves_nothing"})


def test_there_are_commands_of_our_own():
    assert len(FIRST_PARTY) == 17
    assert SAMPLES.keys() < set(FIRST_PARTY)


def test_a_strangers_command_keeps_the_contract(in_process):
    STRANGERS["command"].put(in_process)
    registry.configure()
    command = registry.process_registry().load("command", "greet")
    check_plugin(command, "command", lambda folder: ["--name=you"]).raise_if_failed()


def test_a_new_project_keeps_the_contract(new_module):
    command = new_module("show-of-a-test", "command")
    results = check_plugin(command, "command", lambda folder: [_prompt(folder)])
    assert {result.outcome for result in results} == {"passed"}, str(results)
