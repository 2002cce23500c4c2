"""Huge pages for the memory of a step: the command restarts itself to get them.

glibc asks the kernel for the memory of each large array, and the kernel gives it in pages of 4 KiB.
So a step of T5 small takes 87,000 page faults. glibc can ask for huge pages instead, but reads that
setting only when a process starts.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PROMPT_TUNING_HUGE_PAGES"
"""An environment variable; with the value 0, the command does not restart itself."""

_TUNABLES = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""The kernel's file that says when it gives huge pages."""


def start_again() -> None:
    """Replaces this process by one with huge pages, if it is the command `prompt-tuning`.

    The process id, the arguments and the streams stay the same. It does nothing in any other
    process, and if the C library or the kernel has no huge pages. It also does nothing if the
    environment decides about them: by `PROMPT_TUNING_HUGE_PAGES=0`, or by a `GLIBC_TUNABLES` that
    sets `glibc.malloc.hugetlb`.
    """
    if not _is_command(sys.argv[0]):
        return
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
        kernel = KERNEL.read_text()
    except (OSError, ValueError, AttributeError):  # Another system, or another C library.
        return
    environment = environment_with(os.environ, library, kernel)
    if environment is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:  # A sandbox may forbid it; the run is only slower.
        return


def environment_with(
    environment: Mapping[str, str], library: str, kernel: str
) -> dict[str, str] | None:
    """Returns the environment of a process with huge pages.

    Args:
      environment: The environment of this process.
      library: The C library and its version, such as "glibc 2.36".
      kernel: The kernel's setting for huge pages, such as "always [madvise] never".

    Returns:
      All variables; None if there are no huge pages, or the environment decides about them already.
    """
    version = re.fullmatch(r"glibc (\d+)\.(\d+)", library)
    has_tunable = version is not None and (int(version[1]), int(version[2])) >= (2, 35)
    set_before = environment.get(_TUNABLES, "")
    if (
        not has_tunable
        or "[never]" in kernel
        or environment.get(VARIABLE) == "0"
        or _TUNABLE in set_before
    ):
        return None
    own = f"{_TUNABLE}=1"
    return {**environment, _TUNABLES: f"{set_before}:{own}" if set_before else own}


def _is_command(script: str) -> bool:
    path = Path(script)
    return path.name == "prompt-tuning" or path.parts[-2:] == ("prompt_tuning_core", "__main__.py")
