"""Finds checkpoints in local directories and in buckets of Google Cloud Storage."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from typing import TYPE_CHECKING, Any

from prompt_tuning_core.errors import InputError, one_line
from prompt_tuning_files import git_lfs

if TYPE_CHECKING:
    import tensorstore as ts

MSGPACK_INDEX = "checkpoint"
ORBAX_INDEX = "_METADATA"
_TENSORFLOW_INDEX = b"model_checkpoint_path"
_ORBAX_ITEMS = ("", "state", "default")
"""Folders of an Orbax checkpoint's tree: itself, T5X's item, Orbax's default item."""

_TENSORFLOW = re.compile(r"(.*\bckpt-\d+)(?:\.index|\.meta|\.data-\d+-of-\d+)?")
"""The end of a TensorFlow checkpoint's path, which is the beginning of its files' names."""

_STEP = re.compile(r"(?:checkpoint_)?(\d+)")
_EMPTY = -1
_INDEX_STARTS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF, _EMPTY))
"""First bytes of a map in msgpack; an empty file counts as a damaged index."""

_SECONDS = 60
_CONTEXT = {
    # Keep nothing that was decoded.
    "cache_pool": {"total_bytes_limit": 0},
    # The list of an OCDBT store's keys is small, and each array needs it.
    "cache_pool#index": {"total_bytes_limit": 32 << 20},
    "gcs_request_retries": {"max_retries": 3, "initial_delay": "200ms", "max_delay": "2s"},
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found.

    Attributes:
      kind: "t5x_legacy", "t5x_orbax", or "tensorflow" for a checkpoint of Mesh TensorFlow.
      path: The directory that holds the index; for TensorFlow, the given path.
      step: The step in the directory's name; None if the name has none.
    """

    kind: str
    path: str
    step: int | None


def find_checkpoint(path: str) -> Checkpoint | None:
    """Finds the checkpoint at `path`.

    Args:
      path: The directory of a checkpoint, T5X's file `checkpoint` in it, or a directory of
        checkpoints named `checkpoint_N` or `N`. Of these, the highest N is found.

    Returns:
      The checkpoint; None if there is none, or `path` is an address other than `gs://…`.

    Raises:
      InputError: If the place cannot be read, or a bucket cannot be reached.
    """
    if "://" in path and not path.startswith("gs://"):
        return None
    path = path if path.startswith("gs://") else os.path.abspath(os.path.expanduser(path))
    path = path.rstrip("/")
    folder, name = os.path.split(path)
    file = _TENSORFLOW.fullmatch(name)
    if file is not None and _first_byte(f"{folder}/{file[1]}.index") is not None:
        return Checkpoint("tensorflow", path, None)
    if name == MSGPACK_INDEX and _first_byte(path) in (*_INDEX_STARTS, ord("m")):
        path = folder
    found = _checkpoint_in(path)
    if found is None:
        steps = [
            (int(match[1]), match[0]) for match in map(_STEP.fullmatch, _children(path)) if match
        ]
        if steps:
            found = _checkpoint_in(f"{path}/{max(steps)[1]}")
    return found


def _checkpoint_in(path: str) -> Checkpoint | None:
    step = _step_of(os.path.basename(path))
    if _starts_like_msgpack(f"{path}/{MSGPACK_INDEX}"):
        return Checkpoint("t5x_legacy", path, step)
    for item in _ORBAX_ITEMS:
        folder = f"{path}/{item}".rstrip("/")
        if _first_byte(f"{folder}/{ORBAX_INDEX}") is not None:
            # The path may be the directory of an Orbax item itself.
            own = step is None and os.path.basename(path) in _ORBAX_ITEMS
            outer = os.path.basename(os.path.dirname(path))
            return Checkpoint("t5x_orbax", folder, _step_of(outer) if own else step)
    if _first_byte(f"{path}/{MSGPACK_INDEX}") == ord("m") and _names_tensorflow(path):
        return Checkpoint("tensorflow", path, None)
    # T5X looks for its own index here too.
    if _starts_like_msgpack(f"{path}/state/{MSGPACK_INDEX}"):
        return Checkpoint("t5x_legacy", f"{path}/state", step)
    return None


def _step_of(name: str) -> int | None:
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def _names_tensorflow(path: str) -> bool:
    """Returns True if the file `checkpoint` in a directory is TensorFlow's."""
    if path.startswith("gs://"):
        (text,) = Store.at(path).read(MSGPACK_INDEX)
        return (text or b"").startswith(_TENSORFLOW_INDEX)
    with open(f"{path}/{MSGPACK_INDEX}", "rb") as file:
        return file.read(len(_TENSORFLOW_INDEX)) == _TENSORFLOW_INDEX


def _starts_like_msgpack(file: str) -> bool:
    return _first_byte(file) in _INDEX_STARTS


def _first_byte(file: str) -> int | None:
    """Returns the first byte of a file, _EMPTY if it has none, None if it isn't there."""
    folder, name = os.path.split(file)
    if file.startswith("gs://"):
        (data,) = Store.at(folder).read(name)
        return None if data is None else next(iter(data), _EMPTY)
    try:
        with open(file, "rb") as stream:
            return next(iter(stream.read(1)), _EMPTY)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error


def _children(path: str) -> list[str]:
    """Returns the names in a directory; [] if it isn't one."""
    if path.startswith("gs://"):
        return list({key.split("/", 1)[0] for key in Store.at(path).listing() if "/" in key})
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


@dataclasses.dataclass(frozen=True)
class Store:
    """Files below a directory, or keys of a database in it, as tensorstore reads them.

    Attributes:
      name: Its name in errors: the directory's path.
      spec: A tensorstore key-value store, whose path ends in "/" or is empty.
      context: tensorstore's resources, shared by arrays that are opened together.
    """

    name: str
    spec: dict[str, Any]
    context: ts.Context = dataclasses.field(compare=False)

    @classmethod
    def at(cls, path: str) -> Store:
        """Returns the files below a local directory or a `gs://bucket/directory`."""
        import tensorstore as ts

        spec = {"driver": "file", "path": f"{path}/"}
        if path.startswith("gs://"):
            bucket, _, inner = path.removeprefix("gs://").partition("/")
            spec = {"driver": "gcs", "bucket": bucket, "path": f"{inner}/" if inner else ""}
        return cls(path, spec, ts.Context(_CONTEXT))

    def ocdbt(self) -> Store:
        """Returns the keys of the OCDBT database whose manifest is in this directory."""
        spec = {"driver": "ocdbt", "base": self.spec, "cache_pool": "cache_pool#index"}
        return Store(self.name, spec, self.context)

    def below(self, key: str) -> dict[str, Any]:
        """Returns the key-value store of the keys below `key`."""
        return {**self.spec, "path": f"{self.spec.get('path', '')}{key}/"}

    def read(self, *keys: str) -> list[bytes | None]:
        """Reads the values of keys, all at once; None for a key that isn't there.

        Raises:
          InputError: If a key cannot be read.
        """
        results = [
            self.wait(future, key, _SECONDS)
            for key, future in [(key, self._opened.read(key)) for key in keys]
        ]
        for key, result in zip(keys, results, strict=True):
            git_lfs.refuse(result.value, f"{self.name}: {key}")
        return [result.value if result.state == "value" else None for result in results]

    def listing(self) -> list[str]:
        """Returns all keys.

        Raises:
          InputError: If they cannot be listed.
        """
        keys = self.wait(self._opened.list(), "the listing", _SECONDS)
        return [key.decode(errors="replace") for key in keys]

    def wait(self, future: Any, what: str, seconds: float | None = None) -> Any:
        """Waits for a result of tensorstore.

        Args:
          future: A future of tensorstore.
          what: The data to read, for errors.
          seconds: The longest time to wait; None for as long as tensorstore tries.

        Raises:
          InputError: Instead of any error of tensorstore.
        """
        try:
            return future.result(timeout=seconds)
        except TimeoutError as error:
            raise self._unreadable(what, f"no answer in {seconds} s") from error
        except Exception as error:  # tensorstore's errors have many types.
            # tensorstore appends the place in its own source.
            cause = one_line(error).split(" [source locations=")[0]
            if file := re.search(r'local file "([^"]+)"', cause):
                git_lfs.refuse_at(file[1], "array file")
            raise self._unreadable(what, cause) from error

    def _unreadable(self, what: str, cause: str) -> InputError:
        bucket = self.spec.get("base", self.spec).get("bucket")
        advice = "is the checkpoint complete? copy it again"
        if bucket is not None:
            advice = f"can the bucket {bucket!r} be reached, and may you read it?"
        return InputError(f"{self.name}: {what} cannot be read ({cause}); {advice}")

    @functools.cached_property
    def _opened(self) -> ts.KvStore:
        import tensorstore as ts

        opening = ts.KvStore.open(self.spec, context=self.context)
        opened: ts.KvStore = self.wait(opening, "the directory", _SECONDS)
        return opened
