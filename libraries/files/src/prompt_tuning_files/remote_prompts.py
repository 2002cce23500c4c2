"""Copies prompts from buckets to this machine: T5X's runs on many hosts save to buckets."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError, one_line
from prompt_tuning_files import prompt_files


@functools.cache
def copied(address: str) -> str:
    """Copies a prompt and its provenance, once in each process.

    Args:
      address: `gs://…`, or another address that `etils.epath` opens, of a file or of the directory
        of a training run (ours or the reference's). A directory means its best prompt if it kept
        one, else the prompt of the highest step.

    Returns:
      The path of the copy. The process removes it when it ends.

    Raises:
      InputError: If there is nothing at the address, or it cannot be read.
    """
    name = f"prompt {address}"
    try:
        from etils import epath
    except ImportError as e:
        raise InputError(
            f"{name}: reading from a bucket needs etils; pip install 'etils[epath]', or copy the "
            "prompt to this machine"
        ) from e
    try:
        source: Any = epath.Path(address)
        if source.is_dir():
            names = [path.name for path in source.glob("*prompt*.npy")]
            chosen = prompt_files.best_or_newest_of(names)
            found = prompt_files.of_reference(source) if chosen is None else source / chosen
            if found is None:
                raise InputError(f"{name}: a directory without prompts (prompt_STEP.npy)")
            source = found
        if not source.exists():
            raise InputError(f"{name}: there is no such file")
        folder = Path(tempfile.mkdtemp(prefix="prompt-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for path in (source, source.with_suffix(".json")):
            if path.exists():
                (folder / path.name).write_bytes(path.read_bytes())
    except InputError:
        raise
    except Exception as e:  # Credentials, network, TensorFlow: errors of many types.
        raise InputError(f"{name}: cannot be read: {one_line(e)}") from e
    return str(folder / source.name)
