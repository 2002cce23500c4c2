"""Refuses wordings that a reader whose second language is English would stumble over."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A docstring begins with a verb ("Reads …", "Checks …") or a noun that names the thing.
QUESTION = re.compile(r"(What|Whether|Which|How|Of|Why|Where|When|Who|Whose)\b")
# Regular expressions of phrases, and better words. A blank may be the end of a line.
PHRASES = {
    "besides": "also, in addition to",
    "behind": "after",
    "(is|are|was|were|be) (said|told)": "'The engine prints …'",
    "(has|have) not(?=[.,;:)])": "does not have",
    "had never been": "what did not happen",
    "all the same(?=[.,;:)])": "still",
    "likewise": "in the same way",
    "at the (most|least)": "at most, at least",
    "anew": "again",
    "lest|whereby|wherein|whereof|thereof|therein|thereby|hitherto|hence": "two short sentences",
    "nobody (asked|has|had|gave|named|set)": "the thing itself: 'the remaining positions'",
    "without a word|unsaid": "without a message",
    "of another time": "of another version",
    "shall": "must",
    "anybody's|anyone's|whoever": "any …, everyone who",
    "of one's own": "of your own",
}
GAP = r"[\s#]+"
PATTERNS = {
    re.compile(rf"(?<![\w'-])({phrase.replace(' ', GAP)})(?![\w'-])", re.IGNORECASE): better
    for phrase, better in PHRASES.items()
}


def tracked(*endings: str) -> dict[str, str]:
    """Maps the names of git's files with these endings to their texts, except this one."""
    command = ["git", "ls-files", *(f"*{ending}" for ending in endings)]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not names:
        pytest.skip("lists the files with git, and this is no checkout")
    itself = "tests/test_plain_english.py"
    files = [ROOT / name for name in names.splitlines() if name != itself]
    return {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in files if file.exists()}


def test_docstrings_begin_with_no_question_word() -> None:
    found = [
        f"{name}:{node.lineno}: {node.value.value.strip().splitlines()[0]}"
        for name, text in tracked(".py").items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str) and QUESTION.match(node.value.value.strip())
    ]

    assert found == [], "begin with a verb or a noun:\n" + "\n".join(found)


def test_texts_have_no_phrase_that_readers_stumble_over() -> None:
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}, write: {better}"
        for name, text in tracked(".py", ".gin", ".md").items()
        for pattern, better in PATTERNS.items()
        for match in pattern.finditer(text)
    ]

    assert found == [], "\n".join(found)
