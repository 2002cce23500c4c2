"""The two forms keep the contract of formats, on the golden checkpoints."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from prompt_tuning_format_t5x import T5X, T5XOrbax
from prompt_tuning_testing import checks
from prompt_tuning_testing.contracts import check_plugin
from prompt_tuning_testing.format_checks import FORMAT_CHECKS, format_subject

GOLDEN = Path(__file__).parent / "golden"
WRITERS = {"endings", "round_trip", "cannot_write"}


def unpacked(folder, name, step):
    with tarfile.open(GOLDEN / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name / step


def legacy(folder):
    return {"model": unpacked(folder, "t5x_checkpoint_msgpack_only", "checkpoint_0")}


def prompted(folder):
    return {"prompt": unpacked(folder, "t5x_checkpoint_prompt", "checkpoint_0")}


def orbax(folder):
    return dict.fromkeys(("model", "prompt"), unpacked(folder, "t5x_orbax", "checkpoint_7"))


@pytest.mark.parametrize(
    ("form", "files", "not_tried"),
    [(T5X, legacy, {*WRITERS, "reads_prompts"}), (T5XOrbax, orbax, WRITERS)],
)
def test_the_contract(form, files, not_tried):
    results = check_plugin(form, "format", files)
    results.raise_if_failed()
    assert {result.name for result in results if result.outcome == "not tried"} == not_tried


@pytest.mark.parametrize("name", ["own_files", "reads_prompts"])
def test_the_contract_for_a_checkpoint_with_a_prompt_in_many_files(name):
    (check,) = (check for check in FORMAT_CHECKS if check.name == name)
    result = checks.run(check, format_subject(T5X, prompted))
    assert result.outcome == "passed", result
