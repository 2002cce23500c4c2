"""Prompts in buckets, copied to this machine to be read: T5X's runs on many hosts save there."""

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
    """Copies a prompt, and the provenance beside it, once a process.

    Args:
      address: Of a file, or of the directory of a training run: its best prompt where it kept one,
        else that of the highest step, also of a run of the reference; `gs://…`, or another address
        that `etils.epath` opens.

    Returns:
      The path of the copy, which is removed when the process ends.

    Raises:
      InputError: If there is nothing, or it cannot be read.
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
    except Exception as e:  # Of whatever opens such addresses: credentials, network, TensorFlow.
        raise InputError(f"{name}: cannot be read: {one_line(e)}") from e
    return str(folder / source.name)
