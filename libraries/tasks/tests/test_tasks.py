"""Text tasks as their authors see them; errors in data files are in the engine's tests."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prompt_tuning_tasks as tasks
from prompt_tuning_core.errors import InputError
from prompt_tuning_tasks import Example, Mixture, TextTask

ROWS = [{"a": "x y", "b": "1"}, {"a": "ü\u2028z", "b": "0"}]


def contents():
    """The same rows in every format, by ending."""
    lines = ["\t".join(ROWS[0]), *("\t".join(row.values()) for row in ROWS)]
    table = io.StringIO()
    writer = csv.DictWriter(table, ROWS[0])
    writer.writeheader()
    writer.writerows(ROWS)
    return {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        ".tsv": "\n".join(lines) + "\n",
        ".csv": table.getvalue(),
    }


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_of_all_kinds_give_the_same_examples(tmp_path, compression, encoding):
    splits = {"function": lambda: iter(ROWS)}
    for ending, text in contents().items():
        path = tmp_path / f"rows{ending}{compression}"
        path.write_bytes(COMPRESS[compression](text.encode(encoding)))
        splits[ending] = path
        assert tasks.has_rows(path)
        assert tasks.stem(path) == "rows"
    task = TextTask(
        "t",
        {**splits, "all": list(splits.values())},
        inputs="say: {a}",
        targets="{b}",
        target_names={"0": "no", "1": "yes"},
    )
    expected = [Example("say: x y", "yes"), Example("say: ü\u2028z", "no")]
    assert [task.examples(split) for split in splits] == [expected] * 4
    assert task.examples("all") == expected * 4
    assert task.input_columns == ["a"]
    assert task.components == ((task, 1.0),)


def test_examples_know_their_place(tmp_path):
    (tmp_path / "rows.csv").write_text('inputs,targets\n"two\nlines",b\nc,d\n')
    (tmp_path / "more.jsonl").write_text('{"inputs": "e", "targets": "f"}\n')
    paths = [tmp_path / "rows.csv", tmp_path / "more.jsonl"]
    task = TextTask("t", {"train": [*paths, lambda: [{"inputs": "g", "targets": "h"}]]})
    assert [(e.inputs, e.place) for e in task.examples("train")] == [
        ("two\nlines", f"{paths[0]}:2"),
        ("c", f"{paths[0]}:4"),
        ("e", f"{paths[1]}:1"),
        ("g", "task 't', split 'train', source 3, row 1"),
    ]


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0"))] * 2),
        min_size=1,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_holds_any_text(tmp_path_factory, rows, line_end):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=line_end)
        writer.writerow(["inputs", "targets"])
        writer.writerows(rows)
    assert TextTask("t", {"train": path}).examples("train") == [Example(*row) for row in rows]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('a,b\nx,"1"2\n', ":2: not CSV: ',' expected after '\"'"),
        ('a,b\nx,y\nx,"1\n2\n', ":3: not CSV: unexpected end of data"),
        ('a,b\n"x\ny",1\nx\n', ":4: found 1 columns, expected the 2 of the first line (a, b)"),
        ("a,b\nx,1\n\nx,2\n", ":3: the line is empty; remove it"),
        ("a,a\nx,1\n", ":1: two columns have the name 'a'"),
        ("a,b\n", "split 'train' is empty"),
        ("", "split 'train' is empty"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, content, expected):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(InputError) as raised:
        TextTask("t", {"train": tmp_path / "rows.csv"}, "{a}", "{b}").examples("train")
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("damage", ["not compressed", "truncated", "missing"])
def test_compressed_files_that_cannot_be_read(tmp_path, compression, damage):
    path = tmp_path / f"rows.tsv{compression}"
    text = b"inputs\ttargets\n" + b"".join(b"%d\tx\n" % n**5 for n in range(9999))
    if damage == "not compressed":
        path.write_bytes(text)
    elif damage == "truncated":
        path.write_bytes(COMPRESS[compression](text)[:-100])
    with pytest.raises(InputError, match=rf"rows\.tsv{compression}: cannot be read: .+"):
        TextTask("t", {"train": path}).examples("train")


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"inputs\ttargets\nx\ty\nb\xe9\ty\n")
    with pytest.raises(InputError, match=r"rows\.tsv:3: not UTF-8 text"):
        TextTask("t", {"train": path}).examples("train")


def test_lines_of_text_keep_what_is_in_them(tmp_path):
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress("a\r\n\nb\u2028c\n".encode()))
    lines = tasks.read_lines(tmp_path / "texts.txt.gz")
    assert [line for _, line in lines] == ["a", "", "b\u2028c"]
    assert lines[2][0].endswith("texts.txt.gz:3")
    assert tasks.stem("texts.txt.gz") == "texts"
    assert not tasks.has_rows("texts.txt.gz")


@pytest.mark.parametrize("template", ["{", "{a!r}", "{a:>3}", "{}", "{ }", "{a{b}}"])
def test_templates_hold_plain_column_names(template):
    with pytest.raises(InputError, match="template"):
        TextTask("t", {}, inputs=template)


def test_names_are_unique_and_unknown_ones_get_the_nearest():
    task = tasks.register(TextTask("test_tasks_one", {}))
    assert tasks.register(TextTask("test_tasks_one", {})) == task
    with pytest.raises(InputError, match="another task is registered"):
        tasks.register(TextTask("test_tasks_one", {}, inputs="{x}"))
    assert tasks.get("test_tasks_one") is task
    with pytest.raises(InputError, match="did you mean 'test_tasks_one'"):
        tasks.get("test_task_one")


def test_unknown_splits_endings_and_sources():
    task = TextTask("t", {"train": "rows.txt", "test": [], "other": 7})
    with pytest.raises(InputError, match=r"no split 'trian'; did you mean 'train'"):
        task.examples("trian")
    with pytest.raises(
        InputError, match=r"rows\.txt has none of the endings \.jsonl, \.tsv, \.csv"
    ):
        task.examples("train")
    with pytest.raises(InputError, match=r"task 't': split 'test' is empty"):
        task.examples("test")
    with pytest.raises(InputError, match=r"found 7, expected a path, a function or a list"):
        task.examples("other")


def test_splits_are_named_and_metrics_are_listed():
    with pytest.raises(InputError, match=r"task 't' has the splits 'train\.tsv', expected"):
        TextTask("t", "train.tsv")
    for value in ("exact_match", len):
        with pytest.raises(InputError, match=r"task 't' has the metrics .*, expected a list"):
            TextTask("t", {}, metrics=value)


def test_mixtures_name_their_tasks():
    one, two = (tasks.register(TextTask(f"test_mixture_{n}", {})) for n in ("one", "two"))
    mixture = tasks.register(Mixture("test_mixture", {one.name: 2, two.name: 0.5}))
    assert tasks.get("test_mixture") is mixture
    assert mixture.components == ((one, 2), (two, 0.5))
    assert Mixture("m", {two.name: 0.5, one.name: 2}).components == mixture.components
    with pytest.raises(InputError, match="another task is registered"):
        tasks.register(TextTask("test_mixture", {}))
    with pytest.raises(InputError, match=r"mixture 'm': unknown task 'test_mixture_on'; did you"):
        _ = Mixture("m", {"test_mixture_on": 1}).components
    with pytest.raises(InputError, match=r"mixture 'm': 'test_mixture' is a mixture itself"):
        _ = Mixture("m", {"test_mixture": 1}).components


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), "1", True, None])
def test_rates_are_positive_numbers(rate):
    with pytest.raises(
        InputError, match=r"mixture 'm': the rate of 'b' is .*, expected a positive"
    ):
        Mixture("m", {"a": 1, "b": rate})


@pytest.mark.parametrize("rates", [{}, ["a"], None])
def test_mixtures_have_rates(rates):
    with pytest.raises(InputError, match=r"mixture 'm' has the rates .*, expected for example"):
        Mixture("m", rates)


@pytest.mark.parametrize(
    "names",
    [{"0": "no", "1": "yes"}, {0: "no", 1: "yes"}, {0.0: "no", True: "yes"}, ["no", "yes"]],
    ids=repr,
)
def test_names_of_targets_are_found_by_value(names):
    """Classes come as numbers, as whole floats of pandas, and as booleans."""
    labels = [0, 1, "0", "1.0", 1.0, False, True, "true"]

    def rows():
        return [{"label": label} for label in labels]

    task = TextTask("t", {"train": rows}, inputs="x", targets="{label}", target_names=names)
    found = [example.targets for example in task.examples("train")]
    assert found == ["no", "yes", "no", "yes", "yes", "no", "yes", "yes"]


def test_a_target_without_a_name_is_shown_beside_the_known_ones():
    task = TextTask(
        "t", {"train": lambda: [{"label": 2}]}, inputs="x", targets="{label}", target_names={0: "a"}
    )
    with pytest.raises(InputError, match=r"the target '2' has no name .* which has 0 \(int\)"):
        task.examples("train")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"inputs": null, "targets": "b"}', r"column 'inputs' is null, expected a text or a num"),
        ('{"inputs": ["a"], "targets": "b"}', "column 'inputs' is a list"),
        ('{"inputs": "a", "targets": {"b": 1}}', "column 'targets' is a dict"),
        ('{"inputs": NaN, "targets": "b"}', "column 'inputs' is nan, expected .* a finite number"),
        ('{"inputs": 1e400, "targets": "b"}', "column 'inputs' is inf"),
        ('{"inputs": "a", "inputs": "c", "targets": "b"}', "the name 'inputs' occurs twice in one"),
        ('{"inputs": "\\ud800", "targets": "b"}', "holds half of a surrogate pair"),
        ('{"inputs": ' + "9" * 5000 + ', "targets": "b"}', "Exceeds the limit .* digits"),
        ('{"inputs": ' + "[" * 10**5 + "]" * 10**5 + "}", "JSON that is nested too deeply"),
        ('{"inputs": "a"}', "no column 'targets' for the template"),
    ],
    ids=lambda value: value[:40],
)
def test_cells_that_are_no_text_are_refused_with_file_and_line(tmp_path, line, expected):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"inputs": "a", "targets": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{expected}") as raised:
        TextTask("t", {"train": path}).examples("train")
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.parquet", "a.zip", "a.json.gz", "a.xlsx"])
def test_a_file_to_answer_that_is_no_text_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(InputError, match=r"is no file of lines or rows, which end in \.txt, \.jso"):
        tasks.read_inputs(tmp_path / name, TextTask("t", {}))


def test_endings_count_without_regard_to_case(tmp_path):
    (tmp_path / "A.TSV.GZ").write_bytes(gzip.compress(b"inputs\ttargets\na\tb\n"))
    (example,) = TextTask("t", {"train": tmp_path / "A.TSV.GZ"}).examples("train")
    assert (example.inputs, example.targets) == ("a", "b")


NAMES = ["Review Text", "sentence-1", "#1 String", "a.b", "a[0]", "0", "class", "ü"]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_may_have_any_name(tmp_path, name):
    (tmp_path / "x.tsv").write_text(f"{name}\tlabel\nsome text\t1\n")
    task = TextTask("t", {"train": tmp_path / "x.tsv"}, f"say {{{name}}} {{{{x}}}}", "{label}")
    assert task.examples("train") == [Example("say some text {x}", "1")]


def test_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "x.csv").write_text(",,text\n0,a,one\n1,b,two\n")
    task = TextTask("t", {"train": tmp_path / "x.csv"}, "{text}", "{text}")
    assert [example.inputs for example in task.examples("train")] == ["one", "two"]


def test_a_table_without_names_in_its_first_line_says_so(tmp_path):
    (tmp_path / "x.csv").write_text("good film,1\nbad film,0\n")
    task = TextTask("t", {"train": tmp_path / "x.csv"}, "{text}", "{label}")
    with pytest.raises(
        InputError, match=r"x.csv:2: no column 'text'.*known: 1, good film \(the fi"
    ):
        task.examples("train")


def test_long_cells_are_read_whole(tmp_path):
    text = "word " * 60_000
    (tmp_path / "x.csv").write_text(f'text,label\n"{text}",1\n')
    task = TextTask("t", {"train": tmp_path / "x.csv"}, "{text}", "{label}")
    assert task.examples("train") == [Example(text, "1")]
