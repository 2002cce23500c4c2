"""The contract of formats: each check finds its faults; our own and a stranger's formats pass."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError
from prompt_tuning_files.formats import Prompt, Variable
from prompt_tuning_testing import checks, format_checks
from prompt_tuning_testing.contracts import check_plugin
from prompt_tuning_testing.format_checks import FORMAT_CHECKS, Damage, format_subject
from prompt_tuning_testing.strangers import STRANGERS

PROMPT, MODEL = b"planted prompt\n", b"planted model\n"
BY_NAME = {check.name: check for check in FORMAT_CHECKS}


def write(path, magic, arrays, facts):
    shapes = {name: array.shape for name, array in arrays.items()}
    index = json.dumps({"shapes": shapes, "facts": facts}).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    Path(path).write_bytes(magic + index + b"\n" + data)


def parse(path, magic):
    """Returns the arrays and the facts of a file."""
    try:
        head, _, data = Path(path).read_bytes().removeprefix(magic).partition(b"\n")
        index = json.loads(head)
        shapes, facts = index["shapes"], dict(index["facts"])
        sizes = [math.prod(shape) for shape in shapes.values()]
        if min(min(shape) for shape in shapes.values()) < 1 or 4 * sum(sizes) != len(data):
            raise ValueError("sizes")
        parts = np.split(np.frombuffer(data, np.float32), np.cumsum(sizes)[:-1])
        pairs = zip(shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in pairs}, facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({' '.join(str(error).split())})") from error


def begins(path, magic):
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


class Model:
    step = 0

    def __init__(self, path):
        self.arrays = parse(path, MODEL)[0]
        self.variables = {n: Variable(a.shape, "float32") for n, a in self.arrays.items()}

    def read(self, name):
        return self.arrays[name]

    def rows(self, name, ids):
        return self.arrays[name][ids]


COUNT = itertools.count()


class Sound:
    """Reads and writes prompts and reads models; the base of all others."""

    prompt_endings: Any = (".planted",)
    model: Any = Model

    @staticmethod
    def sample_model(folder):
        arrays = {
            "decoder/scale": np.ones(3, np.float32),
            "token_embedder/embedding": np.arange(20, dtype=np.float32).reshape(5, 4),
        }
        write(folder / "model.planted", MODEL, arrays, {})
        return folder / "model.planted"

    def recognizes_prompt(self, path):
        return begins(path, PROMPT)

    def recognizes_model(self, path):
        return begins(path, MODEL)

    def open_model(self, path):
        return self.model(path)

    def read_prompt(self, path, shape=None):
        arrays, facts = parse(path, PROMPT)
        array = arrays.get("prompt")
        if array is None or array.ndim != 2:
            raise InputError(f"{path}: holds no prompt [P, H]")
        if shape is not None and array.shape != shape:
            raise InputError(f"{path}: has the shape {array.shape}, expected {shape}")
        return Prompt(array, facts)

    def write_prompt(self, path, array, provenance):
        try:
            write(path, PROMPT, {"prompt": array}, dict(provenance))
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error


class NeedsArguments(Sound):
    def __init__(self, path):
        self.path = path


class NoReader(Sound):
    read_prompt = None


class WriterWithoutEndings(Sound):
    @property
    def prompt_endings(self):
        raise AttributeError


class Neither:
    recognizes_model = Sound.recognizes_model


class EndingsOfNpy(Sound):
    prompt_endings = (".planted", ".npy")


class EndingsAsText(Sound):
    prompt_endings = ".planted"


class EndingsWithoutDot(Sound):
    prompt_endings = ("planted",)


class OnlyAscii(Sound):
    def recognizes_prompt(self, path):
        return path.isascii() and begins(path, PROMPT)


class OnlyAbsolute(Sound):
    def recognizes_model(self, path):
        return os.path.isabs(path) and begins(path, MODEL)


class SampleOfAnother(Sound):
    @staticmethod
    def sample_prompt(folder):
        write(folder / "p.npy", PROMPT, {"prompt": np.ones((2, 3), np.float32)}, {})
        return folder / "p.npy"


class NoSample(Sound):
    @staticmethod
    def sample_model(folder):
        return folder / "missing"


class AnyText(Sound):
    def recognizes_prompt(self, path):
        try:
            return bool(Path(path).read_text())
        except (OSError, ValueError):
            return False


class AnyFolder(Sound):
    def recognizes_model(self, path):
        return os.path.isdir(path) or begins(path, MODEL)


class RaisesForFolders(Sound):
    def recognizes_prompt(self, path):
        return os.path.exists(path) and Path(path).read_bytes().startswith(PROMPT)


class RaisesWhereNothingIs(Sound):
    def recognizes_model(self, path):
        return os.path.getsize(path) > 3 and begins(path, MODEL)


class RaisesForShortFiles(Sound):
    def recognizes_model(self, path):
        return os.path.isfile(path) and Path(path).read_bytes()[0] == MODEL[0]


class OpensPipes(Sound):
    def recognizes_prompt(self, path):
        if not os.path.exists(path) or os.path.isdir(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(PROMPT)) == PROMPT


class DoublePrecision(Sound):
    def read_prompt(self, path, shape=None):
        prompt = super().read_prompt(path, shape)
        return Prompt(prompt.array.astype(np.float64), prompt.provenance)


class OtherBits(Sound):
    def read_prompt(self, path, shape=None):
        prompt = super().read_prompt(path, shape)
        return Prompt(prompt.array + np.float32(next(COUNT)), prompt.provenance)


class WritesACache(Sound):
    def read_prompt(self, path, shape=None):
        Path(f"{path}.cache").write_text("read")
        return super().read_prompt(path, shape)


class ProvenanceOfObjects(Sound):
    def read_prompt(self, path, shape=None):
        prompt = super().read_prompt(path, shape)
        return Prompt(prompt.array, {"path": Path(path)})


class ArrayAlone(Sound):
    def read_prompt(self, path, shape=None):
        return super().read_prompt(path, shape).array


class AnyShape(Sound):
    def read_prompt(self, path, shape=None):
        return super().read_prompt(path)


class CropsToTheShape(Sound):
    def read_prompt(self, path, shape=None):
        prompt = super().read_prompt(path)
        return Prompt(np.resize(prompt.array, shape or prompt.array.shape), prompt.provenance)


class OneShapeInTheError(Sound):
    def read_prompt(self, path, shape=None):
        prompt = super().read_prompt(path)
        if shape not in (None, prompt.array.shape):
            raise InputError(f"{path}: has not the shape {shape}")
        return prompt


class NotFinite(Sound):
    def read_prompt(self, path, shape=None):
        prompt = super().read_prompt(path, shape)
        with np.errstate(over="ignore"):
            return Prompt(prompt.array * np.float32(1e38), prompt.provenance)


class HalfPrecision(Sound):
    def write_prompt(self, path, array, provenance):
        with np.errstate(over="ignore"):
            super().write_prompt(path, array.astype(np.float16).astype(np.float32), provenance)


class WithoutZerosSign(Sound):
    def write_prompt(self, path, array, provenance):
        super().write_prompt(path, array + np.float32(0), provenance)


class WithoutProvenance(Sound):
    def write_prompt(self, path, array, provenance):
        super().write_prompt(path, array, {})


class KeepsOldProvenance(Sound):
    def write_prompt(self, path, array, provenance):
        old = self.read_prompt(path).provenance if os.path.exists(path) else {}
        super().write_prompt(path, array, {**old, **provenance})


class ScalesInPlace(Sound):
    def write_prompt(self, path, array, provenance):
        array *= 2
        super().write_prompt(path, array, provenance)


class SqueezesOne(Sound):
    def write_prompt(self, path, array, provenance):
        super().write_prompt(path, array.squeeze(), provenance)


class RaisesOSError(Sound):
    def write_prompt(self, path, array, provenance):
        write(path, PROMPT, {"prompt": array}, dict(provenance))


class LeavesATemporaryFile(Sound):
    def write_prompt(self, path, array, provenance):
        super().write_prompt(f"{path}.new", array, provenance)
        try:
            os.replace(f"{path}.new", path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error


class WritesIntoAFolder(Sound):
    def write_prompt(self, path, array, provenance):
        inner = os.path.join(path, "prompt") if os.path.isdir(path) else path
        super().write_prompt(inner, array, provenance)


class WritesNowhere(Sound):
    def write_prompt(self, path, array, provenance):
        if os.path.isdir(os.path.dirname(path)):
            super().write_prompt(path, array, provenance)


class RaisesKeyError(Sound):
    def read_prompt(self, path, shape=None):
        try:
            return super().read_prompt(path, shape)
        except InputError as error:
            raise KeyError("shapes") from error


class SeveralLines(Sound):
    def open_model(self, path):
        try:
            return super().open_model(path)
        except InputError as error:
            raise InputError(f"{path} is damaged:\n{error}") from error


class NamesNoFile(Sound):
    def open_model(self, path):
        try:
            return super().open_model(path)
        except InputError as error:
            raise InputError("the file is damaged") from error


class RaisesToRecognize(Sound):
    def recognizes_prompt(self, path):
        return super().recognizes_prompt(path) and bool(self.read_prompt(path))


class TakesMemory(Sound):
    def read_prompt(self, path, shape=None):
        try:
            return super().read_prompt(path, shape)
        except InputError:
            b"x" * (1 << 28)
            raise


class TwoAxesMore(Sound):
    def read_prompt(self, path, shape=None):
        try:
            return super().read_prompt(path, shape)
        except InputError:
            return Prompt(np.zeros((1, 1, 1), np.float32), {})


class NamesWithDots(Sound):
    @staticmethod
    def sample_model(folder):
        write(folder / "m", MODEL, {"embedding.weight": np.ones((2, 3), np.float32)}, {})
        return folder / "m"


def of_model(**members):
    return type("Faulty", (Model,), members)


class OtherDtype(Sound):
    model = of_model(read=lambda self, name: self.arrays[name].astype(np.float64))


class OtherShape(Sound):
    model = of_model(read=lambda self, name: self.arrays[name].T)


class SortedRows(Sound):
    model = of_model(rows=lambda self, name, ids: self.arrays[name][np.sort(ids)])


class DifferentRows(Sound):
    model = of_model(rows=lambda self, name, ids: self.arrays[name][np.unique(ids)])


class UnknownIsNone(Sound):
    model = of_model(read=lambda self, name: self.arrays.get(name))


class StepIsNone(Sound):
    model = of_model(step=None)


class PicklesAnArray(Sound):
    def recognizes_prompt(self, path):
        return begins(path, b"\x80\x04") and begins(path, pickle.dumps(0, 4)[:2])

    def read_prompt(self, path, shape=None):
        return Prompt(pickle.loads(Path(path).read_bytes()), {})

    def write_prompt(self, path, array, provenance):
        Path(path).write_bytes(pickle.dumps(array))


class PickleInside(Sound):
    def read_prompt(self, path, shape=None):
        return Prompt(pickle.loads(Path(path).read_bytes().partition(PROMPT)[2]), {})

    def write_prompt(self, path, array, provenance):
        Path(path).write_bytes(PROMPT + pickle.dumps(array))


class ObjectsOfNumpy(Sound):
    def read_prompt(self, path, shape=None):
        return begins(path, b"\x93NUMPY") and np.load(path, allow_pickle=True)


class ArchivesOfNumpy(Sound):
    def read_prompt(self, path, shape=None):
        return begins(path, b"PK") and dict(np.load(path, allow_pickle=True))


class ReadsItWhole(Sound):
    def recognizes_model(self, path):
        return os.path.isfile(path) and Path(path).read_bytes().startswith(MODEL)


class ReadsItInParts(Sound):
    def recognizes_prompt(self, path):
        if not begins(path, PROMPT):
            return False
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
        return True


class WritesAnIndex(Sound):
    def recognizes_prompt(self, path):
        found = begins(path, PROMPT)
        if found:
            Path(f"{path}.index").write_text("seen")
        return found


class Planted(NamedTuple):
    """A format with a fault, the check that must find it, and a part of what it says."""

    check: str
    form: type
    says: str


PLANTED = [
    Planted("methods", NeedsArguments, "is not made without arguments: TypeError"),
    Planted("methods", NoReader, "has recognizes_prompt without read_prompt"),
    Planted("methods", WriterWithoutEndings, "has write_prompt without prompt_endings"),
    Planted("methods", Neither, "reads neither models nor prompts: no open_model"),
    Planted("endings", EndingsOfNpy, "format 'npy' writes names that end in '.npy', too"),
    Planted("endings", EndingsAsText, "prompt_endings is '.planted', expected a tuple"),
    Planted("endings", EndingsWithoutDot, "prompt_endings has 'planted', expected a dot"),
    Planted("own_files", OnlyAscii, "its own prompt is not recognized: /"),
    Planted("own_files", OnlyAbsolute, "not recognized by its relative path 'model.planted'"),
    Planted("own_files", SampleOfAnother, "format 'npy' recognizes its prompt 'p.npy', too"),
    Planted("own_files", NoSample, "the sample of a model is /"),
    Planted("foreign", AnyText, "recognizes 1 random bytes as a prompt"),
    Planted("foreign", AnyFolder, "recognizes a directory that holds an empty file as a model"),
    Planted("foreign", RaisesForFolders, "recognizes_prompt raises IsADirectoryError"),
    Planted("foreign", RaisesWhereNothingIs, "where nothing is, recognizes_model raises FileNotF"),
    Planted("foreign", RaisesForShortFiles, "for an empty file, recognizes_model raises IndexErr"),
    Planted("pipes", OpensPipes, "recognizes_prompt opens a pipe"),
    Planted("reads_prompts", DoublePrecision, "the array is float64, expected float32"),
    Planted("reads_prompts", OtherBits, "the array differs between two reads"),
    Planted("reads_prompts", WritesACache, "read_prompt wrote the file"),
    Planted("reads_prompts", ProvenanceOfObjects, "the provenance is not JSON"),
    Planted("reads_prompts", ArrayAlone, "read_prompt returned ndarray"),
    Planted("reads_prompts", AnyShape, "is read with the shape (4, 8), as (3, 8)"),
    Planted("reads_prompts", CropsToTheShape, "is read with the shape (4, 8), as (4, 8)"),
    Planted("reads_prompts", OneShapeInTheError, "does not name both shapes"),
    Planted("reads_prompts", NotFinite, "the array is not finite"),
    Planted("round_trip", HalfPrecision, "the array of a file differs from what was written"),
    Planted("round_trip", WithoutZerosSign, "the array of a file differs from what was written"),
    Planted("round_trip", WithoutProvenance, "the provenance of a file is {}"),
    Planted("round_trip", KeepsOldProvenance, "the provenance of a file that replaced another"),
    Planted("round_trip", ScalesInPlace, "write_prompt changes the array"),
    Planted("round_trip", SqueezesOne, "(1, 1): "),
    Planted("cannot_write", RaisesOSError, "over a directory raises IsADirectoryError"),
    Planted("cannot_write", LeavesATemporaryFile, "and leaves or takes ['prompt.planted.new']"),
    Planted("cannot_write", WritesIntoAFolder, "to write over a directory is no error"),
    Planted("cannot_write", WritesNowhere, "to write below a file is no error"),
    Planted("damage", RaisesKeyError, "raises KeyError: 'shapes', expected an InputError"),
    Planted("damage", SeveralLines, "an error has several lines"),
    Planted("damage", NamesNoFile, "an error does not name the file: the file is damaged"),
    Planted("damage", RaisesToRecognize, "recognizes_prompt raises InputError"),
    Planted("damage", TakesMemory, "MiB of memory"),
    Planted("damage", TwoAxesMore, "the array has the shape (1, 1, 1), expected (P, H)"),
    Planted("models", NamesWithDots, "a variable is 'embedding.weight', expected names joined by"),
    Planted("models", OtherDtype, "is float64 (3,), and the index says float32 (3,)"),
    Planted("models", OtherShape, "is float32 (4, 5), and the index says float32 (5, 4)"),
    Planted("models", SortedRows, "differ from those of the whole variable"),
    Planted("models", DifferentRows, "expected float32 (6, 4)"),
    Planted("models", UnknownIsNone, "a variable that is not there is None"),
    Planted("models", StepIsNone, "the step is None"),
    Planted("no_pickle", PicklesAnArray, "reading a pickle as prompt.planted runs the code"),
    Planted("no_pickle", PickleInside, "begins as its own and goes on as a pickle"),
    Planted("no_pickle", ObjectsOfNumpy, "reading an array of objects as prompt.planted runs"),
    Planted("no_pickle", ArchivesOfNumpy, "reading an archive of arrays of objects as"),
    Planted("light", ReadsItWhole, "MiB of memory; read its first bytes"),
    Planted("light", ReadsItInParts, "a prompt of 256 MiB reads 256 MiB"),
    Planted("light", WritesAnIndex, "recognizes_prompt wrote the file"),
]


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.form.__name__)
def test_each_planted_fault_is_found_by_its_check(case):
    result = checks.run(BY_NAME[case.check], format_subject(case.form))
    assert result.outcome == "failed", result
    assert case.says in result.detail


def test_every_check_has_a_planted_fault():
    assert {case.check for case in PLANTED} == BY_NAME.keys()


def test_a_reader_that_does_not_return_is_found(monkeypatch):
    class Waits(Sound):
        def read_prompt(self, path, shape=None):
            try:
                return super().read_prompt(path, shape)
            except InputError:
                time.sleep(0.5)
                raise

    monkeypatch.setattr(format_checks, "_SECONDS", 0.1)
    with pytest.raises(checks.BrokenClauseError, match=r"prompt.planted: .*not return within 0.1"):
        BY_NAME["damage"].run(format_subject(Waits), Damage("cut", 0))


def test_the_sound_format_of_the_planted_ones_keeps_the_contract():
    results = check_plugin(Sound, "format")
    results.raise_if_failed()
    assert {result.outcome for result in results} == {"passed"}


@pytest.mark.parametrize(
    ("name", "not_tried"), [("npy", {"models"}), ("safetensors", set()), ("peft", {"models"})]
)
def test_our_own_formats_that_write_prompts_keep_the_contract(name, not_tried):
    """The others need files: the tests of their own distributions try those."""
    results = check_plugin(registry.process_registry().load("format", name), "format")
    results.raise_if_failed()
    assert {result.name for result in results if result.outcome == "not tried"} == not_tried


def test_a_strangers_format_keeps_the_contract(in_process):
    STRANGERS["format"].put(in_process)
    registry.configure()
    form = registry.process_registry().load("format", "rows")
    check_plugin(form, "format").raise_if_failed()


def test_without_a_sample_the_reason_says_what_to_declare():
    class OnlyReads:
        recognizes_prompt, read_prompt = Sound.recognizes_prompt, Sound.read_prompt

    by_name = {result.name: result for result in check_plugin(OnlyReads, "format")}
    assert by_name["foreign"].outcome == "passed"
    assert by_name["damage"].outcome == "not tried"
    assert "declare sample_prompt(folder) as a static method" in by_name["damage"].detail


def test_arguments_that_are_no_function():
    with pytest.raises(InputError, match="expected a function from a folder"):
        check_plugin(Sound, "format", {"prompt": "p"})


def test_the_format_of_new_plugin_keeps_the_contract(new_module):
    results = check_plugin(new_module("planted_rows", "format").Format, "format")
    results.raise_if_failed()
    assert {r.name for r in results if r.outcome == "not tried"} == {
        "endings", "round_trip", "cannot_write", "models",
    }  # fmt: skip
