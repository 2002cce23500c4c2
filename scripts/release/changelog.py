"""Joins the fragments of the changelog; `changelog/README.md` describes fragments."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from prompt_tuning_core.errors import InputError, nearest

KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")
UNRELEASED = "## [Unreleased]"
README = "README.md"


def fragments(folder: Path) -> dict[Path, tuple[str, str]]:
    """Returns the kind and the text of each fragment in a folder, by its path, in order of names.

    Raises:
      InputError: A name has no known kind, or a file is empty.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name == README:
            continue
        parts = path.name.split(".")
        if len(parts) != 3 or parts[2] != "md":
            raise InputError(f"{path}: expected a name of the form NAME.KIND.md")
        if parts[1] not in KINDS:
            raise InputError(f"{path}: no kind of change is {parts[1]!r}{nearest(parts[1], KINDS)}")
        text = path.read_text("utf-8").strip()
        if not text or text.startswith(("- ", "#")):
            raise InputError(f"{path}: expected a text, without a heading or a '-' in front")
        found[path] = (parts[1], text)
    return found


def sections(unreleased: str) -> dict[str, str]:
    """Returns the list below each heading of the part "Unreleased", by its kind.

    Raises:
      InputError: There is a text without a heading, or a heading that is no kind.
    """
    before, *rest = re.split(r"(?m)^### (.*)\n", unreleased)
    if before.strip():
        line = before.strip().splitlines()[0]
        raise InputError(f"CHANGELOG.md: {line!r} stands below {UNRELEASED}, without a kind")
    found: dict[str, str] = {}
    for heading, lines in zip(rest[::2], rest[1::2], strict=True):
        kind = heading.strip().lower()
        if kind not in KINDS or kind in found:
            raise InputError(
                f"CHANGELOG.md: expected each of {', '.join(KINDS)} at most once below "
                f"{UNRELEASED}, and found '### {heading}'"
            )
        found[kind] = lines.strip()
    return found


def released(text: str, version: str, folder: Path, date: datetime.date) -> str:
    """Returns the changelog with a section for a version: unreleased entries, and fragments.

    Args:
      text: The changelog, with the heading "## [Unreleased]".
      version: The version that is released.
      folder: The folder of the fragments.
      date: The day of the release.

    Raises:
      InputError: The changelog or a fragment has another form, the version was released before, or
        nothing was changed.
    """
    if f"## [{version}]" in text:
        raise InputError(f"VERSION={version}: CHANGELOG.md has a section for it already")
    if text.count(f"{UNRELEASED}\n") != 1:
        raise InputError(f"CHANGELOG.md: expected one line {UNRELEASED!r}")
    head, rest = text.split(f"{UNRELEASED}\n")
    end = rest.find("\n## ")
    unreleased, older = (rest, "") if end < 0 else (rest[:end], rest[end + 1 :])
    lists = sections(unreleased)
    for kind, entry in fragments(folder).values():
        item = "- " + re.sub(r"\n(?=.)", "\n  ", entry)
        lists[kind] = f"{lists[kind]}\n{item}" if kind in lists else item
    if not lists:
        raise InputError(f"nothing to release: {folder} has no fragment and {UNRELEASED} no entry")
    parts = [f"### {kind.capitalize()}\n\n{lists[kind]}\n" for kind in KINDS if kind in lists]
    new = "\n".join([f"## [{version}] - {date}\n", *parts])
    return f"{head}{UNRELEASED}\n\n{new}" + (f"\n{older}" if older else "")
