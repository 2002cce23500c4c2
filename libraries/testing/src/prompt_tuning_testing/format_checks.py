"""The contract of formats, as checks.

They try a format on files of its own form, on damaged copies of these, and on files of other forms.
The format writes the files of its own form, or its class makes them in `sample_prompt(folder)` and
`sample_model(folder)`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PromptTuningError, one_line
from prompt_tuning_core.kinds import KINDS
from prompt_tuning_files.formats import Prompt, Variable
from prompt_tuning_testing import checks, watching
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract
from prompt_tuning_testing.format_samples import (
    FACTS,
    PAIRS,
    FormatSubject,
    Sample,
    content_of,
    foreign_files,
    format_subject,
    is_of_its_form,
    npy_bytes,
    odd_folder,
    zip_bytes,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

R = TypeVar("R")

_SHAPES = ((1, 1), (3, 8), (100, 512))
_SECONDS = 30.0
_PIPE_SECONDS = 3.0
_LARGE = 1 << 28
_LITTLE = 1 << 26
"""The most bytes of memory that reading a small file, or recognizing a large one, may take."""


def _in_time(call: Callable[[], R], what: str) -> R:
    """Returns the result of a call; a call that does not return breaks the clause."""
    results: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # The caller raises it.
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    require(not thread.is_alive(), f"{what} does not return within {_SECONDS:g} s")
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def _memory() -> Iterator[list[int]]:
    """Yields a list that gets, after the block, the peak of memory that the block took, in bytes.

    This does not use tracemalloc, which may crash if a library's own threads free an array.
    """
    found: list[int] = []
    watching.peak_memory()  # Resets the peak: the next call returns the memory held now.
    before = watching.peak_memory()
    yield found
    found.append(watching.peak_memory() - before)


def _bytes_read() -> int:
    """Returns the bytes that this process has read; 0 if the system does not count them."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["rchar"])


def _other_formats(form: Any) -> dict[str, Any]:
    """Returns an instance of each other installed format by its plugin's name."""
    installed = registry.process_registry()
    others = {}
    for plugin in installed.discover():
        if plugin.kind == "format":
            with contextlib.suppress(Exception):  # Its own checks report what it raises.
                loaded = installed.load("format", plugin.name)
                if not _same_class(loaded, form):
                    others[plugin.name] = loaded()
    return others


def _same_class(one: Any, other: Any) -> bool:
    names = [(c.__module__, c.__qualname__) for c in (one, other)]
    return one is other or names[0] == names[1]


def _check_methods(subject: FormatSubject, nothing: None) -> None:
    complaint = KINDS["format"].complaint(subject.form)
    require(complaint is None, f"the plugin {complaint}")
    try:
        made = subject.form()
    except Exception as error:  # Its constructor may raise anything.
        found = f"is not made without arguments: {one_line(error)}"
        raise BrokenClauseError(found) from error
    for pair in PAIRS.values():
        there = [callable(getattr(made, method, None)) for method in pair]
        has, lacks = pair if there[0] else pair[::-1]
        require(all(there) or not any(there), f"has {has} without {lacks}")
    both = [hasattr(made, name) for name in ("write_prompt", "prompt_endings")]
    require(
        all(both) or not any(both),
        "has write_prompt without prompt_endings: no name of a file asks for it"
        if both[0]
        else "has prompt_endings without write_prompt",
    )
    require(
        not both[0] or "prompt" in subject.whats, "writes prompts, and has no read_prompt for them"
    )


def _check_endings(subject: FormatSubject, nothing: None) -> None:
    if not subject.writes:
        raise NotTriedError("it writes no prompts")
    endings = subject.format.prompt_endings
    require(
        isinstance(endings, tuple) and endings and all(isinstance(e, str) for e in endings),
        f"prompt_endings is {endings!r}, expected a tuple such as ('.npy',)",
    )
    for ending in endings:
        require(
            ending == "/" or re.fullmatch(r"\.[^./\s]+", ending),
            f"prompt_endings has {ending!r}, expected a dot and the last part of a file's name, or "
            "'/' for a directory",
        )
        for name, other in _other_formats(subject.form).items():
            require(
                ending not in getattr(other, "prompt_endings", ()),
                f"the installed format {name!r} writes names that end in {ending!r}, too",
            )


