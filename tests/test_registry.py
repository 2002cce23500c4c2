"""Loading plugins by name: what it returns, imports and refuses."""

from __future__ import annotations

import json
import sys

import pytest

from prompt_tuning_core import errors, kinds, plugins, registry

FUNCTION = "def init_x(scale=1.0):\n    return scale\n"
HOOKS = """\
from prompt_tuning_core.hookspecs import hookimpl

@hookimpl
def step_logged(step, metrics):
    print("{name}", step, metrics["loss"])

@hookimpl
def run_finished():
    print("{name} finished")
"""


def load(site, kind, name, **variables):
    """Loads a plugin in a new process; returns the modules imported or the error's last line."""
    code = (
        "import sys, json\n"
        "from prompt_tuning_core import registry, errors\n"
        f"try: registry.process_registry().load({kind!r}, {name!r})\n"
        "except errors.PluginError as error: print(type(error).__name__, error)\n"
        "else: print(json.dumps(sorted(sys.modules)))\n"
    )
    process = site.python("-c", code, **variables)
    assert process.returncode == 0, process.stderr
    return process.stdout.rstrip("\n")


def test_loading_imports_the_named_plugin_and_no_other(site):
    site.distribution(
        "two",
        {"initializers": {"init_one": "one:init_x", "init_other": "other:init_x"}},
        {"one.py": FUNCTION, "other.py": FUNCTION},
    )
    modules = json.loads(load(site, "initializer", "init_one"))
    assert "one" in modules
    assert not {"other", "jax", "flax", "gin", "tensorflow"} & set(modules)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (
            "initializer",
            "init_goodd",
            "UnknownPluginError no initializer plugin named 'init_goodd'",
        ),
        ("initializer", "init_goodd", "did you mean 'init_good'"),
        ("prompt", "init_good", "is not of kind prompt: it is used as @plugins.init_good()"),
        (
            "initializer",
            "init_raises",
            "PluginLoadError initializer plugin 'init_raises' of bad 3.1",
        ),
        ("initializer", "init_raises", "AttributeError: a cause on two lines"),
        ("initializer", "init_lacks", "there is no 'init_y' in it"),
        ("initializer", "init_nested", "there is no 'deeper' in it"),
        ("initializer", "init_missing", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("initializer", "init_number", "type int, which cannot be called"),
        ("engine", "halfway", "an engine class without eval, infer"),
        ("engine", "instance", "an engine is a class"),
        ("hooks", "class_of_hooks", "hooks are a module or an instance"),
        ("initializer", "init_future", "requires 'prompt-tuning-core>=2', and prompt-tuning-core"),
        ("initializer", "init_future", f"{registry.__version__} is installed"),
        ("initializer", "init_odd", "cannot be read: 'prompt-tuning-core>=banana'"),
    ],
)
def test_refusals_name_plugin_distribution_version_and_cause(site, kind, name, expected):
    site.distribution("good", {"initializers": {"init_good": "good:init_x"}}, {"good.py": FUNCTION})
    site.distribution(
        "bad",
        {
            "initializers": {
                "init_raises": "raising:f",
                "init_lacks": "good:init_y",
                "init_nested": "good:init_x.deeper",
                "init_missing": "no_such_module:f",
                "init_number": "sys:maxsize",
            },
            "engines": {"halfway": "engines:Halfway", "instance": "engines:instance"},
            "hooks": {"class_of_hooks": "engines:Halfway"},
        },
        {
            "raising.py": "raise AttributeError('a cause\\n  on two lines')\n",
            "engines.py": "class Halfway:\n    def train(self): pass\ninstance = Halfway()\n",
        },
        version="3.1",
    )
    for distribution, requirement in (("future", ">=2"), ("odd", ">=banana")):
        site.distribution(
            distribution,
            {"initializers": {f"init_{distribution}": "good:init_x"}},
            requires=[f"prompt-tuning-core{requirement}"],
        )
    assert expected in load(site, kind, name)


