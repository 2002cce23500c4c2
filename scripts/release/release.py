"""Prepares a release in the working tree, and checks the tag of one; nothing is committed."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

import changelog
import distributions
from prompt_tuning_core.errors import InputError
from prompt_tuning_files.prompt_files import atomic_write

ROOT = Path(__file__).parents[2]


def prepare(root: Path, version: str, date: datetime.date) -> None:
    """Writes a version into every file that names it, and joins the changelog's fragments.

    Args:
      root: The folder of the checkout.
      version: The new version, three numbers.
      date: The day of the release.

    Raises:
      InputError: The release cannot be made; no file is changed then.
    """
    file, folder = root / "CHANGELOG.md", root / "changelog"
    texts = distributions.with_version(root, version)
    texts[file] = changelog.released(file.read_text("utf-8"), version, folder, date)
    for path, text in texts.items():
        with atomic_write(path) as stream:
            stream.write(text.encode())
    for fragment in changelog.fragments(folder):
        fragment.unlink()


def check_tag(root: Path, tag: str) -> None:
    """Checks a tag against the version of all distributions and against the changelog.

    Args:
      root: The folder of the checkout.
      tag: The tag: "v" and the version.

    Raises:
      InputError: The tag is not "v" and the version, the changelog has no section of the version,
        or fragments are not joined.
    """
    version = distributions.version(root)
    if tag != f"v{version}":
        raise InputError(
            f"TAG={tag}: the distributions have version {version}, whose tag is v{version}"
        )
    waiting = [path.name for path in changelog.fragments(root / "changelog")]
    if waiting or f"\n## [{version}] - " not in (root / "CHANGELOG.md").read_text("utf-8"):
        found = f"{', '.join(waiting)} not joined into it" if waiting else "no section of it"
        raise InputError(
            f"TAG={tag}: CHANGELOG.md has {found}; run make release VERSION=…, commit, and tag that"
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="make release VERSION=…").add_argument("version")
    commands.add_parser("check-tag", help="make release-tag TAG=…").add_argument("tag")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "check-tag":
            check_tag(ROOT, parsed.tag)
            return 0
        prepare(ROOT, parsed.version, datetime.datetime.now(datetime.UTC).date())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"version {parsed.version} is in place; now: git diff, make test release-check, commit, "
        f"and git tag v{parsed.version}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
