"""MIXTURE_OR_TASK_MODULE names a plugin of kind tasks, or a module."""

from __future__ import annotations

import json

REGISTERS = "import prompt_tuning_tasks as tasks\ntasks.register(tasks.TextTask({!r}, {{}}))\n"

# Imports each name that it is given, and prints what came of it.
TRY = """
import json, sys
import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import PromptTuningError
results = {}
for name in sys.argv[1:]:
    before = set(tasks.names())
    try:
        tasks.import_module(name)
        results[name] = sorted(set(tasks.names()) - before)
    except PromptTuningError as e:
        results[name] = str(e)
print(json.dumps(results))
"""

# By name: the tasks that it registers, or the error.
EXPECTED = {
    "parcels": ["parcel"],  # a plugin
    "strange_parcels.more": ["more"],  # a module
    "lone": ["lone"],  # a module in no package
    "same": ["same"],  # a plugin that has the name of its module
    "data": ["of_data"],  # a plugin, for a folder of that name holds no module
    "parcel": "'parcel' is neither a plugin of kind tasks nor a module that Python finds; "
    "did you mean 'parcels'?",
    "strange_parcels.moer": "'strange_parcels.moer' is neither a plugin of kind tasks nor a module",
    "needs_more": "'needs_more' fails to import: ModuleNotFoundError: No module named 'no_such'",
    "raises": "'raises' fails to import: RuntimeError: no data today",
    "broken": "tasks plugin 'broken' of strange-parcels 1.0 fails to import: RuntimeError: no data",
    "no_module": "names a value of type int, and tasks are registered by a module",
    "both": "'both' names both tasks plugin 'both' of strange-parcels 1.0 and the module",
    "twice": "the name is also claimed by",
    "..": "'..' is neither a plugin",
}


def strangers(site):
    modules = {
        "strange_parcels/__init__.py": REGISTERS.format("parcel") + "NUMBER = 3\n",
        "strange_parcels/more.py": REGISTERS.format("more"),
        "lone.py": REGISTERS.format("lone"),
        "same.py": REGISTERS.format("same"),
        "of_data.py": REGISTERS.format("of_data"),
        "both.py": REGISTERS.format("both"),
        "raises.py": "raise RuntimeError('no data today')\n",
        "needs_more.py": "import no_such\n",
        "data/rows.txt": "",
    }
    for file in modules:
        site.folder.joinpath(file).parent.mkdir(exist_ok=True)
    points = {
        "parcels": "strange_parcels",
        "same": "same",
        "data": "of_data",
        "both": "strange_parcels.more",
        "broken": "raises",
        "no_module": "strange_parcels:NUMBER",
        "twice": "strange_parcels",
    }
    site.distribution("strange-parcels", {"tasks": points}, modules)
    site.distribution("rival-parcels", {"tasks": {"twice": "strange_parcels.more"}})


def attempt(site, *names, **variables):
    process = site.python("-c", TRY, *names, **variables)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_plugin_or_a_module_registers_the_tasks(site):
    strangers(site)
    results = attempt(site, *EXPECTED)
    for name, expected in EXPECTED.items():
        if isinstance(expected, list):
            assert results[name] == expected, name
        else:
            assert expected in results[name]
            assert "\n" not in results[name]
    assert "block the plugin with --block-plugin=strange-parcels:both" in results["both"]


def test_a_blocked_plugin_leaves_its_name_to_a_module(site):
    strangers(site)
    results = attempt(site, "both", "parcels", PROMPT_TUNING_BLOCK_PLUGINS="both,parcels")
    assert results["both"] == ["both"]
    assert "tasks plugin 'parcels' of strange-parcels 1.0 may not be used" in results["parcels"]
