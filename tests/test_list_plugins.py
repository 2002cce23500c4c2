"""`prompt-tuning list-plugins`: metadata only, and a row for whatever is wrong."""

from __future__ import annotations

import json
import os

import pytest

FUNCTION = "def init_x():\n    return None\n"


@pytest.fixture
def zoo(site):
    """One distribution for each way in which a plugin can be good or bad."""
    site.distribution(
        "good",
        {"initializers": {"init_good": "good:init_x"}},
        {"good.py": "print('imported')\n" + FUNCTION},
        version="2.5",
        summary="A good one",
        requires=["prompt-tuning-core>=1,<2"],
    )
    for name in ("left", "right"):
        site.distribution(
            name, {"initializers": {"init_twice": f"{name}:init_x"}}, {f"{name}.py": FUNCTION}
        )
    site.distribution(
        "across", {"initializers": {"both": "good:init_x"}, "hooks": {"both": "good"}}
    )
    site.distribution(
        "raises", {"initializers": {"init_raises": "raises:f"}}, {"raises.py": "1 / 0\n"}
    )
    site.distribution(
        "exits", {"prompts": {"exits": "exits:f"}}, {"exits.py": "raise SystemExit(3)\n"}
    )
    site.distribution(
        "old",
        {"initializers": {"init_old": "good:init_x"}},
        requires=["numpy", "Prompt_Tuning.Core (<1)"],
    )
    site.distribution("lacks", {"initializers": {"init_lacks": "good:init_y"}})
    site.distribution("number", {"initializers": {"init_number": "sys:maxsize"}})
    site.distribution("engineless", {"engines": {"engineless": "json:JSONDecoder"}})
    site.distribution("hookless", {"hooks": {"hookless": "json"}})
    site.distribution(
        "badhook",
        {"hooks": {"badhook": "badhook"}},
        {
            "badhook.py": "from prompt_tuning_core.hookspecs import hookimpl\n"
            "@hookimpl\ndef step_logged(step, weather): pass\n"
        },
    )
    site.distribution(
        "nohook",
        {"hooks": {"nohook": "nohook"}},
        {
            "nohook.py": "from prompt_tuning_core.hookspecs import hookimpl\n"
            "@hookimpl\ndef step_loged(step): pass\n"
        },
    )
    site.distribution("malformed", {"initializers": {"init_malformed": "not a module!"}})
    site.distribution("dashed", {"initializers": {"init-dashed": "good:init_x"}})
    return site


def test_listing_imports_nothing_that_it_lists(zoo):
    names = ["jax", "flax", "gin", "tensorflow", "pluggy", "numpy", "packaging", "good", "raises"]
    code = (
        "import sys\n"
        "from prompt_tuning_core.commands.main import main\n"
        "assert main(['list-plugins']) == 0\n"
        f"print([m for m in {names} if m in sys.modules])\n"
        "print([m for m in sys.modules if m.startswith(('prompt_tuning_', 'email.'))\n"
        "       and not m.startswith('prompt_tuning_core')])\n"
    )
    lines = zoo.python("-c", code).stdout.splitlines()
    assert lines[-2:] == ["[]", "[]"]
    assert any(line.split()[:2] == ["initializer", "init_good"] for line in lines)


def test_json_has_the_documented_fields(zoo):
    (row,) = zoo.rows()["init_good"]
    assert row == {
        "kind": "initializer",
        "name": "init_good",
        "usage": "@plugins.init_good()",
        "distribution": "good",
        "version": "2.5",
        "status": "ok",
        "description": "A good one",
        "detail": "",
    }
    assert list(row) == [
        "kind", "name", "usage", "distribution", "version", "status", "description", "detail"
    ]  # fmt: skip


