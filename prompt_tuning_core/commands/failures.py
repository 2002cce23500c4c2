"""Describes exceptions of this project, of gin, of plugins and of users' code in one line."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback

from prompt_tuning_core import registry
from prompt_tuning_core.errors import PromptTuningError, one_line


def described(error: BaseException) -> str | None:
    """Describes a caught exception in one line.

    Returns:
      For an error of this project or of gin, its message. For any other exception, the innermost
      code in the traceback that belongs to a plugin or to the user, with its file and line, and the
      message. None if there is no such code.
    """
    # gin appends the names of its configurables to the text of an exception in them.
    message = one_line(error).split(" In call to configurable")[0]
    if isinstance(error, PromptTuningError):
        return message.partition(": ")[2]
    if "gin" in sys.modules:
        from prompt_tuning_core import gin_config

        if explained := gin_config.explain(error):
            return explained
    installed = registry.process_registry()
    plugins = (*installed.discover(), *installed.loaded())  # A loaded one wins.
    own = {re.split("[.:]", p.value)[0]: p for p in plugins if not p.is_core}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        where = f"{frame.f_code.co_filename}:{line}"
        if package in own and isinstance(error, ValueError):  # Perhaps a value of the user.
            return f"{own[package]}: {message.partition(': ')[2]} ({where})"
        if package in own:
            return f"{own[package]} fails at {where}: {message}; --traceback shows all"
        if not _is_library(frame.f_code.co_filename, package):
            return f"{where}: {message}; --traceback shows all"
    return None


def _is_library(file: str, package: str) -> bool:
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (
        package.startswith("prompt_tuning_")
        or not os.path.isfile(file)
        or any(os.path.realpath(file).startswith(os.path.realpath(f) + os.sep) for f in folders)
    )
