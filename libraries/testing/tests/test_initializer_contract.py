"""The contract of initializers (docs/plugins.md): each check finds its faults, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import pytest

# pytest's importlib mode leaves this folder off the path.
sys.path.insert(0, str(Path(__file__).parent))

import planted_initializers as planted

from prompt_tuning_testing import (
    INITIALIZER_CHECKS,
    ContractError,
    check_initializer,
    checks,
    parametrize_with_checks,
)
from prompt_tuning_testing.initializers import initializer_subject

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

BY_NAME = {check.name: check for check in INITIALIZER_CHECKS}


@pytest.mark.parametrize(
    "case", planted.PLANTED, ids=[f"{one.check}: {one.name}" for one in planted.PLANTED]
)
def test_each_planted_fault_is_found_by_its_check(case):
    subject = initializer_subject(case.factory, case.arguments, **case.options)
    result = checks.run(BY_NAME[case.check], subject, max_examples=20)
    assert result.outcome == "failed", result
    assert case.says in result.detail


ALL_CHANGES = """
import json, sys
sys.path[:0] = sys.argv[1:]
import planted_initializers as planted
from prompt_tuning_testing import other_process
changes = {}
for name, act, _ in planted.PROCESS:
    task = other_process.Task(lambda table: planted.after(act)(), 8, [((2, 3), 0)])
    changes[name] = other_process.watched(task)["changes"]
print(json.dumps(changes), file=open("changes.json", "w"))
"""


def test_each_change_of_the_process_is_found(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "USER": "somebody"}
    folder = Path(planted.__file__).parent
    subprocess.run(
        [sys.executable, "-c", ALL_CHANGES.replace("changes.json", str(tmp_path / "c")), folder],
        env=environment, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    changes = json.loads((tmp_path / "c").read_text())
    for name, _, says in planted.PROCESS:
        assert says in "; ".join(changes[name]), name


def test_there_are_faults_enough():
    assert len(planted.PLANTED) + len(planted.PROCESS) - 1 >= 60
    assert {case.check for case in planted.PLANTED} == BY_NAME.keys()


@pytest.mark.parametrize("name", planted.SOUND)
def test_sound_initializers_pass(name):
    factory, arguments, options = planted.SOUND[name]
    subject = initializer_subject(factory, arguments, max_examples=2, **options)
    # What another process finds of one of JAX's factories, it finds of all.
    tried = [c for c in INITIALIZER_CHECKS if options is not planted.FEW or c.examples is not None]
    results = checks.run_all(tried, subject, max_examples=2)
    assert [result for result in results if not result.passed] == []


PRINT_EXAMPLES = """
from prompt_tuning_testing import checks, initializers
subject = initializers.initializer_subject(lambda: None, {}, seed=3)
print(*checks.collected(subject.examples(), 3, 20))
"""


def test_the_seed_alone_determines_the_examples(tmp_path):
    """hypothesis would draw the numbers of the author's own modules, too."""
    (tmp_path / "numbers_of_mine.py").write_text(f"X = {list(range(100, 9999, 7))}\n")
    shown = [
        subprocess.run(
            [sys.executable, "-c", code + PRINT_EXAMPLES],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout
        for code in ("", "import numbers_of_mine")
    ]  # fmt: skip
    assert shown[0] == shown[1]
    assert len(set(shown[0].split("shape"))) > 15


def deaf(rng, shape):
    return jnp.zeros(tuple(shape))


def test_the_table_shows_the_failed_check_first_and_how_to_try_again():
    results = check_initializer(lambda: deaf, {}, shapes=[(3, 4)], max_examples=3, seed=5)
    assert [result.name for result in results.failed] == ["deterministic_and_rng"]
    with pytest.raises(ContractError) as caught:
        results.raise_if_failed()
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("<lambda> breaks 1 of 11 clauses")
    assert lines[1].split() == ["failed", "2", "deterministic_and_rng"]
    assert "17 keys gave the same values" in " ".join(lines[2:4])
    assert lines[-1].endswith("max_examples=3, seed=5)")
    assert [line.split()[0] for line in lines[-11:-1]] == ["passed"] * 10


def test_an_expected_failure_is_strict():
    def outcomes(factory):
        result = checks.run(
            BY_NAME["deterministic_and_rng"],
            initializer_subject(factory, {}, shapes=[(3, 4)]),
            max_examples=2,
            expected_failures={"deterministic_and_rng": "it is constant"},
        )
        return result.outcome, result.detail

    outcome, detail = outcomes(lambda: deaf)
    assert (outcome, detail[:18]) == ("expected failure", "it is constant (sh")
    assert outcomes(lambda: planted.uniform) == (
        "failed",
        "passes, and is declared to fail: it is constant",
    )


def test_what_cannot_be_sent_to_another_process_is_not_tried():
    lock = threading.Lock()  # Which cannot be pickled.
    factory = planted.changed(lambda x, rng, shape: x + 0 * lock.locked())
    results = check_initializer(factory, {}, shapes=[(3, 4)], max_examples=2)
    outcomes = {result.name: result.outcome for result in results}
    sent = ("other_process", "leaves_the_process_alone", "bounded_memory_of_jax")
    assert [name for name in outcomes if outcomes[name] == "not tried"] == list(sent)
    assert results.failed == []
    assert "cannot be sent to another process" in results[3].detail


@parametrize_with_checks(
    lambda: deaf,
    {},
    shapes=[(3, 4)],
    max_examples=2,
    expected_failures={"deterministic_and_rng": "it is constant"},
)
def test_each_check_is_a_test(check, request):
    assert request.node.callspec.id in BY_NAME
    check()


def test_missing_hypothesis_is_named():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from prompt_tuning_testing import check_initializer\n"
        "try: check_initializer(lambda: None)\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install hypothesis" in run.stdout