def test_usage_says_how_each_kind_is_used(zoo):
    rows = zoo.rows()
    assert rows["exits"][0]["usage"] == "@plugins.exits"
    assert rows["engineless"][0]["usage"] == "--engine engineless"
    assert rows["hookless"][0]["usage"] == "HOOKS = ['hookless']"
    assert rows["model.show"][0]["usage"] == "prompt-tuning model show"
    assert rows["list-plugins"][0]["usage"] == "prompt-tuning list-plugins"


def test_table_is_aligned_and_says_why_instead_of_what(zoo):
    process = zoo.command("list-plugins")
    assert process.returncode == 0
    assert process.stderr == ""
    header, *lines = process.stdout.splitlines()
    assert header.split() == [
        "KIND", "NAME", "USAGE", "STATUS", "DISTRIBUTION", "VERSION", "DESCRIPTION"
    ]  # fmt: skip
    by_name = {line.split()[1]: line for line in lines}
    assert by_name["init_good"][header.index("DESCRIPTION") :] == "A good one"
    assert by_name["init_good"][header.index("STATUS") :].startswith("ok ")
    assert "right 1.0 (initializer)" in process.stdout
    assert "left 1.0 (initializer)" in process.stdout


def test_two_distributions_with_one_name_are_both_conflicts(zoo):
    rows = zoo.rows()["init_twice"]
    assert [(row["distribution"], row["status"]) for row in rows] == [
        ("left", "conflict"),
        ("right", "conflict"),
    ]
    assert "right 1.0" in rows[0]["detail"]
    assert "--block-plugin=right:init_twice" in rows[0]["detail"]


def test_one_name_in_two_kinds_is_a_conflict(zoo):
    assert [(row["kind"], row["status"]) for row in zoo.rows()["both"]] == [
        ("initializer", "conflict"),
        ("hooks", "conflict"),
    ]


@pytest.mark.parametrize("item", ["left", "left:init_twice", "LEFT", "something,left"])
@pytest.mark.parametrize("by_flag", [True, False])
def test_blocking_one_settles_a_conflict(zoo, item, by_flag):
    rows = (
        zoo.rows("--block-plugin", item) if by_flag else zoo.rows(PROMPT_TUNING_BLOCK_PLUGINS=item)
    )
    assert [row["status"] for row in rows["init_twice"]] == ["blocked", "ok"]
    assert "PROMPT_TUNING_BLOCK_PLUGINS" in rows["init_twice"][0]["detail"]


def test_allow_list_blocks_the_rest(zoo):
    rows = zoo.rows("--allow-plugin=good", "--allow-plugin=right:init_twice")
    ok = {
        row["name"]: row["distribution"]
        for r in rows.values()
        for row in r
        if row["status"] == "ok"
    }
    core = {"eval", "infer", "list-plugins", "train"}
    assert ok == {
        "init_good": "good", "init_twice": "right", **dict.fromkeys(core, "prompt-tuning-core")
    }  # fmt: skip
    assert rows["init_raises"][0]["status"] == "blocked"
    (row,) = zoo.rows(PROMPT_TUNING_ALLOW_PLUGINS="init_good")["init_raises"]
    assert row["status"] == "blocked"
    assert "not among the allowed" in row["detail"]


def test_filter_that_names_nothing_is_refused(zoo):
    assert "a:b:c" in zoo.error("list-plugins", "--block-plugin=a:b:c")


def test_metadata_that_cannot_be_used_is_a_broken_row(zoo):
    rows = zoo.rows()
    assert rows["init_malformed"][0]["status"] == "broken"
    assert "not a module!" in rows["init_malformed"][0]["detail"]
    assert rows["init-dashed"][0]["status"] == "broken"
    assert "identifier" in rows["init-dashed"][0]["detail"]


