"""Text tasks as their authors see them; errors in data files are in the engine's tests."""

from __future__ import annotations

import json

import pytest

from prompt_tuning_core import tasks
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.tasks import Example, TextTask


def test_files_of_both_kinds_give_the_same_examples(tmp_path):
    rows = [{"a": "x y", "b": "1"}, {"a": "ü\u2028z", "b": "0"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    (tmp_path / "rows.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = TextTask(
        "t",
        {
            "json": tmp_path / "rows.jsonl",
            "tsv": str(tmp_path / "rows.tsv"),
            "function": lambda: iter(rows),
        },
        inputs="say: {a}",
        targets="{b}",
        target_names={"0": "no", "1": "yes"},
    )
    expected = [Example("say: x y", "yes"), Example("say: ü\u2028z", "no")]
    assert [task.examples(split) for split in task.splits] == [expected] * 3
    assert task.input_columns == ["a"]


@pytest.mark.parametrize("template", ["{", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "{}"])
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


def test_unknown_splits_and_endings():
    task = TextTask("t", {"train": "rows.csv"})
    with pytest.raises(InputError, match=r"no split 'trian'; did you mean 'train'"):
        task.examples("trian")
    with pytest.raises(InputError, match=r"rows\.csv ends neither in \.jsonl nor in \.tsv"):
        task.examples("train")
