"""Whether a version of the core meets what a plugin requires of it (PEP 440 and PEP 508).

The part of `packaging` that one requirement needs: `packaging` is no dependency of the core. What
cannot be read is an error that quotes it, never taken as met.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from prompt_tuning_core.errors import InputError

_VERSION = re.compile(
    r"v?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<phase>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<phase_number>\d*))?"
    r"(?P<post>[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d*))?",
    re.IGNORECASE,
)
# A release without a phase comes after every phase.
_PHASES = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_FINAL = 3
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*"
    r"(?:\[[^\]]*\]\s*)?"
    r"(?P<rest>[^;]*?)\s*"
    r"(?:;\s*(?P<marker>.*?)\s*)?"
)
_CLAUSE = re.compile(r"(~=|===|==|!=|<=|>=|<|>)\s*(\S+)")

# (release without trailing zeros, phase, its number, post, dev), which Python orders as PEP 440
# does: a development release before everything of its phase, a pre-release before the release,
# a post-release after it.
_Key = tuple[tuple[int, ...], int, int, int, float]


def normalize_name(name: str) -> str:
    """Returns a distribution's name in the one spelling that compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def unmet(requirements: Iterable[str], name: str, version: str) -> str | None:
    """Finds the first requirement on `name` that `version` does not meet.

    Environment markers are not evaluated. A requirement that belongs to an extra does not count;
    any other marked one counts, and is quoted whole when it is not met.

    Args:
      requirements: The `Requires-Dist` fields of a distribution.
      name: The distribution required.
      version: Its version.

    Returns:
      `None`, or what is wrong in words that follow "the plugin".
    """
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is None:
            # Not even a name can be read; only ours would matter.
            if normalize_name(name) in normalize_name(requirement):
                return f"has a requirement that cannot be read: {requirement!r}"
            continue
        if normalize_name(match["name"]) != normalize_name(name):
            continue
        if re.search(r"\bextra\b", match["marker"] or ""):
            continue
        if match["rest"].startswith("@"):
            continue  # A direct reference asks for one file or commit, and states no range.
        try:
            met = satisfies(version, match["rest"])
        except InputError as error:
            return f"has a requirement that cannot be read: {requirement!r} ({error})"
        if not met:
            return f"requires {requirement!r}, and {name} {version} is installed"
    return None


def satisfies(version: str, specifiers: str) -> bool:
    """Says whether `version` is in the set that `specifiers` describes.

    Args:
      version: A version, pre-releases included: what is installed is compared as it is.
      specifiers: Clauses joined by commas, such as `">=1,<2"`; in parentheses or not; empty for
        every version.

    Raises:
      InputError: If a clause or a version cannot be read.
    """
    text = specifiers.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if not text:
        return True
    return all(_meets(version, clause.strip()) for clause in text.rstrip(",").split(","))


def _meets(version: str, clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise InputError(f"{clause!r} is no version specifier such as '>=1'")
    operator, bound = match.groups()
    if operator == "===":
        return version.lower() == bound.lower()
    if operator in ("==", "!=") and bound.endswith(".*"):
        equal = _starts_with(version, bound.removesuffix(".*"))
        return equal == (operator == "==")
    have, want = _key(version), _key(bound)
    if operator == "==":
        return have == want
    if operator == "!=":
        return have != want
    if operator == ">=":
        return have >= want
    if operator == "<=":
        return have <= want
    if operator == "~=":
        release = _match(bound)["release"].split(".")
        if len(release) < 2:
            raise InputError(f"'~=' needs at least two numbers, found {bound!r}")
        return have >= want and _starts_with(version, ".".join(release[:-1]))
    # Strict comparisons leave out what belongs to the bound itself: 2.0rc1 is not < 2, and
    # 2.0.post1 is not > 2.
    if operator == "<":
        return have < want and not (_is_final(want) and (have[0], have[3]) == (want[0], want[3]))
    return have > want and not (_is_final(want) and have[0] == want[0] and have[3] > want[3] == -1)


def _is_final(key: _Key) -> bool:
    """Says whether a version is neither a pre-release nor a development release."""
    return key[1] == _FINAL and key[4] == float("inf")


def _starts_with(version: str, prefix: str) -> bool:
    want = [int(part) for part in _match(prefix)["release"].split(".")]
    have = [int(part) for part in _match(version)["release"].split(".")]
    have += [0] * (len(want) - len(have))
    return have[: len(want)] == want


def _match(version: str) -> re.Match[str]:
    match = _VERSION.fullmatch(version)
    if match is None:
        raise InputError(f"{version!r} is no version such as '1.2' or '1.2rc1'")
    return match


def _key(version: str) -> _Key:
    match = _match(version)
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    post = int(match["post_number"] or 0) if match["post"] else -1
    dev = float(int(match["dev_number"] or 0)) if match["dev"] else float("inf")
    if match["phase"]:
        phase = _PHASES[match["phase"].lower()]
    elif match["dev"] and not match["post"]:
        phase = -1  # 1.0.dev1 comes before 1.0a1.
    else:
        phase = _FINAL
    return tuple(release), phase, int(match["phase_number"] or 0), post, dev
