"""Curves without Matplotlib, and logs of others while states are stored."""

from __future__ import annotations

import io
import logging
import sys

import rich.console

from prompt_tuning_engine_local.runs import reporting, state_store


def test_without_matplotlib_one_line_names_the_extra(tmp_path, monkeypatch):
    # A name that is None in `sys.modules` cannot be imported.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib.backends.backend_agg", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib.backends", raising=False)
    shown = io.StringIO()
    report = reporting.TrainingReport(tmp_path, rich.console.Console(file=shown))
    report.draw(tmp_path / "curves.png")
    report.close()
    (line,) = shown.getvalue().splitlines()
    assert line.startswith("no curves.png: ")
    assert line.endswith("pip install 'prompt-tuning-engine-local[curves]'")
    assert not (tmp_path / "curves.png").exists()


def test_a_store_of_states_leaves_the_absl_logger_to_others(tmp_path):
    absl = logging.getLogger("absl")
    before = absl.level, list(absl.filters)
    theirs = logging.LogRecord("absl", logging.ERROR, __file__, 1, "mine", None, None)
    orbaxs = logging.LogRecord("absl", logging.ERROR, "/x/orbax/a.py", 1, "orbax", None, None)
    store = state_store.StateStore(tmp_path)
    assert absl.level == before[0]
    assert absl.filter(theirs)
    assert not absl.filter(orbaxs)
    store.close()
    assert (absl.level, list(absl.filters)) == before


DAMAGED = ["", "{", "[]", "3", '{"loss": 1}', '{"step": 1e400}', '{"step": 1, "loss": "x"}', "\x00"]


def test_damaged_lines_of_metrics_are_left_out(tmp_path):
    whole = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": null}']
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([whole[0], *DAMAGED, whole[1], '{"step": 3, "loss": 1.0}']))
    report = reporting.TrainingReport(tmp_path, rich.console.Console(file=io.StringIO()), 2)
    report.close()
    assert path.read_text().splitlines() == whole
    assert list(report.history["loss"]) == [1, 2]
