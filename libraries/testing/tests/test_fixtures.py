"""The fixtures for authors of plugins, as pytest finds them by the entry point."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from prompt_tuning_core import registry


@pytest.mark.slow
def test_a_run_of_the_tiny_t5(run_directory):
    prompts = [np.load(run_directory / f"prompt_{step}.npy") for step in (0, 4)]
    assert prompts[0].shape == (5, 32)
    assert np.abs(prompts[1] - prompts[0]).max() > 0
    facts = json.loads((run_directory / "prompt_4.json").read_text())
    assert facts["task"]["name"] == "tiny"


@pytest.mark.slow
def test_without_an_engine_the_tiny_t5_skips(request, in_process):
    registry.configure(block=["prompt-tuning-engine-local", "prompt-tuning-engine-t5x"])
    with pytest.raises(pytest.skip.Exception, match="no engine is installed; run: pip install"):
        request.getfixturevalue("tiny_t5")


def test_the_sample_table_counts_what_is_read(sample_table):
    assert sample_table.shape == (4096, 8)
    sample_table.rows(np.array([3, 5]))
    assert sample_table.rows_read == 2


def test_pytest_has_the_fixtures_and_imports_no_jax_for_them(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it(site): assert 'jax' not in sys.modules\n"
    )
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    process = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
