"""Metrics and postprocessors, which need neither seqio nor TensorFlow."""

from __future__ import annotations

import pytest

from prompt_tuning_tasks_glue import answers, scores


def test_correlations_are_those_of_t5():
    classes = ["a", "a", "b", "b"]
    assert scores.matthews_corrcoef(classes, ["a", "b", "b", "b"]) == {
        "matthews_corrcoef": pytest.approx(57.735027)
    }
    numbers = [1.0, 2.0, 3.0, 5.0]
    assert scores.pearson_corrcoef(numbers, [1.0, 4.0, 9.0, 25.0]) == {
        "pearson_corrcoef": pytest.approx(98.148962)
    }
    assert scores.spearman_corrcoef(numbers, [1.0, 4.0, 9.0, 25.0]) == {
        "spearman_corrcoef": pytest.approx(100.0)
    }


def test_a_correlation_with_a_constant_is_0():
    assert scores.matthews_corrcoef(["a", "b"], ["", ""]) == {"matthews_corrcoef": 0.0}
    assert scores.pearson_corrcoef([1.0, 2.0], [-1.0, -1.0]) == {"pearson_corrcoef": 0.0}
    assert scores.spearman_corrcoef([1.0, 2.0], [-1.0, -1.0]) == {"spearman_corrcoef": 0.0}


def test_each_class_weighs_the_same_in_the_mean_of_f1():
    metric = scores.mean_f1(["yes", "no", "maybe"])
    assert metric(["yes", "yes", "no"], ["yes", "", "no"]) == {
        "mean_3class_f1": pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    }


@pytest.mark.parametrize(
    ("text", "value"), [("3.4", 3.4), ("5", 5.0), ("much", -1.0), ("", -1.0), ("nan", -1.0)]
)
def test_what_is_no_number_is_far_from_all(text, value):
    assert answers.number(text) == value


def test_what_names_no_class_is_never_right():
    postprocess = answers.label(["no", "yes"])
    assert postprocess("yes") == "yes"
    assert postprocess("Yes") == postprocess("<unk>") == answers.NO_LABEL
    assert postprocess("<unk>", is_target=True) == "<unk>"


@pytest.mark.parametrize(
    ("said", "noun", "same"),
    [
        ("the bunny", "fluffy bunny", "True"),
        ("Her fluffy bunny", "bunny", "True"),
        ("Bob", "Bob's hat", "False"),
        ("hat", "cat", "False"),
        ("the", "cat", answers.NO_LABEL),
    ],
)
def test_nouns_are_compared_without_determiners(said, noun, same):
    example = {"targets_pretokenized": noun.encode(), "label": -1}
    assert answers.names_the_noun(said, example) == same
    assert answers.names_the_noun("", example, is_target=True) == "<unk>"
