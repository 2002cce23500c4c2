"""`prompt-tuning check`: its table and JSON, its exit codes, and what it refuses."""

from __future__ import annotations

import json

import pytest

from prompt_tuning_core import __version__, registry
from prompt_tuning_testing.strangers import STRANGERS

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

SOURCE = """
import jax, jax.numpy as jnp

print("imported")

def init_sound(scale: float = 1.0):
    return lambda rng, shape: jax.random.uniform(rng, tuple(shape), jnp.float32) * scale

def init_deaf():
    return lambda rng, shape: jnp.zeros(tuple(shape))

def init_needy(path):
    return init_sound()

def init_samples(path, scale=1.0):
    assert path == "/here", path
    assert scale == 2.0, scale
    return init_sound(scale)

init_samples.sample_arguments = lambda samples: {"path": "/here"}
"""
SMALL = ("--shape=2x3", "--shape=4x5", "--quick")


@pytest.fixture
def stranger(site):
    names = ("init_sound", "init_deaf", "init_needy", "init_samples")
    points = {name: f"check_me:{name}" for name in names}
    site.distribution("check-me", {"initializers": points}, {"check_me.py": SOURCE})
    registry.configure()


def test_a_sound_initializer(stranger, main):
    code, shown, error = main(
        "check", "plugins.init_samples", *SMALL, "--gin.init_samples.scale=2.0", "--seed=7"
    )
    assert (code, error) == (0, "imported\n")
    first, *lines = shown.splitlines()
    assert first == "initializer plugin 'init_samples' of check-me 1.0 keeps its contract"
    assert len(lines) == 11


def test_a_prompt_module(main):
    code, shown, error = main(
        "check", "prompt_multitask", "--examples=1", "--first-token=5", "--first-token=4",
        "--gin.prompt_multitask.tasks=2", "--gin.prompt_multitask.sentinel=5",
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert shown.splitlines()[0].endswith(f"prompt-multitask {__version__} keeps its contract")
    assert [
        line for line in shown.splitlines() if "not tried" in line and "laxformer" not in line
    ] == []


def test_a_wrong_initializer(stranger, main):
    code, shown, error = main("check", "init_deaf", *SMALL)
    assert (code, error) == (1, "imported\n")
    lines = shown.splitlines()
    assert lines[0] == "initializer plugin 'init_deaf' of check-me 1.0 breaks 1 of 11 clauses"
    assert lines[1].split() == ["failed", "2", "deterministic_and_rng"]
    flags = "--kind=initializer --examples=2 --seed=0 --shape=2x3 --shape=4x5"
    assert lines[-1] == f"again: prompt-tuning check init_deaf {flags}"
    code, shown, _ = main("check", "init_deaf", "--json", *SMALL)
    assert code == 1
    rows = {row["name"]: row for row in json.loads(shown)}
    assert len(rows) == 11
    assert rows["deterministic_and_rng"]["outcome"] == "failed"
    assert "gave the same values" in rows["deterministic_and_rng"]["detail"]
    assert {row["outcome"] for row in rows.values()} == {"passed", "failed"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("check", "the following arguments are required: NAME"),
        ("check init_sond", "named 'init_sond' is installed; did you mean 'init_sound'"),
        ("check prompt_basic --shape=2x3", "--shape is not for a plugin of the kind prompt"),
        ("check init_sound --first-token=3", "--first-token is not for a plugin of the kind init"),
        ("check unread", "unread 1.0: its entry_points.txt cannot be read"),
        ("check init_sound --kind=hooks", "no hooks plugin or distribution named 'init_sound' is"),
        ("check init_sound --kind=hook", "argument --kind: invalid choice: 'hook'"),
        ("check tell --gin.tell.x=1", "unknown flag '--gin.tell.x=1'"),
        ("check init_needy", "the type of the parameter 'path' does not say what to try; give it"),
        ("check init_sound --gin.init_soun.scale=1", "it takes --gin.init_sound.PARAMETER=VALUE"),
        ("check init_sound --gin.init_sound.scale=@x", "@x is no value; write a number, a list"),
        ("check init_sound --fast", "unknown flag '--fast'"),
        (
            "check init_sound --shape=3",
            "argument --shape: is '3', expected two sizes such as",
        ),
        ("check init_sound --shape=0x3", "argument --shape: is '0x3', expected two sizes"),
        ("check init_sound --examples=0", "--examples is 0, expected a number of at least 1"),
        ("check init_sound --block-plugin=check-me", "may not be used: 'check-me' is blocked"),
    ],
)
def test_misuse_is_one_line(stranger, site, main, line, expected):
    STRANGERS["hooks"].put(site)
    site.distribution("unread", "prompt_tuning.initializers\nx = y:z\n")
    registry.configure()
    code, shown, error = main(*line.split(), "--json")
    assert (code, shown) == (2, "")
    assert error.removeprefix("imported\n").count("\n") == 1
    assert expected in error


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("init_old", "incompatible", "requires 'prompt-tuning-core<1', and prompt-tuning-core"),
        ("init_raises", "broken", "fails to import: ZeroDivisionError: division by zero"),
        ("init_twice", "conflict", "the name is also claimed by"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(site, stranger, main, name, status, expected):
    old = ["prompt-tuning-core<1"]
    site.distribution("old", {"initializers": {"init_old": "check_me:init_sound"}}, requires=old)
    points = {"init_raises": "raises_here:x", "init_twice": "check_me:init_sound"}
    site.distribution("raises", {"initializers": points}, {"raises_here.py": "1 / 0"})
    site.distribution("twice", {"initializers": {"init_twice": "check_me:init_deaf"}})
    registry.configure()
    code, shown, error = main("check", name)
    assert (code, error) == (1, "")
    for line in filter(None, shown.split("\n")):  # Two plugins have one name.
        assert f"cannot be checked ({status}): " in line
        assert expected in line
    code, shown, error = main("check", name, "--json")
    assert (code, error) == (1, "")
    rows = json.loads(shown)
    assert {(row["plugin"], row["name"], row["outcome"]) for row in rows} == {
        (name, "loads", "failed")
    }
    assert expected in rows[0]["detail"]


def test_all_plugins_of_a_distribution(site, main):
    STRANGERS["hooks"].put(site)
    STRANGERS["engine"].put(site)
    registry.configure()
    code, shown, _ = main("check", "A_Strangers.hooks")
    assert code == 0
    assert shown.startswith("hooks plugin 'tell' of a-strangers-hooks 0.3.0 keeps its contract\n")
    code, shown, _ = main("check", "a-strangers-engine", "--kind=configs", "--json")
    assert code == 0
    assert {row["plugin"] for row in json.loads(shown)} == {"mine"}
    assert {row["kind"] for row in json.loads(shown)} == {"configs"}
