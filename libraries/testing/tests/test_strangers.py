"""The strangers' distributions, as fakes; tests/test_distributions.py uses their wheels."""

from __future__ import annotations

import json

import pytest

from prompt_tuning_core import kinds
from prompt_tuning_testing.strangers import STRANGERS


@pytest.mark.parametrize("kind", STRANGERS)
def test_each_fake_is_a_plugin_of_its_kind(kind, in_process, main):
    STRANGERS[kind].put(in_process)
    listed = json.loads(main("list-plugins", "--check", "--json")[1])
    rows = [row for row in listed if row["distribution"] == STRANGERS[kind].name]
    assert kind in {row["kind"] for row in rows}
    assert {(row["version"], row["status"]) for row in rows} == {("0.3.0", "ok")}


def test_every_kind_but_tasks_has_a_stranger():
    assert set(kinds.KINDS) - set(STRANGERS) == {"tasks"}
