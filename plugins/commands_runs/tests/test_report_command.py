"""`prompt-tuning report`: the figures of the page equal the files of the run."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

# pytest's importlib mode leaves this folder off the path.
sys.path.insert(0, str(Path(__file__).parent))

from html_tables import Page

from prompt_tuning_commands_runs import comparison_section, line_figures, prompt_geometry
from prompt_tuning_files import module_files
from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.run_files import Logged

LINES = [
    Logged(0, {"eval/accuracy": 0.25}, 1.0),
    Logged(1, {"train/loss": 2.5}, 2.0),
    Logged(2, {"train/loss": 1.0625}, 3.0),
    Logged(2, {"eval/accuracy": 0.75}, 4.0),
    Logged(3, {"train/loss": 1.1}, 5.0),
    Logged(3, {"eval/accuracy": 1 / 3}, 6.5),
]
ANSWERS = [
    {"inputs": "a b", "targets": "test", "prediction": "test", "score": -0.1},
    {"inputs": "c", "targets": "test", "prediction": "that", "score": -1.5},
    {"inputs": "d", "targets": "test", "prediction": "", "score": -2.25},
    {"inputs": "e", "targets": "that", "prediction": "that", "score": -9.0},
]


@pytest.fixture
def prompts():
    """The prompt at the start and at the end, float32 `[3, 4]`."""
    rng = np.random.default_rng(0)
    return {step: rng.standard_normal((3, 4)).astype(np.float32) for step in (0, 3)}


@pytest.fixture
def report(site, main):
    """Returns a function that makes a report on directories, and reads it."""

    def make(*directories):
        code, shown, error = main("report", *directories, "--output=out/page.html")
        assert (code, error) == (0, ""), error
        assert shown.startswith(("wrote ", "replaced "))
        return Page((site.cwd / "out" / "page.html").read_text())

    return make


def test_the_page_of_one_run_has_the_figures_of_its_files(site, make_run, answer, prompts, report):
    run = make_run(site.cwd / "run", LINES, prompts)
    answer(run, ANSWERS)
    held_out = {"split": "test", "examples": 9, "metric": "accuracy", "rows": {"bare": 0.125}}
    (run / "held_out.json").write_text(json.dumps(held_out))
    page = report("run")
    for text in ("reviews: prompt_basic, init_random, seed 0", "3, ended", "0:00:06"):
        assert text in page.texts
    # Curves and scores.
    assert page.values("evaluation: accuracy") == {"0": [0.25], "2": [0.75], "3": [1 / 3]}
    assert page.values("training: loss") == {"1": [2.5], "2": [1.0625], "3": [1.1]}
    scores = page.values("On the split validation")
    assert scores == {"accuracy (highest is best)": [0.25, 0.75, 1 / 3]}
    assert page.values("On 9 held-out examples, split test") == {"bare": [0.125]}
    (majority,) = page.values("Baselines from the targets of the predictions").values()
    assert majority == [0.75, 4]
    # Answers.
    confusions = "Confusions: a row for each target, and the number of its examples by prediction"
    heading = [cell.text for cell in page.tables[confusions][0]]
    assert heading == [
        "targets", "predicted test", "predicted that", "no label", "examples", "right",
    ]  # fmt: skip
    assert page.values(confusions) == {"test": [1, 1, 1, 3, 1 / 3], "that": [0, 1, 0, 1, 1.0]}
    worst = page.values("All 2 wrong predictions, those whose targets the model finds least likely")
    assert list(worst.items()) == [("d", [-2.25]), ("c", [-1.5])]
    # Provenance.
    facts = {row[0].text: row[1].text for row in page.tables["fact, value"][1:]}
    assert (facts["model.sha256"], facts["seed"], facts["step"]) == ("a" * 64, "0", "3")
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "caption"})
    assert not [value for name, value in page.attributes if name in ("src", "href")]


def test_the_page_shows_where_the_prompt_lies(site, make_run, answer, model, prompts, report):
    answer(make_run(site.cwd / "run", LINES, prompts), ANSWERS)
    page = report("run")
    table = safetensors.numpy.load_file(model["model"]["path"])[EMBEDDING_VARIABLE]
    cosines = (prompts[3] @ table.T) / (
        np.linalg.norm(prompts[3], axis=1)[:, None] * np.linalg.norm(table, axis=1)
    )
    rows = page.tables["The positions of prompt_3.npy"][1:]
    for position, row in enumerate(rows):
        ends = [prompts[step][position] for step in (0, 3)]
        lengths = [*(np.linalg.norm(end) for end in ends), np.linalg.norm(ends[1] - ends[0])]
        np.testing.assert_allclose([cell.value for cell in row[1:4]], lengths, rtol=1e-6)
        assert f" {cosines[position].max():.2f}" in row[4].text
    places = page.values("vectors of the prompt")
    assert len(places) == 2 * 3 + 2
    # Two axes of the variance of all vectors, in any directions.
    both = np.concatenate(list(prompts.values())).astype(np.float64)
    found = np.array([places[name] for name in places if name.startswith("position")])
    variances = np.linalg.eigvalsh(np.cov(both.T, bias=True))[::-1][:2]
    np.testing.assert_allclose(found.var(axis=0), variances, rtol=1e-5)


def test_several_runs_are_compared_and_each_is_folded(site, make_run, prompts, report, monkeypatch):
    for seed, initializer in enumerate(("init_random", "init_random", "init_vocab")):
        values = [Logged(line.step, {n: v / (1 + seed) for n, v in line.values.items()}, 1.0)
                  for line in LINES]  # fmt: skip
        make_run(
            site.cwd / "runs" / f"r{seed}", values, prompts, seed=seed, initializer=initializer
        )
    page = report("runs")
    heading = [cell.text for cell in page.tables["evaluation: accuracy"][0]]
    assert heading == ["step", "A1", "A2", "B1"]
    assert page.values("evaluation: accuracy")["2"] == [0.75, 0.375, 0.25]
    groups = page.tables["reviews: 3 runs, a row for each group that differs in more than the seed"]
    assert [[cell.text for cell in row[:5]] for row in groups[1:]] == [
        ["A", "init_random", "2", "0.5625", "0.3750 to 0.7500"],
        ["B", "init_vocab", "1", "0.2500", "0.2500 to 0.2500"],
    ]
    by_plugin = page.tables["highest accuracy, by initializer and variant, over all other settings"]
    assert [[cell.text for cell in row] for row in by_plugin[1:]] == [
        ["init_random", "prompt_basic", "2", "0.5625", "0.3750 to 0.7500"],
        ["init_vocab", "prompt_basic", "1", "0.2500", "0.2500 to 0.2500"],
    ]
    runs = page.tables["reviews: 3 runs, a row for each run"]
    assert [(row[0].text, row[1].text) for row in runs[1:]] == [
        ("A1", "runs/r0"), ("A2", "runs/r1"), ("B1", "runs/r2"),
    ]  # fmt: skip
    for seed in range(3):
        assert f"runs/r{seed}: reviews: prompt_basic, init_" in page.texts
    # Too many lines for one figure: the means of groups, and not of all of these.
    monkeypatch.setattr(comparison_section, "_MOST_LINES", 1)
    page = report("runs")
    assert page.values("evaluation: accuracy") == {
        "0": [0.1875], "2": [0.5625], "3": [pytest.approx(0.25)],
    }  # fmt: skip
    assert "Of 2 groups, the first 1 are drawn." in page.texts


EVIL = '</td><script>alert("1")</script>&amp;'


def test_all_text_from_data_is_escaped(site, make_run, answer, prompts, report):
    run = make_run(site.cwd / "run", [Logged(0, {f"eval/{EVIL}": 0.5})], prompts, task=EVIL)
    rows = [dict.fromkeys(("inputs", "targets", "prediction"), f"{EVIL}{n}") for n in "112"]
    answer(run, [*rows, {**rows[0], "prediction": EVIL}], task="x")
    (run / "held_out.json").write_text(json.dumps({"rows": {EVIL: 1}, "metric": EVIL}))
    page = report("run")
    assert "script" not in page.tags
    assert page.texts.count(EVIL) > 12
    assert f"predicted {EVIL}1" in page.texts


def test_sections_say_what_they_lack(site, make_run, model, answer, prompts, report):
    run = make_run(site.cwd / "run", LINES, {3: prompts[3]}, has_ended=False)
    texts = [{"inputs": "x" * 700, "targets": f"t{n}", "prediction": "t"} for n in range(9)]
    answer(run, texts)
    Path(model["model"]["path"]).unlink()
    page = report("run")
    for text in (
        "3, unfinished", "Only the prompt of step 3 is saved.",
        f"Nearest pieces and labels are not shown: the model {model['model']['path']} is not on "
        "this machine.",
        "0 of 9 predictions equal their targets", "All 9 wrong predictions, in their order",
        "x … (100 more characters)",
    ):  # fmt: skip
        assert text in page.texts
    assert not [name for name in page.tables if name.startswith("Confusions")]

    empty = make_run(site.cwd / "empty", [Logged(0, {"eval/a": math.nan})])
    described = {"plugin": "p", "distribution": "d", "version": "1", "fields": {}}
    texts = report("empty").texts
    for text in ("No prompt is saved", "There are no predictions", "No value is finite"):
        assert text in texts
    module_files.save(empty / "prompt_4", {"a": prompts[0]}, None, described, {"seed": 0})
    assert "has no equivalent plain prompt" in report("empty").texts


def test_numbers_of_any_size_are_drawn_or_left_out():
    sizes = (1e300, 5e-324, 1.0, 1 + 3e-16, math.inf, -1e16)
    for values in itertools.combinations(sizes, 3):
        page = line_figures.figure("x", [line_figures.Line("", dict(enumerate(values)))])
        assert all(f'data-value="{value!r}"' in page for value in values)
        assert 'points="' in page


def test_long_curves_are_means_and_two_axes_are_those_of_most_variance():
    points, size = line_figures.thinned({step: float(step) for step in range(1, 402)})
    assert (size, len(points)) == (3, 134)
    assert (points[3], points[401]) == (2.0, 400.5)
    rows = np.array([[0.0, 0, 0], [9, 0, 0], [0, -3, 0], [9, -3, 1e-3]])
    mean, axes, share = prompt_geometry.main_axes(rows)
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    np.testing.assert_allclose(axes, [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    assert share > 0.999


PREDICTIONS, METRICS = "reviews-validation-predictions.jsonl", "reviews-validation-metrics.json"
BAD = {
    "predictions": (PREDICTIONS, '{"inputs": 1}\n' * 4, "line 1: expected texts in 'inputs'"),
    "no_json": (PREDICTIONS, "{\n" * 4, "line 1: not readable as JSON"),
    "too_few": (PREDICTIONS, "", "has 0 lines, and reviews-validation-metrics.json counts 4"),
    "metrics": (METRICS, "[]", "found list, expected a JSON object"),
    "held_out": ("held_out.json", '{"rows": {"a": "b"}}', "expected numbers by name in 'rows'"),
    "prompt": ("prompt_3.npy", "x", "prompt_3.npy"),
    "metric_lines": ("metrics.jsonl", "{}\n", "line 1: no line of metrics"),
    "run": ("run.json", "{}", "differs from its checksum"),
}


def test_bad_input_is_one_line_and_leaves_no_page(site, make_run, answer, prompts, main):
    run = make_run(site.cwd / "run", LINES, prompts)
    answer(run, ANSWERS)
    for name, (file, content, expected) in BAD.items():
        before = (run / file).read_bytes() if (run / file).exists() else None
        (run / file).write_text(content)
        code, shown, error = main("report", "run")
        assert (code, shown, error.count("\n")) == (2, "", 1), name
        assert expected in error, name
        (run / file).unlink() if before is None else (run / file).write_bytes(before)
    for arguments, expected in (
        (["none"], "none: is no directory"),
        (["run", "--output=run"], "--output run: is a directory, expected a file"),
        (["run", "--output=run/run.json/x.html"], "cannot be written"),
        (["run", "--metric=x"], "'x' is no metric of these runs; known: accuracy"),
    ):
        code, shown, error = main("report", *arguments)
        assert (code, shown) == (2, "")
        assert expected in error
    assert not list(site.cwd.rglob("*.html"))