GROUP = "[prompt_tuning.initializers]"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{GROUP}\ninit_torn\n", "'init_torn'"),
        (f"\ufeff{GROUP}\ninit_torn = torn:f\n", repr(f"\ufeff{GROUP}")),
        (f"{GROUP[:-1]}\ninit_torn = torn:f\n", repr(GROUP[:-1])),
        ("# Without its group.\n\ninit_torn = torn:f\n", "'init_torn = torn:f'"),
        (f"{GROUP}\ninit_torn = torn:f\n".encode("utf-16"), "UnicodeDecodeError"),
    ],
)
def test_unreadable_entry_points_do_not_hide_the_others(zoo, text, found):
    zoo.distribution("torn", "", requires=["prompt-tuning-core"])
    content = text if isinstance(text, bytes) else text.encode()
    (zoo.folder / "torn-1.0.dist-info" / "entry_points.txt").write_bytes(content)
    rows = zoo.rows()
    assert rows["init_good"][0]["status"] == "ok"
    (row,) = rows[""]
    assert (row["distribution"], row["status"]) == ("torn", "broken")
    assert "entry_points.txt cannot be read" in row["detail"]
    assert found in row["detail"]


def test_odd_entry_points_of_distributions_that_are_not_for_us_are_no_rows(zoo):
    zoo.distribution("foreign", "pytest11 = foreign\n")
    assert "" not in zoo.rows()


@pytest.mark.parametrize("old", ["good-0.1.dist-info", "Good.egg-info"])
def test_a_second_copy_of_a_distribution_is_a_row_if_its_plugins_differ(site, old):
    source = {"good.py": "def init_good(): pass"}
    site.distribution("good", {"initializers": {"init_good": "good:init_good"}}, source)
    copy = site.folder / "elsewhere" / old
    copy.mkdir(parents=True)
    file = "PKG-INFO" if old.endswith("egg-info") else "METADATA"
    copy.joinpath(file).write_text("Metadata-Version: 2.1\nName: good\nVersion: 0.1\n")
    points = copy / "entry_points.txt"
    points.write_text(f"{GROUP}\ninit_good = good:init_good\n")
    path = f"{site.folder}{os.pathsep}{copy.parent}"
    assert "" not in site.rows(PYTHONPATH=path)
    points.write_text(f"{GROUP}\ninit_gone = good:init_gone\n")
    rows = site.rows(PYTHONPATH=path)
    assert "init_gone" not in rows
    assert rows["init_good"][0]["status"] == "ok"
    (row,) = rows[""]
    assert (row["distribution"], row["version"], row["status"]) == ("good", "0.1", "broken")
    assert f"is a second copy with other plugins, in {copy.parent}; uninstall" in row["detail"]


def test_metadata_that_cannot_be_read_leaves_the_plugin_usable(site):
    source = {"good.py": "def init_good(): pass"}
    for name in ("good", "better"):
        site.distribution(name, {"initializers": {f"init_{name}": "good:init_good"}}, source)
        (site.folder / f"{name}-1.0.dist-info" / "METADATA").write_bytes(b"Name: caf\xe9\n")
    rows = site.rows()
    for name in ("good", "better"):
        (row,) = rows[f"init_{name}"]
        assert (row["distribution"], row["version"], row["status"]) == ("unknown", "unknown", "ok")


def test_check_loads_each_and_survives_all(zoo):
    process = zoo.command("list-plugins", "--check", "--json", "--block-plugin=across")
    assert process.returncode == 1
    assert "imported" in process.stderr  # What a plugin prints is kept out of the list.
    found = {row["name"]: (row["status"], row["detail"]) for row in json.loads(process.stdout)}
    assert found["init_good"] == ("ok", "")
    assert found["both"][0] == "blocked"
    for name, status, detail in [
        ("init_twice", "conflict", "the name is also claimed by"),
        ("init_old", "incompatible", "requires 'Prompt_Tuning.Core (<1)'"),
        ("init_raises", "broken", "fails to import: ZeroDivisionError: division by zero"),
        ("exits", "broken", "fails to import: SystemExit: 3"),
        ("init_lacks", "broken", "names 'good:init_y', and there is no 'init_y' in it"),
        ("init_number", "broken", "names a value of type int, which cannot be called"),
        ("engineless", "broken", "without train, eval, infer"),
        ("hookless", "broken", "no function marked by prompt_tuning_core.hookspecs.hookimpl"),
        ("badhook", "broken", "weather"),
        ("nohook", "broken", "step_loged"),
        ("init_malformed", "broken", "not a module!"),
    ]:
        assert found[name][0] == status, name
        assert detail in found[name][1], name


