"""The command `find-module`: where T5X is, for `--gin_search_paths`."""

from __future__ import annotations


def test_find_module_prints_the_folder_without_importing(site):
    site.folder.joinpath("outer", "inner").mkdir(parents=True)
    for package in ("outer", "outer/inner"):
        site.folder.joinpath(package, "__init__.py").write_text("1 / 0")
    site.folder.joinpath("outer", "module.py").write_text("1 / 0")
    site.folder.joinpath("space", "below").mkdir(parents=True)
    for name, folder in [
        ("outer", "outer"),
        ("outer.inner", "outer/inner"),
        ("outer.module", "outer"),
        ("space.below", "space/below"),
    ]:
        assert site.command("find-module", name).stdout == f"{site.folder / folder}\n"


def test_a_module_without_a_folder_is_refused(main):
    for arguments, expected in [
        ([], "the following arguments are required: module"),
        (["no_such.module"], "no module named 'no_such.module'"),
        (["json.no_such"], "no module named 'json.no_such'"),
        (["sys"], "built into Python"),
    ]:
        code, output, error = main("find-module", *arguments)
        assert (code, output, error.count("\n")) == (2, "", 1), arguments
        assert expected in error
