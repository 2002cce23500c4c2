"""Training state on disk, from which a run resumes exactly where it stopped.

Orbax writes the state in the background, completely or not at all. The state does not hold the
frozen model, which the run's facts name. Orbax's files have no checksum, so the state has its own
checksum: otherwise, a flipped bit would train another prompt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import run_files

if TYPE_CHECKING:
    import orbax.checkpoint

_LOCK_FILE = ".lock"
_STATE_FOLDER = "state"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """A run between two steps.

    Attributes:
      step: The last step taken.
      prompt: The trained parameters by name.
      optimizer: The optimizer's state, a tree of arrays.
      notes: Other JSON-serialisable values: the data iterator's position, the metrics of the last
        evaluation, the best value so far.
    """

    step: int
    prompt: Any
    optimizer: Any
    notes: Mapping[str, Any]


_MOST_FILES = 100
"""More than a state's number of files and folders, which is about 20."""


class StateStore:
    """The saved states of a run, in the folder `state` of its directory.

    Args:
      directory: The run's directory.
      keep: Number of states to keep, at least 2: if the newest one is damaged, another is left.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_not_of_orbax)
        _set_aside_undated(directory.absolute() / _STATE_FOLDER)
        self._manager: orbax.checkpoint.CheckpointManager = ocp.CheckpointManager(
            directory.absolute() / _STATE_FOLDER,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max(2, keep),
                create=True,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, state: TrainingState) -> None:
        """Starts to save; first waits for the end of the previous save.

        Raises:
          OSError: If the previous save failed, for example on a full disk.
        """
        import jax
        import orbax.checkpoint as ocp

        arrays = _arrays(state)
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) + 2**16
        disk = os.statvfs(self._manager.directory)
        is_full = disk.f_bavail * disk.f_frsize < needed
        # Some file systems do not count files.
        if is_full or (disk.f_files and disk.f_favail < _MOST_FILES):
            # Check first: each thread of Orbax would print a traceback.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _said():
            self._manager.save(
                state.step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays),
                    notes=ocp.args.JsonSave(_sealed_notes(state.notes, arrays)),
                ),
            )

    def wait(self) -> None:
        """Waits until all saves are on the disk.

        Raises:
          OSError: If a save failed.
        """
        with _said():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends the background thread."""
        with contextlib.suppress(Exception):  # `wait` or the next save reported a failure.
            self._manager.close()
        logging.getLogger("absl").removeFilter(_not_of_orbax)

    def newest(self, like: TrainingState) -> TrainingState | None:
        """Returns the newest complete state, or None if there is none.

        If a newer state is damaged, it renames the folder of that state, with a warning.

        Args:
          like: A state with the shapes and dtypes to expect.

        Raises:
          InputError: If a state cannot be read at this time, or belongs to another prompt or
            optimizer; nothing is changed then.
        """
        _ignore_late_callbacks()
        for step in sorted(self._manager.all_steps(), reverse=True):
            folder = Path(self._manager.directory) / str(step)
            _check_readable(folder)
            try:
                return self._read(step, like)
            except (InputError, MemoryError):
                raise
            except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files.
                _set_aside(folder, error)
                self._manager.reload()
        return None

    def _read(self, step: int, like: TrainingState) -> TrainingState:
        """Reads a state and checks it against its checksums.

        Raises:
          InputError: If it is complete, but belongs to another prompt or optimizer.
          ValueError: If it is damaged; Orbax may raise other exceptions too.
        """
        import jax
        import orbax.checkpoint as ocp

        expected = _arrays(like)
        # The notes first, since their shapes show whether the arrays belong to this run.
        sealed = self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
        notes = sealed.notes
        own = {name: value for name, value in notes.items() if name != "sha256"}
        if notes.get("sha256") != run_files.digest(own):
            raise ValueError("the notes differ from their checksum")
        if notes["shapes"] != _shapes(expected):
            raise InputError(
                f"the state {Path(self._manager.directory) / str(step)} has arrays of the shapes "
                f"{notes['shapes']}, and this run has {_shapes(expected)}: another optimizer saved "
                "it; give another MODEL_DIR, and start from its prompt with prompts/from_file.gin"
            )
        arrays = self._manager.restore(
            step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(expected))
        ).arrays
        if notes["arrays"] != _arrays_digest(arrays):
            raise ValueError("the arrays differ from their checksum")
        leaves = jax.tree.leaves(arrays["optimizer"])
        optimizer = jax.tree.map(
            _as_before,
            jax.tree.unflatten(jax.tree.structure(like.optimizer), leaves),
            like.optimizer,
        )
        return TrainingState(step, arrays["prompt"], optimizer, notes["notes"])