def test_check_succeeds_where_all_is_well(zoo):
    process = zoo.command("list-plugins", "--check", "--allow-plugin=good")
    assert process.returncode == 0


DETAILED = """
print("imported")

def init_x(top=1.5, *, name):
    \"\"\"Makes one.

    In more words.
    \"\"\"
"""


@pytest.fixture
def detailed(site):
    requires = ["numpy>=1", "prompt-tuning-core>=99", "not-there", "x; extra == 'more'", "?"]
    site.distribution(
        "detailed",
        {"initializers": {"init_details": "detailed_one:init_x"}, "commands": {"a-few": "gone"}},
        {"detailed_one.py": DETAILED},
        requires=requires,
    )
    return site


def test_one_plugin_is_shown_without_importing_it(detailed):
    process = detailed.command("list-plugins", "init_details")
    assert process.returncode == 0, process.stderr
    lines = {line.split()[0]: " ".join(line.split()) for line in process.stdout.splitlines()}
    assert lines["object"] == "object detailed_one:init_x"
    assert lines["folder"] == f"folder {detailed.folder}"
    assert lines["requires"] == "requires numpy>=1: met"
    assert lines["not-there:"] == "not-there: not installed"
    assert lines["x;"] == "x; extra == 'more': not needed here"
    assert lines["?:"] == "?: cannot be read"
    assert "not met by" in process.stdout
    assert lines["parameters"] == "parameters not shown; add --import"
    assert "imported" not in process.stdout + process.stderr


def test_imported_it_has_its_parameters_and_its_docstring(main, site):
    site.distribution(
        "good", {"initializers": {"init_shown": "detailed_two:init_x"}},
        {"detailed_two.py": DETAILED}, summary="Good",
    )  # fmt: skip
    code, shown, error = main("list-plugins", "init_shown", "--import")
    assert (code, error) == (0, "imported\n")
    assert shown.endswith(
        "requires      none\n"
        "parameters    plugins.init_shown.top: 1.5\n"
        "              plugins.init_shown.name: must be set\n"
        "docstring     Makes one.\n"
        "\n"
        "              In more words.\n"
    )
    (row,) = json.loads(main("list-plugins", "init_shown", "--import", "--json")[1])
    assert row["parameters"]["plugins.init_shown.top"] == "1.5"
    assert row["docstring"].startswith("Makes one.")
    assert row["folder"] == str(site.folder)


def test_a_distribution_and_a_kind_are_shown(main, detailed):
    (row,) = json.loads(main("list-plugins", "detailed", "--kind=command", "--json")[1])
    assert (row["name"], row["folder"]) == (
        "a-few", "no module named 'gone' is installed; tried sys.path"
    )  # fmt: skip
    _, shown, _ = main("list-plugins", "--kind=engine")
    assert {line.split()[0] for line in shown.splitlines()} == {"KIND", "engine"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "list-plugins init_detail",
            "no plugin or distribution named 'init_detail' is installed; did",
        ),
        ("list-plugins --import", "--import shows one plugin: write list-plugins NAME --import"),
        ("list-plugins --kind=engin", "argument --kind: invalid choice: 'engin'"),
        ("list-plugins init_details --import", "requires 'prompt-tuning-core>=99', and prompt-tun"),
    ],
)
def test_what_cannot_be_shown_is_one_line(main, detailed, line, expected):
    code, shown, error = main(*line.split())
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert expected in error
