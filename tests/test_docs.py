"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_python_reference_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["pages"]()
    folder = ROOT / "docs" / "reference"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == made, (
        "run: python docs/make_reference.py"
    )


def test_links_lead_somewhere():
    folders = ("", "docs/**/", "configs/", "libraries/*/", "plugins/*/")
    for page in [page for folder in folders for page in ROOT.glob(f"{folder}*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_gin_files_and_macros_in_the_documentation_exist():
    folders = [ROOT / "configs" / "prompt_tuning_configs", *ROOT.glob("plugins/*/src/*/configs")]
    paths = [(path, folder) for folder in folders for path in folder.rglob("*.gin")]
    files = {str(path.relative_to(folder)) for path, folder in paths}
    text = "".join(path.read_text(encoding="utf-8") for path, _ in paths)
    macros = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", text))
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        content = page.read_text(encoding="utf-8")
        files_of_ours = r"(?<!t5x/configs/)\b((?:models|prompts|runs)/[\w/]+\.gin)\b"
        named = set(re.findall(files_of_ours, content))
        assert named <= files, f"{page.name} names {named - files}"
        set_macros = set(re.findall(r"--gin\.([A-Z_]+)=", content))
        assert set_macros <= macros | {"NAME"}, f"{page.name} sets {set_macros - macros}"


def test_tests_that_the_documentation_names_exist():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        settled = [
            line for line in page.read_text(encoding="utf-8").splitlines() if "TODO" not in line
        ]
        for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", "\n".join(settled)):
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


@pytest.mark.slow
def test_the_initializer_of_the_documentation_keeps_the_contract_in_its_own_test(tmp_path):
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module, test = blocks[0], next(block for block in blocks if "def test_contract" in block)
    (tmp_path / "prompt_tuning_init_ramp.py").write_text(module)
    (tmp_path / "test_init_ramp.py").write_text(test)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_init_ramp.py"]
    process = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
    assert "11 passed" in process.stdout


@pytest.mark.slow
def test_the_prompt_module_of_the_documentation_passes_in_its_own_test(tmp_path):
    page = (ROOT / "docs" / "prompt-modules.md").read_text(encoding="utf-8")
    module, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_package.py").write_text(module)
    (tmp_path / "test_average.py").write_text(test)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_average.py"]
    run += ["-k", "points or length or matrix"]
    process = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
    assert "3 passed" in process.stdout
