"""Prompt files: a float32 array `[P, H]` as `.npy`, and its provenance as `.json` next to it.

Numpy alone can read the array. Both files are written atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import types
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import readable, strict_json
from prompt_tuning_files.npy_header import read_npy_header

# Not ".npy": numpy and people would mistake a leftover for a prompt.
_TEMPORARY = ".partial"

BEST = "best_prompt"
"""The file name, without its ending, of the prompt of a run with the best BEST_METRIC."""

ENDINGS = (".npy", ".safetensors")
"""The endings of a run's prompts: a plain prompt, and a prompt module with all of its arrays."""

_REFERENCE = "numpy_checkpoints"
_REFERENCE_STEP = re.compile(r"checkpoint_(\d+)")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a temporary file next to `path`, which replaces `path` if the block succeeds.

    The content is on the disk before the name changes, so a crash leaves either the old file or the
    new one. `remove_leftovers` removes the temporary file of a killed process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets only the owner read; a prompt gets the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:  # An interruption, too, leaves no temporary file.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    text = strict_json.dumps(value, indent=2) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def remove_leftovers(directory: str | os.PathLike[str]) -> None:
    """Removes the temporary files that killed saves left in `directory`."""
    for path in Path(directory).glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def save(path: str | os.PathLike[str], prompt: np.ndarray, provenance: Mapping[str, Any]) -> None:
    """Writes a prompt and its provenance.

    Args:
      path: The path to write to, ending in `.npy`. The provenance goes to the same name with
        `.json`.
      prompt: `[P, H]`; stored as float32.
      provenance: JSON-serialisable facts: model, task, initializer, seed, step, metrics, versions.
        The prompt's shape and checksum are added.

    Raises:
      InputError: If `path` does not end in `.npy` or `prompt` is not a matrix.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(f"{path}: the name of a prompt file ends in .npy")
    prompt = np.ascontiguousarray(prompt, np.float32)
    if prompt.ndim != 2:
        raise InputError(f"{path}: found a prompt of shape {prompt.shape}, expected (P, H)")
    facts = with_checksum(prompt, provenance)
    # The provenance first: so no prompt is without one. Its checksum shows if the two differ.
    write_json(path.with_suffix(".json"), facts)
    with atomic_write(path) as file:
        np.save(file, prompt, allow_pickle=False)


def load(path: str | os.PathLike[str], shape: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a prompt without its provenance; takes and raises the same as `read`.

    Returns:
      `[P, H]` float32.
    """
    return read(path, shape)[0]


