"""`prompt-tuning runs`: groups, columns, best values, and runs that cannot be read."""

from __future__ import annotations

import json

import pytest

from prompt_tuning_files.run_files import Logged


def evaluated(*values, metric="accuracy", seconds=10.0):
    """Returns lines of metrics: a step of training and an evaluation at each multiple of 10."""
    lines = []
    for number, value in enumerate(values):
        lines.append(Logged(10 * number, {f"eval/{metric}": value, "eval/loss": 1 - value}))
        lines.append(Logged(10 * number + 1, {"train/loss": 1.0}, seconds * (number + 1)))
    return [*lines[:-1], Logged(10 * (len(values) - 1), {}, seconds * len(values))]


@pytest.fixture
def runs(site, make_run):
    """Two seeds of one initializer, one of another, an unfinished run, and another task."""
    made = site.cwd / "out"
    make_run(made / "random-0", evaluated(0.1, 0.75, 0.5))
    make_run(made / "random-1", evaluated(0.2, 0.25), seed=1)
    make_run(made / "vocab-0", evaluated(0.3, 0.9), initializer="init_vocab", scale=3.0)
    make_run(made / "wide", evaluated(0.4), batch_size=8, has_ended=False)
    make_run(made / "other", evaluated(0.6, 0.7, metric="f1"), task="plots", best_metric="loss")
    return made


def test_groups_and_what_differs_between_them(runs, main):
    code, shown, error = main("runs", "out")
    assert (code, error) == (0, "")
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert [row for row in table if row] == [
        # A task without two seeds: its row names the run.
        ["out/other", "0", "0.3000", "10", "10", "0:00:20", "ended"],
        ["4", "init_vocab", "1", "0.9000", "0.9000 to 0.9000", "10", "0:00:20"],
        ["4", "init_random", "2", "0.5000", "0.2500 to 0.7500", "10 to 20", "0:00:25"],
        ["8", "init_random", "1 (1 unfinished)", "0.4000", "0.4000 to 0.4000", "0", "0:00:10"],
    ]
    headings = [line for line in shown.splitlines() if "last step" in line]
    assert "lowest loss" in headings[0]
    names = ["BATCH_SIZE", "prompt_init", "seeds", "highest accuracy, mean"]
    assert [cell.strip() for cell in headings[1].split("┃")[1:5]] == names


def test_a_row_for_each_run_and_json_have_the_values_of_the_files(runs, main):
    _, shown, _ = main("runs", "out", "--runs", "--metric", "accuracy", "--lowest")
    assert "lowest accuracy" in shown
    (row,) = [line.split() for line in shown.splitlines() if "random-0" in line]
    assert row[1::2] == ["out/random-0", "4", "init_random", "0", "0.1000", "0", "20", "0:00:30",
                         "ended"]  # fmt: skip
    code, shown, error = main("runs", "out", "out/vocab-0", "--json")
    assert (code, error) == (0, "")
    reviews = next(task for task in json.loads(shown)["tasks"] if task["task"] == "reviews")
    assert reviews["metrics"] == [{"name": "accuracy", "best_is": "highest"}]
    group = reviews["groups"][1]
    assert group["settings"] == {"prompt_init": "init_random", "BATCH_SIZE": "4"}
    assert group["best"] == {"accuracy": {"count": 2, "mean": 0.5, "lowest": 0.25, "highest": 0.75}}
    assert group["runs"][0] == {
        "directory": "out/random-0", "seed": 0, "best": {"accuracy": {"step": 10, "value": 0.75}},
        "last_step": 20, "seconds": 30.0, "has_ended": True,
    }  # fmt: skip


def test_a_terminal_that_is_too_narrow_for_the_words_gets_a_block_for_each_row(
    runs, main, monkeypatch
):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "40"}.items():
        monkeypatch.setenv(name, value)
    _, shown, _ = main("runs", "out")
    assert "seeds                   1\nhighest accuracy, mean  0.9000\n" in shown
    assert "┃" not in shown


def test_parameters_of_one_plugin_are_columns_where_they_alone_differ(site, make_run, main):
    for scale in (0.5, 2.0):
        make_run(site.cwd / f"scale-{scale}", evaluated(scale), scale=scale)
    found = json.loads(main("runs", ".", "--json")[1])["tasks"][0]["groups"]
    assert [group["settings"] for group in found] == [{"scale": "2.0"}, {"scale": "0.5"}]


DAMAGE = {
    "run.json": ('"seed": 0', '"seed": 1', "differs from its checksum"),
    "config.gin": ("", None, "config.gin: can't be read (No such file"),
    "metrics.jsonl": ('{"step": 10', '"step": 10', 'line 3: no line of metrics: \'"step": 10'),
}


@pytest.mark.parametrize("file", DAMAGE)
def test_a_damaged_run_is_a_row_with_its_fault(runs, main, file):
    old, new, fault = DAMAGE[file]
    path = runs / "random-0" / file
    if new is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(old, new))
    code, shown, error = main("runs", "out")
    assert (code, error) == (0, "")
    assert "not readable: 1 run" in shown
    (row,) = [line for line in shown.splitlines() if "random-0" in line]
    assert fault in row
    assert "vocab" in shown


def test_a_line_that_is_being_written_is_no_damage(runs, main):
    with (runs / "wide" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "tra')
    assert "not readable" not in main("runs", "out")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none"], "none: is no directory"),
        (["empty"], "empty: has no run: neither it nor a directory below it has a run.json"),
        (["out", "--metric=acuracy"], "'acuracy' is no metric of these runs; did you mean 'accur"),
        ([], "the following arguments are required: DIR"),
    ],
)
def test_what_runs_refuses(runs, site, main, arguments, expected):
    (site.cwd / "empty").mkdir()
    code, shown, error = main("runs", *arguments)
    assert (code, shown) == (2, "")
    assert expected in error
    assert error.count("\n") == 1


def test_neither_command_imports_jax_or_an_engine(runs, site):
    program = (
        "import sys; from prompt_tuning_core.commands.main import main; "
        "assert main(['runs', 'out']) == 0; assert main(['report', 'out']) == 0; "
        "heavy = {'jax', 'flax', 'gin', 'orbax', 'prompt_tuning_engine_local'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = site.python("-c", program)
    assert done.returncode == 0, done.stderr
    assert "init_vocab" in done.stdout
    assert done.stdout.endswith("wrote report.html: 5 runs\n")