def _check_own_files(subject: FormatSubject, nothing: None) -> None:
    for what, sample in subject.every_sample():
        with odd_folder() as folder:
            path = sample.write(folder)
            require(subject.recognizes(what, path), f"its own {what} is not recognized: {path}")
            os.chdir(folder)
            require(
                subject.recognizes(what, sample.path),
                f"its own {what} is not recognized by its relative path {sample.path!r}",
            )
            for name, other in _other_formats(subject.form).items():
                if not callable(getattr(other, f"recognizes_{what}", None)):
                    continue
                is_taken = False
                with contextlib.suppress(Exception):  # The other format's own checks report it.
                    is_taken = getattr(other, f"recognizes_{what}")(path)
                require(
                    not is_taken,
                    f"the installed format {name!r} recognizes its {what} {sample.path!r}, too",
                )


def _check_foreign(subject: FormatSubject, nothing: None) -> None:
    heads = [
        content[:16] for sample in subject.samples.values() for content in sample.files.values()
    ]
    with odd_folder() as folder:
        paths = {}
        for number, (name, content) in enumerate(foreign_files().items()):
            file = folder / f"foreign{number}" / "something"
            file.parent.mkdir()
            file.write_bytes(content)
            if not is_of_its_form(content, heads):
                paths[name] = file
                paths[f"a directory that holds {name}"] = file.parent
        (folder / "empty").mkdir()
        (folder / "denied").write_bytes(b"secret")
        (folder / "denied").chmod(0)
        paths |= {
            "a directory": folder,
            "an empty directory": folder / "empty",
            "a path where nothing is": folder / "missing",
            "a path below a file": folder / "denied" / "x",
            "a file that may not be read": folder / "denied",
        }
        for what in subject.whats:
            for name, path in paths.items():
                try:
                    found = subject.recognizes(what, str(path))
                except BrokenClauseError as error:
                    raise BrokenClauseError(f"for {name}, {error}") from error
                require(not found, f"recognizes {name} as a {what} of its form")


def _check_pipes(subject: FormatSubject, nothing: None) -> None:
    if not hasattr(os, "mkfifo"):
        raise NotTriedError("this system has no pipes with names")
    with odd_folder() as folder:
        endings = {Path(sample.path).suffix for sample in subject.samples.values()}
        for what in subject.whats:
            for ending in sorted(endings | {""}):
                pipe = folder / f"{what}{ending}"
                os.mkfifo(pipe)
                require(
                    not _opens(functools.partial(subject.recognizes, what, str(pipe)), pipe),
                    f"recognizes_{what} opens a pipe, and waits for a writer; ask os.path.isfile "
                    "first",
                )


def _opens(recognize: Callable[[], bool], pipe: Path) -> bool:
    def run() -> None:
        with contextlib.suppress(BrokenClauseError):  # The check of foreign files reports it.
            recognize()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PIPE_SECONDS)
    is_waiting = thread.is_alive()
    for _ in range(100):  # Lets the thread go on: a writer opens the pipe and closes it at once.
        if not thread.is_alive():
            break
        with contextlib.suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        thread.join(0.01)
    return is_waiting


def _require_prompt(found: Any) -> None:
    """Requires that a result of `read_prompt` is a prompt, which may have any values if damaged."""
    require(isinstance(found, Prompt), f"read_prompt returned {type(found).__name__}")
    require(
        found.array is not None or found.module is not None,
        "read_prompt returned neither an array nor a prompt module",
    )
    require(
        isinstance(found.provenance, Mapping),
        f"the provenance is {type(found.provenance).__name__}, expected a mapping",
    )
    if found.array is not None:
        array = found.array
        require(isinstance(array, np.ndarray), f"the array is {type(array).__name__}")
        require(array.dtype == np.float32, f"the array is {array.dtype}, expected float32")
        require(
            array.ndim == 2 and min(array.shape) >= 1,
            f"the array has the shape {array.shape}, expected (P, H)",
        )


