"""Pointers of Git LFS: the few lines of text that stand for a file until `git lfs pull`.

Every reader of models, tables, prompts, vocabularies and rows asks here, so that a clone without
its large files is named as one (https://github.com/git-lfs/git-lfs, docs/spec.md).
"""

from __future__ import annotations

import contextlib
import os

from prompt_tuning_core.errors import InputError

__all__ = ["POINTER", "refuse", "refuse_at"]

POINTER = b"version https://git-lfs.github.com/spec/v1"
"""What a pointer begins with."""

_MAX_BYTES = 1024  # The limit of the format.


def refuse(content: bytes, name: str) -> None:
    """Refuses a pointer in place of the file that it stands for.

    Args:
      content: The file, or as much of its beginning as `POINTER` has.
      name: What to call the file in errors.

    Raises:
      InputError: If it is a pointer.
    """
    if content.startswith(POINTER):
        raise InputError(
            f"{name}: a Git LFS pointer, not the file that it stands for; run git lfs pull in "
            "the repository that it is from"
        )


def refuse_at(path: str | os.PathLike[str], what: str) -> None:
    """Refuses a pointer at `path`, or directly in the directory `path`.

    For places that no reader recognizes: beside a file that is whole, pointers of others are fine.

    Args:
      path: A file or a directory; one that cannot be read is left to others.
      what: What to call it in errors, such as "model".

    Raises:
      InputError: If there is one.
    """
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
        for name in names:
            file = os.path.join(path, name) if name else os.fspath(path)
            if os.path.isfile(file) and os.path.getsize(file) <= _MAX_BYTES:
                with open(file, "rb") as stream:
                    refuse(stream.read(len(POINTER)), f"{what} {file}")
