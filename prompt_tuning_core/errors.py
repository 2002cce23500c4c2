"""Exceptions whose message is one line for the user.

The command line prints the message of a `PromptTuningError` and exits with 2. It also describes an
error of gin, or of the code of a plugin or a user, in one line (`commands.failures`). Any other
exception is a defect and keeps its traceback. A message names the thing, what was found, what was
expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class PromptTuningError(Exception):
    """Input of the user, or an installed plugin, cannot be used."""


class InputError(PromptTuningError, ValueError):
    """A value, a file, a shape or a flag that cannot be used."""


class PluginError(PromptTuningError):
    """A plugin cannot be found or used."""


class UnknownPluginError(PluginError, LookupError):
    """No installed distribution provides a plugin of this name (and kind)."""


class PluginConflictError(PluginError):
    """Several entry points claim one name; none of them is preferred."""


class PluginBlockedError(PluginError):
    """The plugin is installed, but the allow or block lists exclude it."""


class PluginLoadError(PluginError, ImportError):
    """The plugin is installed, but it fails to import or is not what its kind requires.

    It is an `ImportError` and never an `AttributeError`: gin looks plugins up with `getattr` and a
    default, which hides an `AttributeError`.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name.

    Args:
      name: The name that was not found.
      candidates: The known names.

    Returns:
      `"; did you mean 'x' or 'y'?"` if some names are close, `"; known: a, b"` if none is close,
      and `""` without candidates.
    """
    known = sorted(set(candidates))
    return close(name, known) or ("; known: " + ", ".join(known) if known else "")


def close(name: str, candidates: Iterable[str]) -> str:
    """Works as `nearest`, but returns `""` if no name is close; for lists that fill many lines."""
    # Imported here: difflib takes milliseconds, and the list of plugins does not need it.
    import difflib

    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, candidate, name).ratio()

    matches = difflib.get_close_matches(name, sorted(set(candidates)), n=3, cutoff=0.6)
    # A misspelt init_labels is near to init_vocab too, and much nearer to itself.
    matches = [match for match in matches if likeness(match) > likeness(matches[0]) - 0.15]
    return "; did you mean " + " or ".join(map(repr, matches)) + "?" if matches else ""


def one_line(error: BaseException) -> str:
    """Returns an exception of unknown origin as `TypeName: message`, on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
