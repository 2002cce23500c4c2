"""Warnings of deprecated names."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompt_tuning_core import deprecation


def test_a_warning_has_the_name_the_replacement_the_version_and_the_callers_line():
    def old():
        deprecation.warn("init_old", "init_new", "a-plugin 2.0")

    with pytest.warns(FutureWarning) as caught:
        old()

    (warning,) = caught
    expected = "init_old is deprecated, and a-plugin 2.0 removes it; use init_new"
    assert str(warning.message) == expected
    assert warning.filename == __file__
    assert "old()" in Path(__file__).read_text().splitlines()[warning.lineno - 1]
