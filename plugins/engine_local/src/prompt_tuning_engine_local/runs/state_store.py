"""Training state on disk, from which a run resumes exactly where it stopped.

Orbax writes the state in the background, completely or not at all. The state does not hold the
frozen model; the run's facts name it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json

if TYPE_CHECKING:
    import orbax.checkpoint

RUN_FILE = "run.json"
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


class StateStore:
    """The saved states of a run, in the folder `state` of its directory.

    Args:
      directory: The run's directory.
      keep: Number of states to keep, at least 2: if the newest is damaged, one is left.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_not_of_orbax)
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
        """Starts to save; waits first if the previous save is still running.

        Raises:
          OSError: If the previous save failed, for example on a full disk.
        """
        import jax
        import orbax.checkpoint as ocp

        arrays = _arrays(state)
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) + 2**16
        if shutil.disk_usage(self._manager.directory).free < needed:
            # Check first: each thread of Orbax would print a traceback.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _said():
            self._manager.save(
                state.step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays),
                    notes=ocp.args.JsonSave(dict(state.notes)),
                ),
            )

    def wait(self) -> None:
        """Waits until everything is on the disk.

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
        """Returns the newest state that can be read, or None if there is none.

        It removes a newer state that cannot be read, with a warning.

        Args:
          like: A state with the shapes and dtypes to expect.

        Raises:
          InputError: If a complete state belongs to another prompt or optimizer; it is kept.
        """
        import jax
        import orbax.checkpoint as ocp

        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._check_shapes(step, _arrays(like))
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardRestore(_arrays(like)),
                        notes=ocp.args.JsonRestore(),
                    ),
                )
                leaves = jax.tree.leaves(found.arrays["optimizer"])
                return TrainingState(
                    step,
                    found.arrays["prompt"],
                    jax.tree.unflatten(jax.tree.structure(like.optimizer), leaves),
                    found.notes,
                )
            except InputError:
                raise
            except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files.
                reason = (str(error).splitlines() or [""])[0] or type(error).__name__
                warnings.warn(
                    f"the state of step {step} cannot be read and is removed ({reason}); going on "
                    "from the one before",
                    stacklevel=2,
                )
                self._manager.delete(step)
        return None

    def _check_shapes(self, step: int, expected: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Refuses a state whose arrays differ from this run's in name or shape."""
        import orbax.checkpoint as ocp

        folder = Path(self._manager.directory) / str(step) / "arrays"
        with ocp.StandardCheckpointer() as reader:
            found = reader.metadata(folder).item_metadata.tree
        for part in ("prompt", "optimizer"):
            old, new = (
                [tuple(leaf.shape) for _, leaf in sorted(tree[part].items())]
                for tree in (found, expected)
            )
            if old != new:
                raise InputError(
                    f"the state {folder.parent} has arrays of the shapes {old} for the {part}, and "
                    f"this run has {new}: another optimizer or an older version saved it; give "
                    "another MODEL_DIR, and start from its prompt with prompts/from_file.gin"
                )


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Keeps Orbax's records out of the log while a store is open.

    Orbax logs the tracebacks of its threads, and also raises the errors here.
    """
    return "orbax" not in Path(record.pathname).parts


def _arrays(state: TrainingState) -> dict[str, Any]:
    import jax

    # Leaves only: a checkpoint does not need the optimizer's named tuples and empty nodes.
    leaves = jax.tree.leaves(state.optimizer)
    tree = {
        "prompt": dict(state.prompt),
        "optimizer": {f"{number:04d}": leaf for number, leaf in enumerate(leaves)},
    }
    # Copies: the next step reuses the arrays' memory while Orbax writes these.
    return jax.tree.map(np.array, tree)


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

    Raises:
      InputError: If another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file: IO[bytes]
    with (directory / _LOCK_FILE).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"MODEL_DIR {directory} is in use by another run; wait for it, or give another "
                "directory"
            ) from None
        yield


def read_run(directory: Path) -> dict[str, Any] | None:
    """Returns the facts of the run in `directory`; None if there is no run.

    Raises:
      InputError: If they cannot be read.
    """
    path = directory / RUN_FILE
    return strict_json.read_object(path, f"run {path}") if path.exists() else None


def is_writable(directory: Path) -> bool:
    """Checks that `directory`, or the folder that it would be created in, can be written to."""
    existing = directory
    while not existing.exists():
        existing = existing.absolute().parent
    return existing.is_dir() and os.access(existing, os.W_OK)
