"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]


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
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        files_of_ours = r"(?<!t5x/configs/)\b((?:models|prompts|runs)/[\w/]+\.gin)\b"
        named = set(re.findall(files_of_ours, content))
        # A file that the page writes: ```gin my_package/prompts/from_mine.gin
        written = set(re.findall(r"^```gin [\w/]*?((?:models|prompts|runs)/\S+)", content, re.M))
        assert named <= files | written, f"{page.name} names {named - files - written}"
        set_macros = set(re.findall(r"--gin\.([A-Z_]+)=", content))
        own = {"NAME", *re.findall(r"%([A-Z_]+)$", content, re.M)}  # Of a gin file in the page.
        assert set_macros <= macros | own, f"{page.name} sets {set_macros - macros - own}"


def test_tests_that_the_documentation_names_exist():
    for page in PAGES:
        settled = [
            line for line in page.read_text(encoding="utf-8").splitlines() if "TODO" not in line
        ]
        for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", "\n".join(settled)):
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