def _check_reads_prompts(subject: FormatSubject, nothing: None) -> None:
    sample = subject.sample("prompt")
    with odd_folder() as folder:
        path = sample.write(folder)
        found = subject.format.read_prompt(path)  # The first call may import and warm up.
        with watching.Audit.watch() as audit:
            again = subject.format.read_prompt(path)
        require(not audit.does, f"read_prompt {', '.join(audit.does)}")
        require(content_of(folder) == sample.files, "reading a prompt changes the files")
        _require_prompt(found)
        try:
            json.dumps(dict(found.provenance), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BrokenClauseError(f"the provenance is not JSON: {error}") from error
        require(found.provenance == again.provenance, "the provenance differs between two reads")
        if found.array is None:
            return
        require(np.isfinite(found.array).all(), "the array is not finite")
        require(
            found.array.tobytes() == again.array.tobytes(), "the array differs between two reads"
        )
        _require_shapes(subject, path, found.array)


def _require_shapes(subject: FormatSubject, path: str, array: np.ndarray) -> None:
    """Requires that a prompt is read if its own shape is given, and refused with another shape."""
    rows, width = array.shape
    same = subject.format.read_prompt(path, (rows, width))
    require(same.array.tobytes() == array.tobytes(), "with its shape, it reads another array")
    for shape in ((rows + 1, width), (rows, width + 1), (width + 1, rows)):
        try:
            found = subject.format.read_prompt(path, shape)
        except InputError as error:
            numbers = set(re.findall(r"\d+", str(error).replace(path, "")))
            missing = {str(n) for n in (rows, width, *shape)} - numbers
            require(
                not missing,
                f"the error for the shape {shape} does not name both shapes, this one and "
                f"({rows}, {width}): {error}",
            )
        else:
            raise BrokenClauseError(
                f"a prompt ({rows}, {width}) is read with the shape {shape}, as "
                f"{None if found.array is None else found.array.shape}"
            )


def _check_round_trip(subject: FormatSubject, shape: tuple[int, int]) -> None:
    if not subject.writes:
        raise NotTriedError("it writes no prompts")
    with odd_folder() as folder:
        path = subject.path_to_write(folder)
        for time, facts in enumerate((FACTS, {"step": 8}), 1):  # The second replaces the first.
            array = subject.array(shape) * np.float32(time)
            given = array.copy()
            subject.format.write_prompt(path, given, facts)
            require(given.tobytes() == array.tobytes(), "write_prompt changes the array")
            require(subject.recognizes("prompt", path), "what it wrote is not recognized")
            found = subject.format.read_prompt(path)
            _require_prompt(found)
            again = "" if time == 1 else " that replaced another"
            require(
                found.array is not None
                and found.array.shape == shape
                and found.array.tobytes() == array.tobytes(),
                f"the array of a file{again} differs from what was written",
            )
            kept = {name: found.provenance.get(name) for name in facts}
            require(
                kept == dict(facts) and (time == 1 or "seeds" not in found.provenance),
                f"the provenance of a file{again} is {dict(found.provenance)!r}, and {facts!r} was "
                "written",
            )


def _check_cannot_write(subject: FormatSubject, nothing: None) -> None:
    if not subject.writes:
        raise NotTriedError("it writes no prompts")
    with odd_folder() as folder:
        (folder / "file").write_bytes(b"text")
        in_the_way = Path(subject.path_to_write(folder))
        if subject.format.prompt_endings[0] == "/":
            in_the_way.write_bytes(b"text")
        else:
            (in_the_way / "inside").mkdir(parents=True)
        before = set(folder.rglob("*"))
        for name, path in {
            "over a directory" if in_the_way.is_dir() else "over a file": str(in_the_way),
            "below a file": subject.path_to_write(folder / "file"),
        }.items():
            try:
                subject.format.write_prompt(path, subject.array((2, 3)), FACTS)
            except InputError as error:
                _require_one_line(error, path)
            except Exception as error:  # A writer may raise anything.
                found = f"to write {name} raises {one_line(error)}, expected an InputError"
                raise BrokenClauseError(found) from error
            else:
                raise BrokenClauseError(f"to write {name} is no error")
            changed = sorted(file.name for file in set(folder.rglob("*")) ^ before)
            require(not changed, f"to write {name} is an error, and leaves or takes {changed[:3]}")


def _require_one_line(error: Exception, path: str, *names: str) -> None:
    """Requires that an error has one line, and names the path or one of the files."""
    text = str(error)
    require("\n" not in text.strip(), f"an error has several lines: {text!r}")
    known = (os.path.basename(path), *names)
    require(any(name in text for name in known), f"an error does not name the file: {text}")


@dataclasses.dataclass(frozen=True)
class Damage:
    """A change of one file of a sample.

    Attributes:
      kind: "cut", "flip" or "fill".
      seed: Determines the file, the place and the values.
    """

    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} {self.seed}"

    def of(self, sample: Sample) -> tuple[Sample, str]:
        """Returns a damaged sample, and the name of the damaged file."""
        generator = np.random.default_rng(self.seed)
        names = [name for name, content in sample.files.items() if content]
        name = names[int(generator.integers(len(names)))]
        content = bytearray(sample.files[name])
        # Half of the places are in the first bytes, where a header is.
        most = len(content) if generator.integers(2) else min(len(content), 200)
        place = int(generator.integers(most))
        if self.kind == "cut":
            del content[place:]
        elif self.kind == "flip":
            for _ in range(int(generator.integers(1, 4))):
                content[int(generator.integers(most))] ^= 1 << int(generator.integers(8))
        else:
            value = int(generator.choice([0, 0x39, 0xFF]))  # 0x39 is the digit 9.
            count = min(int(generator.integers(1, 9)), len(content) - place)
            content[place : place + count] = bytes([value]) * count
        return sample.with_file(name, bytes(content)), name


