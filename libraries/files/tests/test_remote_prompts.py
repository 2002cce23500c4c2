"""Prompts at an address: a bucket of etils's, played by a folder."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
from etils import epath

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import formats, prompt_files, trained_prompts

PROMPTS = {step: np.full((2, 3), step, np.float32) for step in (2, 10)}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket with the prompts of a run; the address of its folder."""
    folder = tmp_path_factory.mktemp("bucket")

    @epath.register_path_cls("bucket://")
    class BucketPath(type(pathlib.Path())):
        def __new__(cls, address, *rest):
            return super().__new__(cls, str(address).replace("bucket://", f"{folder}/"), *rest)

        def __init__(self, address, *rest):
            if hasattr(pathlib.PurePath, "with_segments"):  # Python 3.12 on.
                super().__init__(str(address).replace("bucket://", f"{folder}/"), *rest)

    for step, prompt in PROMPTS.items():
        prompt_files.save(folder / "run" / prompt_files.name_at(step), prompt, {"step": step})
        step_folder = folder / "reference" / "numpy_checkpoints" / f"checkpoint_{step}"
        step_folder.mkdir(parents=True)
        with (step_folder / "encoder.prompt.prompt.prompt").open("wb") as file:
            np.save(file, prompt)
    shutil.copytree(folder / "run", folder / "run_with_best")
    best = folder / "run_with_best" / "best_prompt.npy"
    prompt_files.save(best, PROMPTS[2], {"step": 2})
    (folder / "empty").mkdir()
    return "bucket://"


def test_a_prompt_is_read_with_its_provenance(bucket):
    found = formats.read_prompt(f"{bucket}run/prompt_2.npy", (2, 3))
    np.testing.assert_array_equal(found.array, PROMPTS[2])
    assert found.provenance["step"] == 2


@pytest.mark.parametrize(
    ("run", "choice"),
    [
        ("run", "prompt: bucket://run/prompt_10.npy, step 10"),
        ("run/", "prompt: bucket://run/prompt_10.npy, step 10"),
        ("run/prompt_2.npy", "prompt: bucket://run/prompt_2.npy, step 2"),
        (
            "run_with_best",
            "prompt: bucket://run_with_best/best_prompt.npy, step 2, the best of its run",
        ),
    ],
)
def test_a_runs_directory_means_its_best_or_newest_prompt(bucket, run, choice):
    found = trained_prompts.find(bucket + run)
    assert found.choice == choice
    array = formats.read_prompt(bucket + run).array
    np.testing.assert_array_equal(array, PROMPTS[found.step])


@pytest.mark.parametrize("place", ["", "/numpy_checkpoints", "/numpy_checkpoints/checkpoint_10"])
def test_a_run_of_the_reference_means_its_newest_prompt(bucket, place):
    found = formats.read_prompt(f"{bucket}reference{place}")
    np.testing.assert_array_equal(found.array, PROMPTS[10])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("run/prompt_3.npy", "prompt bucket://run/prompt_3.npy: there is no such file"),
        ("empty", "prompt bucket://empty: a directory without prompts (prompt_STEP.npy)"),
    ],
)
def test_what_is_not_there_is_said(bucket, address, expected):
    with pytest.raises(InputError) as refused:
        formats.read_prompt(bucket + address)
    assert str(refused.value) == expected


def test_an_address_that_nothing_opens():
    with pytest.raises(InputError, match=r"prompt nowhere://prompt.npy: (cannot be read|there is)"):
        formats.read_prompt("nowhere://prompt.npy")
