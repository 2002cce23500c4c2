"""Refuses Git LFS pointers: lines of text that stand for a large file until `git lfs pull`.

Every reader of models, tables, prompts, vocabularies and rows calls this module, so that the error
says that the large file is missing (https://github.com/git-lfs/git-lfs, docs/spec.md).
"""

from __future__ import annotations

import contextlib
import os

from prompt_tuning_core.errors import InputError

__all__ = ["POINTER", "refuse", "refuse_at"]

POINTER = b"version https://git-lfs.github.com/spec/v1"
"""The beginning of a pointer."""

_MAX_BYTES = 1024  # The limit of the format.


def refuse(content: bytes, name: str) -> None:
    """Refuses a pointer in place of the file itself.

    Args:
      content: The file, or its beginning, at least as long as `POINTER`.
      name: The name of the file in errors.

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

    Call this for a path that no reader recognizes. If a reader recognizes a complete file, pointers
    in the same folder do not matter.

    Args:
      path: A file or a directory; nothing happens if it cannot be read.
      what: The kind of thing at `path`, for errors, such as "model".

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