def _damages(subject: FormatSubject) -> SearchStrategy[Damage]:
    from hypothesis import strategies

    kinds = checks.integers(0, 2).map(lambda n: ("cut", "flip", "fill")[n])
    return strategies.builds(Damage, kinds, subject.seeds())


def _check_damage(subject: FormatSubject, damage: Damage) -> None:
    for what, sound in subject.every_sample():
        sample, name = damage.of(sound)
        with odd_folder() as folder:
            subject.warm(what)
            path = sample.write(folder)
            where = f"{what}, damaged in {name}"
            with _memory() as memory:
                try:
                    _in_time(functools.partial(subject.recognizes, what, path), where)
                    found = _in_time(
                        functools.partial(subject.read, what, path, damage.seed), where
                    )
                    if what == "prompt":
                        _require_prompt(found)
                except PromptTuningError as error:
                    _require_one_line(error, path, os.path.basename(name))
                except BrokenClauseError as error:
                    raise BrokenClauseError(f"{where}: {error}") from error
                except Exception as error:  # A reader may raise anything.
                    raise BrokenClauseError(
                        f"{where}: raises {one_line(error)}, expected an InputError"
                    ) from error
            limit = 8 * sample.size + _LITTLE
            require(
                memory[0] <= limit,
                f"{where}: reading {sample.size} bytes takes {memory[0] >> 20} MiB of memory",
            )


def _check_models(subject: FormatSubject, nothing: None) -> None:
    sample = subject.sample("model")
    with odd_folder() as folder:
        path = sample.write(folder)
        model = subject.format.open_model(path)
        require(model.variables, "a model has no variables")
        require(
            type(model.step) is int and model.step >= 0,
            f"the step is {model.step!r}, expected a number of at least 0",
        )
        for name, variable in model.variables.items():
            require("/" in name, f"a variable is {name!r}, expected names joined by '/'")
            _require_variable(name, variable)
        generator = np.random.default_rng(subject.seed)
        for chosen in generator.permutation(sorted(model.variables))[:6]:
            _require_values(model, str(chosen), generator)
        tables = [n for n, v in sorted(model.variables.items()) if _is_table(v)]
        for chosen in tables[:2]:
            _require_values(model, chosen, generator)
        for method in (model.read, lambda name: model.rows(name, np.array([0]))):
            try:
                found = method("no/such/variable")
            except (PromptTuningError, LookupError):
                continue
            raise BrokenClauseError(f"a variable that is not there is {found!r}, expected an error")
        require(content_of(folder) == sample.files, "reading a model changes the files")


def _require_variable(name: str, variable: Any) -> None:
    require(isinstance(variable, Variable), f"{name!r} is {variable!r}, expected a Variable")
    require(
        isinstance(variable.shape, tuple) and all(type(n) is int for n in variable.shape),
        f"{name!r} has the shape {variable.shape!r}, expected a tuple of ints",
    )
    require(isinstance(variable.dtype, str), f"{name!r} has the dtype {variable.dtype!r}")


def _is_table(variable: Variable) -> bool:
    return len(variable.shape) == 2 and variable.dtype in ("float32", "bfloat16", "float16")


def _require_values(model: Any, name: str, generator: np.random.Generator) -> None:
    """Requires that a variable is read as the index describes it, whole and by rows."""
    variable: Variable = model.variables[name]
    whole = model.read(name)
    require(
        whole.shape == variable.shape and whole.dtype.name == variable.dtype,
        f"read({name!r}) is {whole.dtype.name} {whole.shape}, and the index says {variable.dtype} "
        f"{variable.shape}",
    )
    require(whole.tobytes() == model.read(name).tobytes(), f"{name!r} differs between two reads")
    if not _is_table(variable):
        return
    height = variable.shape[0]
    ids = np.array([height - 1, 0, *generator.integers(0, height, 3), 0])
    rows = model.rows(name, ids)
    require(
        rows.dtype == np.float32 and rows.shape == (len(ids), variable.shape[1]),
        f"rows of {name!r} are {rows.dtype} {rows.shape}, expected float32 "
        f"{(len(ids), variable.shape[1])}",
    )
    require(
        rows.tobytes() == whole[ids].astype(np.float32).tobytes(),
        f"rows({name!r}, {ids.tolist()}) differ from those of the whole variable",
    )


