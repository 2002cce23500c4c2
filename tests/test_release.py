"""Releases: one version everywhere, the changelog, and the tag."""

from __future__ import annotations

import datetime
import importlib
import shutil
import sys
from pathlib import Path

import pytest

from prompt_tuning_core.errors import InputError

ROOT = Path(__file__).parents[1]
DATE = datetime.date(2030, 1, 2)


@pytest.fixture(scope="module")
def scripts():
    """The modules of scripts/release, which import one another by bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts" / "release"))
        names = ("distributions", "changelog", "release", "check_release", "check_third_party")
        modules = [importlib.import_module(name) for name in names]
        yield dict(zip(names, modules, strict=True))
    for name in names:
        del sys.modules[name]


@pytest.fixture
def checkout(scripts, tmp_path):
    """The files of this checkout that a release changes."""
    files = scripts["distributions"].files_with_a_version(ROOT)
    for file in [*files, ROOT / "changelog" / "README.md"]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    text = (
        "# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- An old bug.\n\n## [1.0.0] - 2029-01-01\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(text)
    return tmp_path


def test_all_distributions_have_one_version_and_the_core_is_published_last(scripts):
    ours = scripts["distributions"]
    found = ours.read(ROOT)

    assert {one.project["version"] for one in found.values()} == {ours.version(ROOT)}
    folders = [ROOT, *(file.parent for file in ROOT.glob("[clp]*/**/pyproject.toml"))]
    assert {one.folder for one in found.values()} == set(folders)
    assert list(found)[-1] == ours.CORE


def test_the_unreleased_part_of_the_changelog_can_be_released(scripts):
    changelog = scripts["changelog"]
    text = (ROOT / "CHANGELOG.md").read_text()

    made = changelog.released(text, "1.999.0", ROOT / "changelog", DATE)

    assert "## [Unreleased]\n\n## [1.999.0] - 2030-01-02\n\n### Added\n\n- " in made


def test_a_release_changes_every_version_and_joins_the_fragments(scripts, checkout):
    (checkout / "changelog" / "seeds.added.md").write_text("Seeds of\ntwo lines.\n\nAnd a part.\n")
    (checkout / "changelog" / "bug.fixed.md").write_text("A new bug.\n")
    old = scripts["distributions"].version(checkout)

    scripts["release"].prepare(checkout, "1.2.10", DATE)

    assert scripts["distributions"].version(checkout) == "1.2.10"
    texts = [path.read_text() for path in scripts["distributions"].files_with_a_version(checkout)]
    assert [text for text in texts if f'"{old}"' in text or f"=={old}" in text] == []
    assert '"prompt-tuning-core>=1,<2"' in "".join(texts)
    assert [path.name for path in (checkout / "changelog").iterdir()] == ["README.md"]
    assert (checkout / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.10] - 2030-01-02\n\n"
        "### Added\n\n- Seeds of\n  two lines.\n\n  And a part.\n\n"
        "### Fixed\n\n- An old bug.\n- A new bug.\n\n## [1.0.0] - 2029-01-01\n"
    )
    scripts["release"].check_tag(checkout, "v1.2.10")
    with pytest.raises(InputError, match=r"have version 1\.2\.10, whose tag is v1\.2\.10"):
        scripts["release"].check_tag(checkout, "v1.2.1")
    (checkout / "changelog" / "late.added.md").write_text("Late.")
    with pytest.raises(InputError, match=r"late\.added\.md not joined"):
        scripts["release"].check_tag(checkout, "v1.2.10")


@pytest.mark.parametrize(
    ("version", "fragment", "text", "expected"),
    [
        ("1.2", "a.added.md", "x", "expected three numbers"),
        ("1.2.0rc1", "a.added.md", "x", "expected three numbers"),
        ("2.0.0", "a.added.md", "x", "; change what our distributions require"),
        ("1.0.0", "a.added.md", "x", "has a section for it already"),
        ("1.2.0", "a.add.md", "x", "no kind of change is 'add'; did you mean 'added'?"),
        ("1.2.0", "added.md", "x", "of the form NAME.KIND.md"),
        ("1.2.0", "a.added.md", "\n", "expected a text"),
        ("1.2.0", "a.added.md", "- x", "without a heading or a '-' in front"),
    ],
)
def test_a_release_that_cannot_be_made_changes_nothing(
    scripts, checkout, version, fragment, text, expected
):
    (checkout / "changelog" / fragment).write_text(text)
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}

    with pytest.raises(InputError) as error:
        scripts["release"].prepare(checkout, version, DATE)

    assert expected in str(error.value)
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("unreleased", "expected"),
    [
        ("", "nothing to release"),
        ("A text.\n", "'A text.' stands below"),
        ("### New\n\n- x\n", "found '### New'"),
        ("### Added\n\n- x\n\n### Added\n\n- y\n", "at most once"),
    ],
)
def test_a_changelog_of_another_form_is_refused(scripts, checkout, unreleased, expected):
    text = f"# Changelog\n\n## [Unreleased]\n\n{unreleased}"

    with pytest.raises(InputError, match=expected):
        scripts["changelog"].released(text, "1.2.0", checkout / "changelog", DATE)


def test_the_readme_has_the_example_that_release_check_runs(scripts):
    core = scripts["distributions"].read(ROOT)[scripts["distributions"].CORE]
    example = scripts["check_release"].readme_example(core.readme.read_text())

    compile(example, "README.md", "exec")
    assert "prompt_tuning.train(" in example
    with pytest.raises(InputError, match=r"README\.md: expected a block of Python"):
        scripts["check_release"].readme_example("```python\nimport json\n```\n")


def test_links_of_what_a_package_index_shows_are_whole_addresses(scripts):
    ours = scripts["distributions"].read(ROOT)
    check_links = scripts["check_release"].check_links

    for one in ours.values():
        check_links(one, one.readme.read_text("utf-8"))
    check_links(one, "[a](https://b.org/c.md) `[d](e.md)`\n```\nf[0](g)\n```\n")
    text = '[a](b.md) ![c](d.svg) [`e`](#f)\n\n[g]: h.md\n<img src="i.svg">\n'
    with pytest.raises(InputError, match=r"links to b\.md, d\.svg, #f, h\.md, i\.svg; expected"):
        check_links(one, text)


def test_what_a_distribution_is_tried_with_is_what_it_requires(scripts):
    ours = scripts["distributions"].read(ROOT)

    found = scripts["check_release"].closure("prompt-tuning-init-vocab", ours)

    names = ("prompt-tuning-core", "prompt-tuning-files", "prompt-tuning-init-vocab")
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[plugin]]\nname = 'x'\n", "plugin 1 has name: expected requirement, maybe check"),
        ("[[plugin]]\nrequirement = 'x y'\n", "plugin 1: 'x y' is no requirement"),
    ],
)
def test_a_list_of_plugins_of_others(scripts, tmp_path, text, expected):
    read = scripts["check_third_party"].read
    file = tmp_path / "plugins.toml"
    file.write_text("[[plugin]]\nrequirement = 'mine>=1'\ncheck = ['--examples=1']\n")
    assert read(file) == {"mine": ("mine>=1", ["--examples=1"])}
    assert isinstance(read(ROOT / ".ci" / "third_party_plugins.toml"), dict)

    file.write_text(text)
    with pytest.raises(InputError, match=expected):
        read(file)


def test_versions_that_differ_are_named_with_their_places(scripts, checkout):
    with (checkout / "pyproject.toml").open("a") as file:
        file.write('more = ["prompt-tuning-files==0.9.0"]\n')

    with pytest.raises(InputError, match=r"the version differs: \S+ in \S+:\d+, 0\.9\.0 in pypr"):
        scripts["distributions"].version(checkout)
