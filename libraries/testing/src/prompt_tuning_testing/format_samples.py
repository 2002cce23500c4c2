"""Files of a format's own form, and files of other forms, for the checks of formats."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_tuning_core.errors import InputError, one_line
from prompt_tuning_files.formats import PromptWriter
from prompt_tuning_testing import checks
from prompt_tuning_testing.checks import BrokenClauseError, NotTriedError, require

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

PAIRS = {
    "prompt": ("recognizes_prompt", "read_prompt"),
    "model": ("recognizes_model", "open_model"),
}
"""The methods of a format that reads prompts, and of one that reads models."""

FACTS: Mapping[str, Any] = {"step": 7, "task": {"name": "wörter"}, "seeds": [1, 2.5, None, True]}
"""A provenance to write."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A prompt or a model of a format's own form.

    Attributes:
      path: Its path within the folder that it is written to.
      files: The content of each file by its path within the folder.
    """

    path: str
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> str:
        """Writes the files to a folder, and returns the path of the prompt or the model."""
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return str(folder / self.path)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(map(len, self.files.values()))

    def with_file(self, name: str, content: bytes) -> Sample:
        """Returns a copy of the sample in which one file has another content."""
        return dataclasses.replace(self, files={**self.files, name: content})


@dataclasses.dataclass(frozen=True)
class FormatSubject:
    """A format class, and how to make files of its form.

    Attributes:
      form: The class.
      arguments: A function from a folder, to which it writes files, to the paths of a "prompt" and
        a "model" there; None to use the class's own `sample_prompt` and `sample_model`.
      seed: Determines the content of the written files.
    """

    form: Any
    arguments: Callable[[Path], Mapping[str, str | os.PathLike[str]]] | None = None
    seed: int = 0

    @functools.cached_property
    def format(self) -> Any:
        """An instance."""
        return self.form()

    @property
    def whats(self) -> list[str]:
        """The kinds of files that it reads: "prompt", "model", or both."""
        return [what for what, pair in PAIRS.items() if all(map(self._has, pair))]

    def _has(self, method: str) -> bool:
        return callable(getattr(self.form, method, None))

    @property
    def writes(self) -> bool:
        """True if it writes prompts."""
        return isinstance(self.format, PromptWriter)

    @functools.cached_property
    def samples(self) -> dict[str, Sample]:
        """A sample of each kind of files that it reads, as far as it can be made."""
        made = {}
        for what in self.whats:
            with tempfile.TemporaryDirectory(prefix="prompt-tuning-check-") as folder:
                path = self._made(what, Path(folder))
                if path is not None:
                    made[what] = _sample(Path(path), Path(folder), what)
        return made

    def _made(self, what: str, folder: Path) -> str | os.PathLike[str] | None:
        given = {} if self.arguments is None else self.arguments(folder)
        if what in given:
            return given[what]
        make = getattr(self.form, f"sample_{what}", None)
        if make is not None:
            found: str | os.PathLike[str] = make(folder)
            return found
        if what == "prompt" and self.writes:
            path = self.path_to_write(folder)
            self.format.write_prompt(path, self.array((3, 8)), FACTS)
            return path
        return None

    def path_to_write(self, folder: Path) -> str:
        """Returns a path whose ending asks for this form."""
        ending = self.format.prompt_endings[0]
        return str(folder / ("prompt" if ending == "/" else f"prompt{ending}"))

    def array(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns a prompt with values that a form with fewer bits would change."""
        array = np.random.default_rng(self.seed).standard_normal(shape).astype(np.float32)
        odd = np.array([-0.0, 1e-40, np.finfo(np.float32).max / 4], np.float32)[: array.size]
        array.flat[: odd.size] = odd
        return array

    def every_sample(self) -> list[tuple[str, Sample]]:
        """Returns all samples with their kinds.

        Raises:
          NotTriedError: If there is none.
        """
        if not self.samples:
            raise NotTriedError(_missing(self.whats[0]))
        return list(self.samples.items())

    def sample(self, what: str) -> Sample:
        """Returns the sample of a prompt or of a model.

        Raises:
          NotTriedError: If there is none.
        """
        if what not in self.whats:
            raise NotTriedError(f"it reads no {what}s")
        if what not in self.samples:
            raise NotTriedError(_missing(what))
        return self.samples[what]

    def recognizes(self, what: str, path: str) -> bool:
        """Returns the format's answer for a path; any exception breaks the clause."""
        try:
            return bool(getattr(self.format, f"recognizes_{what}")(path))
        except Exception as error:  # A format may raise anything.
            raise BrokenClauseError(f"recognizes_{what} raises {one_line(error)}") from error

    def read(self, what: str, path: str, seed: int = 0) -> Any:
        """Reads a prompt; or opens a model and reads some of its variables."""
        if what == "prompt":
            return self.format.read_prompt(path)
        model = self.format.open_model(path)
        names = sorted(model.variables)
        for name in np.random.default_rng(seed).permutation(names)[:4]:
            model.read(str(name))
        return model

    @functools.cached_property
    def _warmed(self) -> set[str]:
        return set()

    def warm(self, what: str) -> None:
        """Reads a sound sample once, so that the format has imported what it needs."""
        if what not in self._warmed:
            self._warmed.add(what)
            with odd_folder() as folder:
                path = self.samples[what].write(folder)
                self.recognizes(what, path)
                self.read(what, path)

    def seeds(self) -> SearchStrategy[int]:
        """Makes the strategy of the seeds of damage."""
        return checks.integers(0, 9999)