class _Trap:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._folder,)


def _check_no_pickle(subject: FormatSubject, nothing: None) -> None:
    for what, sample in subject.every_sample():
        with odd_folder() as folder:
            opened = folder / "opened"
            path = sample.write(folder)
            for name, content in list(sample.files.items())[:8]:
                for variant, trap in _traps(content, str(opened)).items():
                    (folder / name).write_bytes(trap)
                    with contextlib.suppress(Exception):  # The check of damage reports it.
                        subject.recognizes(what, path)
                        subject.read(what, path)
                    require(
                        not opened.exists(),
                        f"{what}: reading {variant} as {name} runs the code in it; never load a "
                        "pickle",
                    )
                (folder / name).write_bytes(content)


def _traps(content: bytes, folder: str) -> dict[str, bytes]:
    """Returns contents that replace a sound file's content, and make a folder if unpickled."""
    trap = _Trap(folder)
    array = np.empty((2, 3), object)
    array[:] = trap
    pickled, npy = pickle.dumps(trap, 2), npy_bytes(array)
    inside = re.search(rb"\x80[\x02-\x05]", content)
    before = content[: inside.start()] if inside else content[:16]
    return {
        "a pickle": pickled,
        "an array of objects": npy,
        "an archive of arrays of objects": zip_bytes("prompt.npy", npy),
        "a file that begins as its own and goes on as a pickle": before + pickled,
    }


def _check_light(subject: FormatSubject, nothing: None) -> None:
    for what, sample in subject.every_sample():
        with odd_folder() as folder:
            path = sample.write(folder)
            subject.warm(what)
            for name in sample.files:
                os.truncate(folder / name, _LARGE)  # A file with holes: it takes no space.
            before = _bytes_read()
            with _memory() as memory, watching.Audit.watch() as audit:
                subject.recognizes(what, path)
            size = f"a {what} of {_LARGE >> 20} MiB"
            require(
                memory[0] <= _LITTLE,
                f"to recognize {size} takes {memory[0] >> 20} MiB of memory; read its first bytes",
            )
            count = _bytes_read() - before
            require(
                count <= _LITTLE,
                f"to recognize {size} reads {count >> 20} MiB; read its first bytes",
            )
            require(not audit.does, f"recognizes_{what} {', '.join(audit.does)}")


FORMAT_CHECKS: tuple[Check[FormatSubject], ...] = (
    Check(
        "methods",
        1,
        "it is made without arguments, and has both methods of each pair: one recognizes, one "
        "reads",
        _check_methods,
        is_needed=True,
    ),
    Check(
        "endings",
        1,
        "the endings of the names that it writes are its own",
        _check_endings,
    ),
    Check(
        "own_files",
        2,
        "it recognizes its own files by any path to them, and no other installed format does",
        _check_own_files,
    ),
    Check(
        "foreign",
        3,
        "it recognizes no file of another form, and raises no error for any path",
        _check_foreign,
    ),
    Check("pipes", 3, "it opens no pipe, which would wait for a writer", _check_pipes),
    Check(
        "reads_prompts",
        4,
        "it reads a prompt as a finite float32 [P, H] with its provenance, the same each time, and "
        "refuses another shape",
        _check_reads_prompts,
    ),
    Check(
        "round_trip",
        5,
        "a prompt that it writes, even over another, is read with the same bits and provenance",
        _check_round_trip,
        lambda subject: checks.integers(1, 24).map(lambda n: (n, 25 - n)),
        lambda subject: _SHAPES,
        most=2,
    ),
    Check(
        "cannot_write",
        5,
        "where it cannot write, it raises an InputError and leaves nothing",
        _check_cannot_write,
    ),
    Check(
        "damage",
        6,
        "a damaged file is read, or raises an InputError of one line that names it; both take "
        "little time and memory",
        _check_damage,
        _damages,
        lambda subject: [Damage("cut", n) for n in range(4)],
    ),
    Check(
        "models",
        7,
        "a model's variables are read as its index describes them, whole and by rows",
        _check_models,
    ),
    Check("no_pickle", 8, "it loads no pickle, wherever it is", _check_no_pickle),
    Check(
        "light",
        9,
        "to recognize a large file, it reads little, and changes nothing",
        _check_light,
    ),
)

CONTRACT = Contract(FORMAT_CHECKS, format_subject, examples=20)