def test_conflict_names_both_and_a_way_out(site):
    for name in ("left", "right"):
        site.distribution(
            name, {"initializers": {"init_x": f"{name}:init_x"}}, {f"{name}.py": FUNCTION}
        )
    message = load(site, "initializer", "init_x")
    assert message.startswith("PluginConflictError")
    assert "of left 1.0" in message
    assert "right 1.0" in message
    assert "--block-plugin=right:init_x" in message
    modules = load(site, "initializer", "init_x", PROMPT_TUNING_BLOCK_PLUGINS="right:init_x")
    assert "left" in json.loads(modules)


def test_blocked_plugin_is_not_imported(site):
    site.distribution("good", {"initializers": {"init_good": "good:init_x"}}, {"good.py": "1/0"})
    message = load(site, "initializer", "init_good", PROMPT_TUNING_BLOCK_PLUGINS="good")
    assert message.startswith("PluginBlockedError initializer plugin 'init_good' of good 1.0")


def test_a_new_kind_is_one_entry_of_the_table(site):
    site.distribution("f", {"metrics": {"npy2": "f:init_x"}}, {"f.py": FUNCTION})
    code = (
        "from prompt_tuning_core import kinds, registry\n"
        "kinds.KINDS['metric'] = kinds.Kind(\n"
        "    'metric', 'prompt_tuning.metrics', '--metric {name}', lambda loaded: None)\n"
        "print([p.usage for p in registry.process_registry().discover() if p.kind == 'metric'])\n"
        "print(registry.process_registry().load('metric', 'npy2')())\n"
    )
    assert site.python("-c", code).stdout == "['--metric npy2']\n1.0\n"


def test_unknown_kind_is_an_error():
    with pytest.raises(errors.InputError, match="did you mean 'initializer'"):
        registry.process_registry().load("initialiser", "init_vocab")


def test_only_hooks_asked_for_run_in_the_order_asked(site):
    for name in ("first", "second", "third"):
        site.distribution(name, {"hooks": {name: name}}, {f"{name}.py": HOOKS.format(name=name)})
    code = (
        "from prompt_tuning_core import registry\n"
        "registry.process_registry().load('hooks', 'third')\n"
        "hooks = registry.process_registry().load_hooks(['second', 'first', 'second'])\n"
        "hooks.step_logged(step=1, metrics={'loss': 0.5})\n"
        "hooks.prompt_saved(paths=['x.npy'], provenance={})\n"
        "hooks.run_finished(run=None)\n"
        "registry.process_registry().load_hooks([]).step_logged(step=2, metrics={})\n"
    )
    process = site.python("-c", code)
    assert process.stdout.splitlines() == [
        "second 1 0.5", "first 1 0.5", "second finished", "first finished"
    ], process.stderr  # fmt: skip


def test_a_trace_shows_which_hooks_ran_with_what(in_process, monkeypatch, capsys):
    source = (
        "from prompt_tuning_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef step_logged(step): pass\n"
    )
    names = {"traced_one": "traced_one", "traced_two": "traced_two"}
    files = {f"{name}.py": source for name in names}
    in_process.distribution("traced", {"hooks": names}, files)
    registry.Registry().load_hooks(names).step_logged(step=3, metrics={})
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("PROMPT_TUNING_TRACE", "1")
    hooks = registry.Registry().load_hooks(names)
    hooks.step_logged(step=3, metrics={})
    hooks.evaluated(step=3, metrics={})
    assert capsys.readouterr().err.splitlines() == [
        "hook step_logged {'step': 3, 'metrics': <class 'dict'>}: traced_one, traced_two",
        "hook evaluated {'step': 3, 'metrics': <class 'dict'>}: no plugin",
    ]


def test_namespace_imports_an_attribute_when_it_is_named(in_process):
    in_process.distribution(
        "lazy",
        {"initializers": {"init_lazy": "lazy_module:init_x", "init_idle": "idle_module:init_x"}},
        {"lazy_module.py": FUNCTION, "idle_module.py": FUNCTION},
    )
    assert "init_lazy" in repr(plugins)
    assert not [name for name in dir(plugins) if not name.startswith("_")]
    assert "lazy_module" not in sys.modules
    assert plugins.init_lazy() == 1.0
    assert "lazy_module" in sys.modules
    assert "idle_module" not in sys.modules


