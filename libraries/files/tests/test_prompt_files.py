"""Prompt files: whole or not there, readable by numpy alone, checked against their provenance."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import prompt_files

PROMPT = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_round_trip(tmp_path):
    path = tmp_path / "run" / "prompt_7.npy"
    prompt_files.save(path, PROMPT, {"step": 7})
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), PROMPT)
    np.testing.assert_array_equal(prompt_files.load(path, (2, 3)), PROMPT)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts == prompt_files.read_provenance(path)
    assert facts["step"] == 7
    assert facts["shape"] == [2, 3]
    assert sorted(os.listdir(tmp_path / "run")) == ["prompt_7.json", "prompt_7.npy"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "prompt_1.npy"
    prompt_files.save(path, PROMPT, {})

    def fail():
        with prompt_files.atomic_write(path) as file:
            file.write(b"half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        fail()
    np.testing.assert_array_equal(prompt_files.load(path), PROMPT)
    assert len(os.listdir(tmp_path)) == 2


def test_leftovers_of_a_killed_save_are_no_prompts_and_are_removed(tmp_path):
    prompt_files.save(tmp_path / "prompt_1.npy", PROMPT, {})
    leftover = tmp_path / ".prompt_2.npy.abc.partial"
    leftover.write_bytes(b"half")
    assert prompt_files.newest(tmp_path) == tmp_path / "prompt_1.npy"
    prompt_files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["prompt_1.json", "prompt_1.npy"]


def test_the_newest_prompt_is_the_one_of_the_highest_step(tmp_path):
    for step in (9, 10, 2):
        prompt_files.save(tmp_path / prompt_files.name_at(step), PROMPT, {})
    np.save(tmp_path / "prompt_best.npy", PROMPT)
    assert prompt_files.newest(tmp_path) == tmp_path / "prompt_10.npy"
    assert prompt_files.newest(tmp_path / "nothing") is None


def test_a_prompt_that_its_provenance_does_not_know_is_refused(tmp_path):
    path = tmp_path / "prompt_1.npy"
    prompt_files.save(path, PROMPT, {})
    np.save(path, PROMPT + 1)
    with pytest.raises(InputError, match="does not match the checksum"):
        prompt_files.load(path)


@pytest.mark.parametrize(
    ("prompt", "name", "expected"),
    [
        (PROMPT, "prompt.bin", r"ends in \.npy"),
        (PROMPT[0], "prompt.npy", r"shape \(3,\), expected \(P, H\)"),
    ],
)
def test_what_is_no_prompt_is_not_saved(tmp_path, prompt, name, expected):
    with pytest.raises(InputError, match=expected):
        prompt_files.save(tmp_path / name, prompt, {})
    assert not os.listdir(tmp_path)


def test_bad_provenance(tmp_path):
    np.save(tmp_path / "prompt.npy", PROMPT)
    (tmp_path / "prompt.json").write_text("[1]")
    with pytest.raises(InputError, match="found list, expected a JSON object"):
        prompt_files.load(tmp_path / "prompt.npy")
    (tmp_path / "prompt.json").write_text("{")
    with pytest.raises(InputError, match=r"prompt\.json: not readable as JSON"):
        prompt_files.load(tmp_path / "prompt.npy")
