"""The two forms keep the contract of formats, on the golden model and adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prompt_tuning_format_huggingface import HuggingFaceT5Format, PeftFormat
from prompt_tuning_testing.contracts import check_plugin

GOLDEN = Path(__file__).parent / "golden"


def model(folder):
    return {"model": shutil.copytree(GOLDEN / "model", folder / "model")}


def adapter(folder):
    return {"prompt": shutil.copytree(GOLDEN / "peft" / "p_tuning", folder / "adapter")}


@pytest.mark.parametrize(
    ("form", "files", "not_tried"),
    [
        (HuggingFaceT5Format, model, {"endings", "reads_prompts", "round_trip", "cannot_write"}),
        (PeftFormat, adapter, {"models"}),
    ],
)
def test_the_contract(form, files, not_tried):
    results = check_plugin(form, "format", files)
    results.raise_if_failed()
    assert {result.name for result in results if result.outcome == "not tried"} == not_tried