def test_namespace_has_no_other_attributes(in_process):
    in_process.distribution(
        "broken",
        {"initializers": {"init_broken": "broken:f"}, "engines": {"some_engine": "json:tool"}},
        {"broken.py": "raise AttributeError('lost')"},
    )
    for name in ("init_nothing", "__wrapped__", "_init_broken", "sys", "annotations"):
        assert not hasattr(plugins, name)
    with pytest.raises(AttributeError, match=r"some_engine.*it is used as --engine some_engine"):
        _ = plugins.some_engine
    # gin would take an AttributeError for a missing name, and lose its message.
    with pytest.raises(ImportError, match=r"init_broken.*AttributeError: lost"):
        _ = plugins.init_broken


REQUIREMENTS = [
    ("prompt-tuning-core", True),
    ("prompt-tuning-core>=1,<2", True),
    ("prompt-tuning-core==1.*", True),
    ("prompt-tuning-core~=1.0", True),
    ("prompt-tuning-core (>=1)", True),
    ("Prompt.Tuning_Core [x] >= 1 ; python_version >= '3.11'", True),
    ("prompt-tuning-core @ https://example.org/core.whl", True),
    ("prompt-tuning-core-extras>=7", True),
    ("numpy>=77", True),
    ("!an unreadable requirement of something else", True),
    # A marker decides whether the requirement applies.
    ("prompt-tuning-core<1; extra == 'old'", True),
    ("prompt-tuning-core<1; python_version < '3'", True),
    ("prompt-tuning-core<1; python_version > '3'", False),
    ("prompt-tuning-core<1; python_version > '3' and extra == 'old'", True),
    ("prompt-tuning-core>1", False),
    ("prompt-tuning-core~=1.1", False),
    ("prompt-tuning-core!=1.0", False),
    ("prompt-tuning-core=>1", False),
    ("!prompt-tuning-core", False),
]


def test_what_a_plugin_requires_of_the_core_is_compared(site):
    for number, (requirement, _) in enumerate(REQUIREMENTS):
        site.distribution(
            f"d{number}",
            {"initializers": {f"init_{number}": f"good_{number}:init_x"}},
            {f"good_{number}.py": FUNCTION},
            requires=["numpy", requirement],
        )
    rows = site.rows("--check")
    for number, (requirement, met) in enumerate(REQUIREMENTS):
        (row,) = rows[f"init_{number}"]
        assert row["status"] == ("ok" if met else "incompatible"), requirement
        assert met or repr(requirement) in row["detail"]


def test_a_pre_release_of_the_core_is_compared_as_it_is(in_process, monkeypatch):
    in_process.distribution(
        "new",
        {"initializers": {"init_new": "new:init_x"}},
        {"new.py": FUNCTION},
        requires=["prompt-tuning-core>=1,<2"],
    )
    for version, met in [("1.0rc1", False), ("1.1rc1", True), ("1.0.post1", True), ("2", False)]:
        monkeypatch.setattr(registry, "__version__", version)
        plugin = registry.Registry().find("initializer", "init_new")
        assert (registry.Registry().check(plugin).status == "ok") == met, version


def test_two_names_of_one_object_are_not_used_in_one_run(in_process):
    names = {"init_one": "both:init_x", "init_two": "both:init_x"}
    in_process.distribution("both", {"initializers": names}, {"both.py": FUNCTION})
    installed = registry.Registry()
    installed.load("initializer", "init_one")
    with pytest.raises(
        errors.PluginLoadError, match=r"'init_two' of both .* is the same object as"
    ):
        installed.load("initializer", "init_two")


@pytest.mark.parametrize("name", ["macro", "class", "__x__", "_own", "singleton", "ä"])
def test_names_that_gin_cannot_use_are_a_status(in_process, name):
    in_process.distribution("odd", {"initializers": {name: "odd:init_x"}}, {"odd.py": FUNCTION})
    (row,) = (row for row in registry.Registry().discover() if row.name == name)
    assert row.status == "broken"
    assert "that neither Python nor gin keeps for itself" in row.detail