def read(
    path: str | os.PathLike[str], shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads a prompt and its provenance.

    Args:
      path: A `.npy` file. The ending may be missing, as in the prompt files of the reference.
      shape: The `(P, H)` it must have; None for any.

    Returns:
      `[P, H]` float32, and the provenance, empty if there is none.

    Raises:
      InputError: If the file is missing, corrupt, pickled, not a floating matrix, of another shape,
        or does not match the checksum in its provenance.
    """
    name = f"prompt {path}"
    provenance = read_provenance(path)
    try:
        with open(path, "rb") as file:
            found = read_npy_header(file, os.fstat(file.fileno()).st_size, name).shape
            check_shape(name, found, shape, provenance)
            file.seek(0)
            with readable.fits_in_memory(name, found):
                array = np.load(file, allow_pickle=False)
    except OSError as e:
        raise InputError(f"{name}: can't be read: {e.strerror or e}") from None
    array = readable.cast(array, "float32", name)
    check_checksum(name, array, provenance, Path(path).with_suffix(".json"))
    return array, provenance


def with_checksum(array: np.ndarray, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a provenance with the shape and the checksum of `array` `[P, H]` float32."""
    own = {"shape": list(array.shape), "sha256": checksum(array)}
    # First, where people see them; and last, to replace the facts of the prompt's other form.
    return {**own, **provenance, **own}


def check_shape(
    name: str,
    found: tuple[int, ...],
    expected: tuple[int, int] | None,
    provenance: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Checks the shape that a file states for its prompt.

    Args:
      name: The name of the file in errors.
      found: The shape.
      expected: The `(P, H)` that it must be; None for any two sizes.
      provenance: The prompt's provenance; errors name the model it was trained for.

    Raises:
      InputError: If the shape is different.
    """
    if expected is not None and found != tuple(expected):
        model = provenance.get("model")
        trained_for = model.get("path") if isinstance(model, Mapping) else None
        raise InputError(
            f"{name}: has shape {found}, expected {tuple(expected)}; set PROMPT_LENGTH to its "
            "first number, or use a prompt of this model"
            + (f" (by its provenance, this one is of {trained_for})" if trained_for else "")
        )
    if len(found) != 2 or min(found) < 1:
        raise InputError(f"{name}: has shape {found}, expected (P, H)")


def check_checksum(
    name: str, array: np.ndarray, provenance: Mapping[str, Any], where: object
) -> None:
    """Compares a prompt with the checksum in its provenance, if there is one.

    Args:
      name: The name of the file in errors.
      array: float32 `[P, H]`.
      provenance: Its provenance.
      where: The place of the provenance, for errors.

    Raises:
      InputError: If the checksum differs.
    """
    recorded = provenance.get("sha256")
    if recorded is not None and recorded != checksum(array):
        raise InputError(
            f"{name}: its content does not match the checksum in {where}; restore the file, or "
            "remove its provenance"
        )


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the provenance in the file next to the prompt `path`; empty if there is none.

    Raises:
      InputError: If the file cannot be read, or is not a JSON object.
    """
    path = Path(path).with_suffix(".json")
    return strict_json.read_object(path, f"provenance {path}") if path.exists() else {}


def name_at(step: int) -> str:
    """Returns the file name of the plain prompt that a run saves at `step`."""
    return f"prompt_{step}.npy"


def by_step(directory: str | os.PathLike[str], *, whole: bool = False) -> list[Path]:
    """Returns the prompts in a run's directory, one for each step, in the order of the steps.

    Args:
      directory: The directory.
      whole: The file to return for a prompt in both forms: True for `.safetensors`, False for
        `.npy`.
    """
    steps = {_own_step(path.name) for path in Path(directory).glob("prompt_*")}
    stems = [Path(directory) / f"prompt_{step}" for step in sorted(steps - {None})]  # type: ignore[type-var]  # None is out.
    return [path for stem in stems if (path := _form_of(stem, whole)) is not None]


def newest(directory: str | os.PathLike[str], *, whole: bool = False) -> Path | None:
    """Returns the prompt of the highest step in a run's directory, or None; see `by_step`."""
    return next(reversed(by_step(directory, whole=whole)), None)


def best_or_newest(directory: str | os.PathLike[str], *, whole: bool = False) -> Path | None:
    """Returns a run's best prompt if it kept one, else its newest, or None; see `by_step`."""
    best = _form_of(Path(directory) / BEST, whole)
    return newest(directory, whole=whole) if best is None else best


def best_or_newest_of(names: Iterable[str]) -> str | None:
    """Returns the one of these file names that `best_or_newest` would choose; None if none is."""
    names = set(names)
    steps = [step for name in names if (step := _own_step(name)) is not None]
    for stem in [BEST, *([f"prompt_{max(steps)}"] if steps else [])]:
        for ending in ENDINGS:
            if stem + ending in names:
                return stem + ending
    return None


def files_of(prompt: Path) -> list[Path]:
    """Returns all files that a prompt may have: its forms, and the provenance."""
    return [prompt.with_suffix(ending) for ending in (*ENDINGS, ".json")]


def is_best(path: str | os.PathLike[str]) -> bool:
    """Checks whether a file is a run's best prompt, by its name."""
    return Path(path).stem == BEST


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Checks whether a file is a `.npz` archive, which may hold several arrays."""
    return os.path.isfile(path) and zipfile.is_zipfile(path)


def _form_of(stem: Path, whole: bool) -> Path | None:
    forms = [stem.with_name(stem.name + ending) for ending in ENDINGS]
    return next((path for path in (forms[::-1] if whole else forms) if path.is_file()), None)


def _own_step(name: str) -> int | None:
    match = re.fullmatch(r"prompt_([0-9]+)\.(?:npy|safetensors)", name)
    return int(match[1]) if match else None


def step_of(path: str | os.PathLike[str]) -> int | None:
    """Returns the step in a prompt's path; None if it has none.

    For example, 7 for `prompt_7.npy`, and for a prompt of the reference in `checkpoint_7/`.
    """
    path = Path(path)
    step = _own_step(path.name)
    if step is None and path.parent.parent.name == _REFERENCE:
        match = _REFERENCE_STEP.fullmatch(path.parent.name)
        step = int(match[1]) if match else None
    return step


def of_reference(directory: Any) -> Any:
    """Finds the prompt in a run's directory of the reference, google-research/prompt-tuning.

    Its runs write `numpy_checkpoints/checkpoint_STEP/NAME`, a `.npy` file without an ending.

    Args:
      directory: The run's directory, its `numpy_checkpoints`, or a `checkpoint_STEP` in that: an
        absolute `pathlib.Path` or `etils.epath.Path`.

    Returns:
      The path of the prompt of the highest step; None if it is no such directory.

    Raises:
      InputError: If there is no step, or not exactly one prompt in it.
    """
    if directory.parent.name == _REFERENCE and _REFERENCE_STEP.fullmatch(directory.name):
        step = directory
    else:
        parent = directory if directory.name == _REFERENCE else directory / _REFERENCE
        if not parent.is_dir():
            return None
        steps = {
            int(match[1]): path
            for path in parent.iterdir()
            if (match := _REFERENCE_STEP.fullmatch(path.name))
        }
        if not steps:
            raise InputError(f"prompt {parent}: a directory without prompts (checkpoint_STEP/…)")
        step = steps[max(steps)]
    if not step.is_dir():
        return None
    files = sorted(path for path in step.iterdir() if _is_npy(path))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise InputError(
            f"prompt {step}: expected one file that numpy wrote, found {names}; give the path of "
            "the prompt itself"
        )
    return files[0]


def _is_npy(path: Any) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return bool(file.read(6) == b"\x93NUMPY")
    except OSError as e:
        raise InputError(f"prompt {path}: can't be read: {e.strerror or e}") from None


def checksum(prompt: np.ndarray) -> str:
    """Returns the SHA-256 of a float32 array's bytes in C order, as hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(prompt, np.float32).tobytes()).hexdigest()
