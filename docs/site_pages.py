"""Gives the documentation site its pages: hooks of MkDocs, which `mkdocs.yml` names.

The site mirrors the repository, so that a link from one file to another leads to the same place in
a checkout and on the site.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
FILES = (
    "*.md",
    "CITATION.cff",
    "LICENSE",
    "benchmarks/README.md",
    "changelog/README.md",
    "configs/README.md",
    "docs/**/*.css",
    "docs/**/*.ipynb",
    "docs/**/*.md",
    "docs/**/*.svg",
    "examples/README.md",
    "libraries/*/README.md",
    "plugins/*/README.md",
    "plugins/*/src/**/README.md",
    "prompt_tuning_core/README.md",
)
SOURCES = (ROOT, ROOT / "configs", *ROOT.glob("libraries/*/src"), *ROOT.glob("plugins/*/src"))
LOG = get_plugin_logger("site_pages")
# What a cell prints and returns looks as the outputs of the other pages do.
OUTPUTS = """{% extends "markdown/index.md.j2" %}
{% block stream %}
```output
{{ output.text.rstrip() }}
```
{% endblock %}
{% block data_text scoped %}
```output
{{ output.data["text/plain"] }}
```
{% endblock %}
"""


class Notebook(File):
    """A notebook, shown as a page: links to the `.ipynb` file lead to it."""

    def is_documentation_page(self) -> bool:
        """Returns True."""
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of `docs/` by those of the whole repository, and fills the navigation."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])
    for path in [path for pattern in FILES for path in sorted(ROOT.glob(pattern))]:
        name = path.relative_to(ROOT).as_posix()
        kind = Notebook if path.suffix == ".ipynb" else File
        found.append(kind(name, str(ROOT), config.site_dir, config.use_directory_urls))
    pages = [file.src_uri for file in found.documentation_pages()]
    config.nav = list(_filled(config.nav, pages, set(_named(config.nav))))
    return found


def on_page_read_source(page: Page, **_: object) -> str | None:
    """Returns the text of a page that is a notebook: its cells, and their outputs with pictures."""
    if not isinstance(page.file, Notebook):
        return None
    in_the_text = Config({"ExtractOutputPreprocessor": {"enabled": False}})
    exporter = MarkdownExporter(in_the_text, raw_template=OUTPUTS)
    return str(exporter.from_filename(page.file.abs_src_path)[0])


def on_page_markdown(markdown: str, **_: object) -> str:
    """Checks the modules of a page of the reference, and puts titles on blocks that are files.

    "```python FILE" tells the tests that a block is a file. MkDocs would take it for plain text.
    """
    for name in re.findall(r"^::: (\S+)$", markdown, flags=re.M):
        package, _, module = name.partition(".")
        _check_docstrings(_package(package)[module] if module else _package(package))
    titled = re.sub(r"^```(python|gin|json|text) (\S+)$", r'```\1 title="\2"', markdown, flags=re.M)
    return re.sub(r"^```sh fails$", "```sh", titled, flags=re.M).replace("```gin", "```python")


@functools.cache
def _package(name: str) -> griffe.Module:
    """Reads the sources of a package."""
    return griffe.load(name, search_paths=SOURCES, allow_inspection=False)


def _check_docstrings(documented: Any) -> None:
    """Warns, and so ends the build, for each public name of a module or class without one."""
    for member in documented.members.values():
        if member.is_alias or member.is_module or not member.is_public:
            continue
        special = member.is_special and member.name != "__call__"
        if special or (member.is_attribute and member.name not in (documented.exports or ())):
            continue
        if not member.has_docstring:
            LOG.warning("%s has no docstring (%s)", member.path, member.filepath)
        if member.is_class:
            _check_docstrings(member)


def _named(nav: Any) -> Iterator[str]:
    """Yields each page, or pattern of pages, that a navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(entry)


def _filled(nav: list[Any], pages: list[str], taken: set[str]) -> Iterator[Any]:
    """Yields a navigation with the pages that match a `*`, each once, in the place of the `*`."""
    for entry in nav:
        if isinstance(entry, dict):
            ((title, below),) = entry.items()
            inside = isinstance(below, list)
            yield {title: list(_filled(below, pages, taken)) if inside else below}
        elif "*" in entry:
            pattern = re.compile(re.escape(entry).replace(r"\*", "[^/]*"))
            matched = [page for page in pages if pattern.fullmatch(page) and page not in taken]
            taken.update(matched)
            yield from matched
        else:
            yield entry
