"""Curves without Matplotlib, and logs of others while states are stored."""

from __future__ import annotations

import io
import logging
import sys

import pytest
import rich.console

from prompt_tuning_engine_local.runs import reporting, state_store
from prompt_tuning_files import run_files


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


def test_seconds_add_up_over_the_parts_of_a_run(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    console = rich.console.Console(file=io.StringIO())
    # The second part resumes at step 2; the third finds that the run has ended.
    for resumed_at, steps in ((None, (1, 2, 3)), (2, (3, 4)), (4, ())):
        report = reporting.TrainingReport(tmp_path, console, resumed_at)
        for step in steps:
            clock.now += 4.0
            report.step(step, {reporting.LOSS: 1.0})
        if resumed_at is not None:
            clock.now += 1.0
            report.end(4)
        report.close()
        clock.now += 1000.0
    lines = map(run_files.parse_line, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [(line.step, line.seconds, line.has_ended) for line in lines] == [
        (1, 4.0, False), (2, 8.0, False), (3, 12.0, False), (4, 16.0, False), (4, 17.0, True),
    ]  # fmt: skip


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now


@pytest.mark.parametrize("is_terminal", [False, True])
def test_without_a_terminal_there_is_a_line_each_minute(tmp_path, monkeypatch, is_terminal):
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    shown = io.StringIO()
    console = rich.console.Console(file=shown, force_terminal=is_terminal)
    report = reporting.TrainingReport(tmp_path, console)
    with report.training(steps=100, batch_size=8, done=10):
        for step in range(11, 101):
            clock.now += 4.0
            report.step(step, {reporting.LOSS: 1 / step})
    report.close()
    lines = [line for line in shown.getvalue().splitlines() if "steps taken" in line]
    if is_terminal:
        assert lines == []
        return
    assert len(lines) == 6
    assert lines[0] == (
        "step 25: loss per token 0.040, 25 of 100 steps taken, 2 examples/s, 0:05:00 left"
    )
    assert lines[-1].endswith("100 of 100 steps taken, 2 examples/s, 0:00:00 left")
