"""An array from a file, for example a trained prompt."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import formats, prompt_files, readable, vocabularies
from prompt_tuning_files.initial_values import prompt_shape
from prompt_tuning_files.npy_header import read_npy_header

if TYPE_CHECKING:
    from prompt_tuning_core.protocols import Initializer
    from prompt_tuning_files.vocabularies import Vocabulary

__all__ = ["init_file"]


def init_file(
    path: str | os.PathLike[str], key: str | None = None, vocab: Vocabulary | None = None
) -> Initializer:
    """Makes an initializer that returns the array in a file.

    The initializer opens the file when it is called, and reads the data only if the shape is the
    prompt's. The content of the file decides its form, not its name.

    Args:
      path: A prompt in any form that an installed format plugin reads, such as `.npy`, safetensors,
        or a file of the reference, without an ending. Or a `.npz` archive with a prompt. Or the
        directory of a training run, for its best prompt (BEST_METRIC) or else the prompt of the
        highest step.
      key: The array's name in an archive; may be None if the archive has one array.
      vocab: The model's vocabulary. If it is a file on this machine
        (`vocab.sentencepiece_model_file`) and the prompt's provenance has the checksum of a
        vocabulary, the two must agree. None for no comparison.

    Returns:
      A function `(rng, shape) -> [P, H]` float32, which ignores `rng`. It raises `InputError`, a
      `ValueError`, if the array's shape isn't `shape`. The same error is raised if the file is
      missing, damaged, pickled or of another dtype, holds values that aren't finite, has no such
      key, doesn't match the checksum in its provenance, or was trained with another vocabulary.

    Raises:
      InputError: If `path` is no path or `key` no string.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"path is {path!r}, expected a .npy or .npz file; set PROMPT_FILE")
    if key is not None and not isinstance(key, str):
        raise InputError(f"key is {key!r}, expected the name of an array in a .npz archive")

    def initialize(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        del rng  # All initializers have this signature.
        expected = prompt_shape(shape)
        file = os.fspath(path)
        if prompt_files.is_archive(file):
            prompt = _from_npz(file, key, expected)
        elif key is not None:
            raise InputError(f"prompt {file}: key is {key!r}, but the file is no .npz archive")
        else:
            found = formats.read_prompt(file, expected)
            vocabularies.check_same(file, found.provenance.get("vocabulary"), vocab)
            prompt = found.matrix(file)
        if not np.isfinite(prompt).all():
            raise InputError(f"prompt {file}: has values that aren't finite; did training diverge?")
        return jnp.asarray(prompt, jnp.float32)

    return initialize


# Checks of initializers read this attribute; the type of a function has no attributes.
init_file.uses_rng = False  # type: ignore[attr-defined]


def _from_npz(file: str, key: str | None, shape: tuple[int, int]) -> np.ndarray:
    try:
        with zipfile.ZipFile(file) as archive:
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
                prompt_files.check_shape(f"prompt {file}, {name}", header.shape, shape)
                data = member.read()  # Checks the checksum at its end.
    except OSError as error:
        raise InputError(f"prompt {file}: can't be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, RuntimeError) as error:
        # RuntimeError: the archive is encrypted, or this Python does not know its compression.
        raise InputError(
            f"prompt {file}: a damaged .npz archive ({error}); copy it again"
        ) from error
    array = np.frombuffer(data, header.dtype)
    array = array.reshape(shape[::-1]).T if header.fortran_order else array.reshape(shape)
    return readable.cast(array, "float32", f"prompt {file}, {name}")
