"""An array from a file: a prompt that was trained before, or made elsewhere."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core import prompt_files
from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_core.initializers import prompt_shape
from prompt_tuning_core.npy import read_npy_header

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import Initializer

__all__ = ["init_file"]


def init_file(path: str | os.PathLike[str], key: str | None = None) -> Initializer:
    """Makes an initializer that returns the array in a file.

    The file is opened when the initializer is called, and its data read only if its shape is the
    prompt's. What kind of file it is, its content says and not its name.

    Args:
      path: A `.npy` file with `[P, H]` in float16, float32 or float64; the prompts that the
        reference saves have no ending, and are such files. Or a `.npz` archive with one. Or the
        directory of a training run: its prompt of the highest step.
      key: The array's name in an archive; may be None if the archive has one array.

    Returns:
      A function `(rng, shape) -> [P, H]` float32, which ignores `rng`. It raises `InputError`, a
      `ValueError`, if the array's shape isn't `shape`, or if the file is missing, damaged, pickled
      or of another dtype, holds values that aren't finite, has no such key, or doesn't match the
      checksum in the provenance beside it.

    Raises:
      InputError: If `path` is no path or `key` no string.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"path is {path!r}, expected a .npy or .npz file; set PROMPT_FILE")
    if key is not None and not isinstance(key, str):
        raise InputError(f"key is {key!r}, expected the name of an array in a .npz archive")

    def initialize(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        del rng  # The signature is every initializer's.
        expected = prompt_shape(shape)
        file = _newest_of(Path(path)) if Path(path).is_dir() else Path(path)
        try:
            with file.open("rb") as stream:
                if zipfile.is_zipfile(stream):
                    prompt = _from_npz(stream, file, key, expected)
                else:
                    prompt = _from_npy(file, key, expected)
        except OSError as error:
            raise InputError(f"prompt {file}: can't be read: {error.strerror or error}") from error
        if not np.isfinite(prompt).all():
            raise InputError(f"prompt {file}: has values that aren't finite; did training diverge?")
        return jnp.asarray(prompt, jnp.float32)

    return initialize


init_file.uses_rng = False  # type: ignore[attr-defined]


def _newest_of(directory: Path) -> Path:
    newest = prompt_files.newest(directory)
    if newest is None:
        raise InputError(
            f"prompt {directory}: a directory without prompts, expected a file, or the directory "
            "of a training run, which holds prompt_STEP.npy"
        )
    return newest


def _from_npy(file: Path, key: str | None, shape: tuple[int, int]) -> np.ndarray:
    if key is not None:
        raise InputError(f"prompt {file}: key is {key!r}, but the file is no .npz archive")
    return prompt_files.load(file, shape)


def _from_npz(stream: IO[bytes], file: Path, key: str | None, shape: tuple[int, int]) -> np.ndarray:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            if key is None and len(members) != 1:
                raise InputError(
                    f"prompt {file}: has {len(members)} arrays; set key to one of "
                    f"{', '.join(sorted(members))}"
                )
            if key is not None and key not in members:
                raise InputError(f"prompt {file}: has no array {key!r}{nearest(key, members)}")
            name = members[key] if key is not None else next(iter(members.values()))
            size = archive.getinfo(name).file_size
            with archive.open(name) as member:
                header = read_npy_header(member, size, f"prompt {file}, {name}")
                _check_shape(header.shape, shape, f"prompt {file}, {name}")
                data = member.read()  # Checks the checksum at its end.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        # The last two: encrypted, or compressed in a way that this Python can't undo.
        raise InputError(
            f"prompt {file}: a damaged .npz archive ({error}); copy it again"
        ) from error
    array = np.frombuffer(data, header.dtype)
    array = array.reshape(shape[::-1]).T if header.fortran_order else array.reshape(shape)
    with np.errstate(over="ignore"):  # Of float64; told by the caller as not finite.
        return array.astype(np.float32)


def _check_shape(found: tuple[int, ...], expected: tuple[int, int], name: str) -> None:
    if found != expected:
        raise InputError(
            f"{name}: has shape {found}, expected {expected}; set PROMPT_LENGTH to its first "
            "number, or use a prompt of this model"
        )
