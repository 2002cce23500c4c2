"""The command starts itself once more to get huge pages, where they can be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from prompt_tuning_engine_local import huge_pages

GLIBC, MADVISE = "glibc 2.36", "always [madvise] never\n"
OWN = "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("environment", "library", "kernel", "expected"),
    [
        ({}, GLIBC, MADVISE, OWN),
        ({}, "glibc 2.35", "[always] madvise never\n", OWN),
        ({}, "glibc 3.0", MADVISE, OWN),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, GLIBC, MADVISE, f"glibc.malloc.check=1:{OWN}"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, GLIBC, MADVISE, None),
        ({"GLIBC_TUNABLES": OWN}, GLIBC, MADVISE, None),
        ({"PROMPT_TUNING_HUGE_PAGES": "0"}, GLIBC, MADVISE, None),
        ({}, GLIBC, "always madvise [never]\n", None),
        ({}, "glibc 2.34", MADVISE, None),
        ({}, "musl 1.2", MADVISE, None),
        ({}, "", MADVISE, None),
    ],
)
def test_the_environment_of_the_second_start(environment, library, kernel, expected):
    found = huge_pages.environment_with({"HOME": "/x", **environment}, library, kernel)
    assert found == (
        None if expected is None else {"HOME": "/x", **environment, "GLIBC_TUNABLES": expected}
    )


SHOW = """
import json, os, sys
print(json.dumps([os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.stdin.read()]))
"""
COMMAND = ["-m", "prompt_tuning_core", "train", "--engine=local", "--gin_file=show.gin"]


def started(folder, *, command=COMMAND, **variables):
    """Runs the command until its gin file is read; returns what that saw, and the process id."""
    (folder / "show.gin").write_text("import show_the_process\n")
    (folder / "show_the_process.py").write_text(SHOW)
    names = ("GLIBC_TUNABLES", "PROMPT_TUNING_HUGE_PAGES")
    own = {name: value for name, value in os.environ.items() if name not in names}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**own, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shown, error = process.communicate("from the start")
    assert process.returncode == 2
    assert "no gin file configures options.TrainingOptions" in error
    assert error.count("\n") == 1
    return json.loads(shown), process.pid


def has_huge_pages():
    library, kernel = os.confstr("CS_GNU_LIBC_VERSION") or "", huge_pages.KERNEL
    return kernel.exists() and huge_pages.environment_with({}, library, kernel.read_text())


@pytest.mark.skipif(not has_huge_pages(), reason="no huge pages in this C library or kernel")
def test_the_command_is_the_same_process_with_huge_pages(tmp_path):
    found, pid = started(tmp_path)
    assert found == [pid, OWN, COMMAND[2:], "from the start"]
    found, pid = started(tmp_path, PROMPT_TUNING_HUGE_PAGES="0")
    assert found == [pid, None, COMMAND[2:], "from the start"]


def test_another_program_is_not_started_again(tmp_path):
    code = "from prompt_tuning_core.commands.main import main; raise SystemExit(main())"
    found, _ = started(tmp_path, command=["-c", code, *COMMAND[2:]])
    assert found[1] is None