def format_subject(
    plugin: Any,
    arguments: Callable[[Path], Mapping[str, str | os.PathLike[str]]] | None = None,
    *,
    seed: int = 0,
    max_examples: int = 20,
) -> FormatSubject:
    """Returns the subject of the checks.

    Args:
      plugin: The format class.
      arguments: A function from a folder, to which it writes files, to the paths of a "prompt" and
        a "model" there; a format that writes prompts needs none.
      seed: Determines the content of the written files.
      max_examples: Not used: each check draws its own.

    Raises:
      InputError: If the arguments are no function.
    """
    del max_examples
    if arguments is not None and not callable(arguments):
        raise InputError(
            f"the arguments of a format are {arguments!r}, expected a function from a folder to "
            "{'prompt': path, 'model': path}"
        )
    return FormatSubject(plugin, arguments, seed)


def _sample(path: Path, folder: Path, what: str) -> Sample:
    if not path.is_relative_to(folder) or not path.exists():
        raise BrokenClauseError(
            f"the sample of a {what} is {path}, expected a file or a folder in the folder that is "
            "given"
        )
    content = content_of(folder)
    require(any(content.values()), f"the sample of a {what} has no content")
    return Sample(str(path.relative_to(folder)), content)


def content_of(folder: Path) -> dict[str, bytes]:
    """Returns the content of each file below a folder, by its path there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _missing(what: str) -> str:
    return (
        f"it has no sample of a {what}: declare sample_{what}(folder) as a static method of the "
        f"class, which writes one to the folder and returns its path, or give arguments"
    )


@contextlib.contextmanager
def odd_folder() -> Iterator[Path]:
    """Yields a folder with blanks and letters beyond ASCII in its name."""
    with tempfile.TemporaryDirectory(prefix="prompt-tuning-check-") as folder:
        inner = Path(os.path.realpath(folder), "a folder für 提示")
        inner.mkdir()
        yield inner


def npy_bytes(array: np.ndarray) -> bytes:
    """Returns the content of an `.npy` file; an array of Python objects is pickled."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=array.dtype == object)
    return stream.getvalue()


def zip_bytes(name: str, content: bytes) -> bytes:
    """Returns the content of an archive with one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def _safetensors(name: str, array: np.ndarray) -> bytes:
    header = {name: {"dtype": "F32", "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + array.tobytes()


@functools.cache
def foreign_files() -> Mapping[str, bytes]:
    """Returns the content of files of other forms, by their description."""
    generator = np.random.default_rng(0)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    npy, safetensors = npy_bytes(array), _safetensors("layer.bias", array)
    return {
        "an empty file": b"",
        **{f"{n} random bytes": generator.bytes(n) for n in (1, 2, 7, 8, 64, 4096)},
        **{f"{n} bytes of zeros": bytes(n) for n in (1, 8, 4096)},
        "a file of text": b"Some text.\nAnother line of it.\n",
        "a file of text in another encoding": "Grüße\n".encode("utf-16"),
        "a table of text": b"text,label\nthis is,1\nthat was,0\n",
        "a JSON object": b'{"name": "something", "values": [1, 2, 3]}\n',
        "a JSON list": b"[1, 2, 3]\n",
        "JSON Lines": b'{"text": "this is"}\n{"text": "that was"}\n',
        "an array of NumPy": npy,
        "the first bytes of an array of NumPy": npy[:5],
        "a truncated header of NumPy": npy[:40],
        "a pickle": pickle.dumps({"prompt": [1.0, 2.0]}),
        "an old pickle": pickle.dumps({"prompt": [1.0, 2.0]}, 0),
        "a zip archive": zip_bytes("something.txt", b"text"),
        "a safetensors file": safetensors,
        "a truncated header of safetensors": safetensors[:30],
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\n",
    }


def is_of_its_form(content: bytes, heads: Sequence[bytes]) -> bool:
    """True if a foreign file begins like a file of the sample, and so may have its form."""
    start = content[:4]
    json_inside = content[8:10] == b'{"'  # As in safetensors, after the length of the header.
    return any(
        head[:4] == start or (json_inside and head[8:10] == b'{"') for head in heads if start
    )