@pytest.mark.parametrize(
    "group",
    ["prompt_tuning.initializer", "prompt-tuning.initializers", "Prompt_Tuning_core.initializers"],
)
def test_groups_that_look_like_ours_are_shown(site, group):
    site.distribution("near", f"[{group}]\ninit_near = near:init_x\n")
    (row,) = site.rows()["init_near"]
    assert (row["kind"], row["status"]) == ("", "broken")
    assert f"its group {group!r} is no kind of plugin" in row["detail"]
    assert "did you mean 'prompt_tuning.initializers'" in row["detail"]


# By kind: a value that is of this kind, and whether its names share gin's namespace.
OF_EACH_KIND = {
    "initializer": ("every:init_x", True),
    "prompt": ("every:Prompt", True),
    "engine": ("every:Engine", True),
    "hooks": ("every", True),
    "configs": ("json", False),
    "tasks": ("json", False),
    "format": ("every:Format", False),
    "catalog": ("every:catalog", False),
    "command": ("every:command", False),
}
EVERY = """\
import types
from prompt_tuning_core.hookspecs import hookimpl

def init_x(): pass
def nothing(*args): pass

@hookimpl
def run_finished(): pass

class Prompt: pass
class Engine: train = eval = infer = nothing
class Format: recognizes_prompt = read_prompt = nothing
catalog = types.SimpleNamespace(models=nothing, prompts=nothing)
command = types.SimpleNamespace(add_arguments=nothing, run=nothing)
"""


def test_every_kind_has_its_names_and_what_it_must_be(site):
    assert list(OF_EACH_KIND) == list(kinds.KINDS)
    for name, (value, _) in OF_EACH_KIND.items():
        group = kinds.KINDS[name].group.removeprefix("prompt_tuning.")
        site.distribution(
            f"of-{name}",
            {group: {f"a{name}": value, "Not-A-Name": value, f"wrong{name}": "sys:byteorder"}},
            {"every.py": EVERY},
        )
    rows = site.rows("--check")
    for name in kinds.KINDS:
        assert [row["status"] for row in rows[f"a{name}"]] == ["ok"], rows[f"a{name}"]
        assert [row["status"] for row in rows[f"wrong{name}"]] == ["broken"], name
    assert {row["kind"] for row in rows["Not-A-Name"]} == set(kinds.KINDS)
    for row in rows["Not-A-Name"]:
        what = "lower-case words" if row["kind"] == "command" else "a Python identifier in ASCII"
        assert (row["status"], what in row["detail"]) == ("broken", True), row


def test_a_name_is_unique_in_gin_or_within_its_kind(site):
    for name, (value, _) in OF_EACH_KIND.items():
        group = kinds.KINDS[name].group.removeprefix("prompt_tuning.")
        site.distribution(f"of-{name}", {group: {"same": value}}, {"every.py": EVERY})
        for number in (1, 2):
            site.distribution(f"of-{name}-{number}", {group: {f"two{name}": value}})
    rows = site.rows("--check")
    assert {row["kind"]: row["status"] == "conflict" for row in rows["same"]} == {
        name: in_gin for name, (_, in_gin) in OF_EACH_KIND.items()
    }
    for name in kinds.KINDS:
        # Any number of distributions may bring gin files for one engine.
        status = "ok" if name == "configs" else "conflict"
        assert [row["status"] for row in rows[f"two{name}"]] == [status, status]


def test_plugins_of_one_name_are_checked_and_noted_apart(in_process):
    in_process.distribution("one", {"configs": {"same": "json"}})
    in_process.distribution("two", {"configs": {"same": "sys"}})
    installed = registry.Registry()
    rows = [row for row in installed.discover() if row.name == "same"]
    assert [installed.check(row).status for row in rows] == ["ok", "broken"]
    assert [row.distribution for row in installed.loaded()] == ["one"]