def _sealed_notes(notes: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the notes of a state with its checksums."""
    sealed = {
        "notes": json.loads(json.dumps(dict(notes))),
        "shapes": _shapes(arrays),
        "arrays": _arrays_digest(arrays),
    }
    return {**sealed, "sha256": run_files.digest(sealed)}


def _arrays_digest(arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the checksum of the arrays of a state, with their names, dtypes and shapes."""
    found = hashlib.sha256()
    for part in sorted(arrays):
        for name, leaf in sorted(arrays[part].items()):
            array = np.ascontiguousarray(leaf)
            found.update(f"{part}/{name} {array.dtype} {array.shape}\n".encode())
            found.update(array.tobytes())
    return found.hexdigest()


def _shapes(arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    return {
        part: [list(np.shape(leaf)) for _, leaf in sorted(leaves.items())]
        for part, leaves in arrays.items()
    }


def _check_readable(folder: Path) -> None:
    """Checks that each file of a state can be read, so that a failure to restore means damage.

    Raises:
      InputError: If a file or folder cannot be read at this time.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"the state {folder} cannot be read: {error.filename}: {error.strerror or error}; "
            "nothing was changed: once it can be read, the same command goes on from it"
        ) from error

    for where, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            try:
                with open(os.path.join(where, name), "rb") as file:
                    while file.read(2**20):
                        pass
            except OSError as error:
                refuse(error)


@functools.cache  # Once in a process, since the hook stays.
def _ignore_late_callbacks() -> None:
    """Ignores reports of tensorstore's threads to the event loop of a failed restore.

    Orbax has closed the loop by then. The reports may come at any later time, and Python would
    print each of them.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _set_aside_undated(states: Path) -> None:
    """Sets aside the states whose dates Orbax's manager would fail to read when it opens.

    Raises:
      InputError: If a file or folder of such a state cannot be read at this time.
    """
    from orbax.checkpoint import path

    for state in path.step.standard_name_format().find_all(states):
        try:
            state.commit_timestamp  # noqa: B018  # This reads the file.
        except Exception as error:  # Orbax raises many kinds for damaged files.
            _check_readable(Path(state.path))
            _set_aside(Path(state.path), error)


def _set_aside(folder: Path, error: Exception) -> None:
    """Renames the folder of a damaged state, so that Orbax does not see it, with a warning."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    for number in range(1, 1000):
        target = folder.parent.parent / f"damaged_state_{folder.name}_{number}"
        if not target.exists():
            folder.rename(target)
            warnings.warn(
                f"the state of step {folder.name} is damaged ({reason}); it is renamed to "
                f"{target}, and not used",
                stacklevel=2,
            )
            return
    raise InputError(f"{folder.parent.parent} has 1,000 damaged states; remove some")


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Keeps Orbax's records out of the log while a store is open.

    Orbax logs the tracebacks of its threads, and also raises the errors here.
    """
    return "orbax" not in Path(record.pathname).parts


def _arrays(state: TrainingState) -> dict[str, Any]:
    import jax

    # Only leaves: a checkpoint does not need the optimizer's named tuples and empty nodes.
    leaves = jax.tree.leaves(state.optimizer)
    tree = {
        "prompt": dict(state.prompt),
        "optimizer": {f"{number:04d}": leaf for number, leaf in enumerate(leaves)},
    }
    # Copies: the next step reuses the arrays' memory while Orbax writes these.
    return jax.tree.map(
        lambda leaf: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf), tree
    )


def _is_key(leaf: Any) -> bool:
    """Checks for a typed random key, which optimizers that add noise have in their state."""
    import jax

    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_before(leaf: Any, like: Any) -> Any:
    """Returns a restored array as the same kind of leaf as in the saved state."""
    import jax

    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if _is_key(like) else leaf


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Raises any failure to write a state as an `OSError`."""
    try:
        yield
    except ValueError as error:
        # tensorstore puts the file system's error into its text.
        raise OSError(str(error).splitlines()[0]) from error


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Locks a run's directory for this process; the lock ends with the process.

    A file system without locks gives a warning.

    Raises:
      InputError: If another process holds the lock, or the lock file is a link.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _LOCK_FILE
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(
            f"{path} is a symbolic link, expected a file of the run; remove it"
        ) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise InputError(
                    f"MODEL_DIR {directory} is in use by another run; wait for it, or give another "
                    "directory"
                ) from None
            warnings.warn(
                f"MODEL_DIR {directory}: its file system has no locks ({error.strerror}); let no "
                "other run write there",
                stacklevel=3,
            )
        yield
    finally:
        os.close(file)


def has_states(directory: Path) -> bool:
    """Checks whether a run's directory holds a saved state, complete or damaged."""
    return any(path.name.isdecimal() for path in (directory / _STATE_FOLDER).glob("*"))


def is_writable(directory: Path) -> bool:
    """Checks that `directory`, or the folder that it would be created in, can be written to."""
    existing = directory
    while not existing.exists():
        existing = existing.absolute().parent
    return existing.is_dir() and os.access(existing, os.W_OK)
