"""The contract of catalogs, as checks: the entries that they list, and their places."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PluginError, PromptTuningError, one_line
from prompt_tuning_core.kinds import KINDS
from prompt_tuning_files import formats
from prompt_tuning_files.names import Known
from prompt_tuning_testing.checks import BrokenClauseError, Check, NotTriedError, require
from prompt_tuning_testing.contracts import Contract, name_of
from prompt_tuning_testing.watching import Audit

LISTS = ("models", "prompts")
"""The methods of a catalog."""

_SECONDS = 10.0
# The first words of the entries of `Audit` about sockets and processes.
_REACHING = ("connected", "bound", "asked", "started")
_OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class CatalogSubject:
    """A catalog; see `catalog_subject`."""

    catalog: Any

    def listed(self, method: str) -> list[Known]:
        """Calls `models` or `prompts`.

        Raises:
          BrokenClauseError: If an entry is no `Known`.
        """
        found = list(getattr(self.catalog, method)())
        for entry in found:
            require(
                isinstance(entry, Known),
                f"{method}() lists {entry!r}, expected a prompt_tuning_files.names.Known",
            )
        return found

    def entries(self) -> Iterator[tuple[str, Known]]:
        """Yields each entry, and a text that names it in errors."""
        for method in LISTS:
            for entry in self.listed(method):
                yield f"{entry.name!r} of {method}()", entry

    @property
    def folder(self) -> Path:
        """The folder of its package, or of its module if that is in no package."""
        is_module = inspect.ismodule(self.catalog)
        name = self.catalog.__name__ if is_module else type(self.catalog).__module__
        folders = list(getattr(sys.modules.get(name.partition(".")[0]), "__path__", ()))
        if folders:
            return Path(folders[0]).resolve()
        module = self.catalog if is_module else sys.modules[name]
        return Path(getattr(module, "__file__", None) or os.devnull).resolve().parent


def catalog_subject(
    catalog: Any, arguments: None = None, *, seed: int = 0, max_examples: int = 1
) -> CatalogSubject:
    """Returns the subject of the checks.

    Args:
      catalog: A module or an object with `models` and `prompts`.
      arguments: Must be None: a catalog takes none.
      seed: Not used: nothing is drawn.
      max_examples: Not used.

    Raises:
      InputError: If it has no `models` or no `prompts`, or arguments are given.
    """
    del seed, max_examples
    complaint = KINDS["catalog"].complaint(catalog)
    if complaint:
        raise InputError(f"{name_of(catalog)}: the plugin {complaint}")
    if arguments is not None:
        raise InputError(f"arguments are {arguments!r}, and a catalog takes none; leave them out")
    return CatalogSubject(catalog)


@contextlib.contextmanager
def _watched() -> Iterator[Audit]:
    """Watches the files and sockets of the block; an import in it writes no compiled module."""
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with Audit.watch() as audit:
            yield audit
    finally:
        sys.dont_write_bytecode = kept


def _check_lists_at_once(subject: CatalogSubject, nothing: None) -> None:
    begin = time.perf_counter()
    with _watched() as audit:
        for method in LISTS:
            subject.listed(method)
    taken = time.perf_counter() - begin
    outside = [
        file for file in audit.reads if not Path(file).resolve().is_relative_to(subject.folder)
    ]
    require(not outside, f"listing reads {', '.join(outside)}, outside of {subject.folder}")
    require(not audit.does, f"listing {', '.join(audit.does)}")
    require(taken <= _SECONDS, f"listing takes {taken:.1f} s, expected at most {_SECONDS:g} s")


def _check_names(subject: CatalogSubject, nothing: None) -> None:
    for method in LISTS:
        names = [entry.name for entry in subject.listed(method)]
        for name in names:
            where = f"{method}() lists the name {name!r}, which"
            require(isinstance(name, str) and name, f"{where} is no text, or empty")
            require(name.isprintable(), f"{where} has characters that cannot be printed")
            require(name == name.strip(), f"{where} begins or ends with a blank")
            require(
                "://" not in name and name[0] not in "/~.",
                f"{where} is a path or an address: it begins with '/', '~' or '.', or has '://'",
            )
            model, _, task = name.rpartition("/")
            require(
                method != "prompts" or (model.strip("/ ") and task.strip()),
                f"{where} is not of the form MODEL/TASK",
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"{method}() lists {', '.join(twice)} more than once")


def _check_same_list(subject: CatalogSubject, nothing: None) -> None:
    for method in LISTS:
        first, second = (
            [(e.name, e.address, e.hugging_face, e.facts, e.notes) for e in subject.listed(method)]
            for _ in range(2)
        )
        for one, other in itertools.zip_longest(first, second):
            require(one == other, f"{method}() lists {one}, and at the next call {other}")


def _check_facts(subject: CatalogSubject, nothing: None) -> None:
    headings: dict[str, tuple[str, list[str]]] = {}
    for name, entry in subject.entries():
        for heading, fact in entry.facts.items():
            is_heading = isinstance(heading, str) and heading and heading == heading.upper()
            require(is_heading, f"{name} has the heading {heading!r}, expected upper case")
            require(isinstance(fact, str), f"{name} has {fact!r} below {heading}, expected a text")
        if entry.facts:  # Entries without facts are not in the table.
            method = name.rpartition(" of ")[2]
            first, known = headings.setdefault(method, (name, list(entry.facts)))
            require(
                set(entry.facts) == set(known),
                f"{name} has the headings {list(entry.facts)}, and {first} has {known}",
            )


def _check_other_fields(subject: CatalogSubject, nothing: None) -> None:
    for name, entry in subject.entries():
        require(
            isinstance(entry.notes, tuple | list),
            f"{name} has the notes {entry.notes!r}, expected a tuple of texts",
        )
        for note in entry.notes:
            is_line = isinstance(note, str) and note and note.isprintable()
            require(is_line, f"{name} has the note {note!r}, expected a text of one line")
        known = entry.hugging_face
        require(
            known is None or (isinstance(known, str) and _OWNER_AND_NAME.fullmatch(known)),
            f"{name} has the hugging_face {known!r}, expected OWNER/NAME or None",
        )
        address = entry.address
        require(
            address is None or (isinstance(address, str) and address),
            f"{name} has the address {address!r}, expected a text or None",
        )


def _located(name: str, entry: Known) -> str | InputError:
    """Calls `locate`; returns the path or the address, or the `InputError` that it raises."""
    try:
        found = entry.locate()
    except InputError as error:
        return error
    except (Exception, SystemExit) as error:  # A catalog may raise anything.
        raise BrokenClauseError(
            f"locating {name} raises {one_line(error)}, expected an InputError"
        ) from error
    require(
        isinstance(found, str) and found,
        f"locating {name} returns {found!r}, expected a path or an address as a text",
    )
    return found


def _exists(path: str) -> bool:
    # The path of a TensorFlow checkpoint is the beginning of several file names.
    return os.path.exists(path) or os.path.exists(f"{path}.index")


def _check_locates(subject: CatalogSubject, nothing: None) -> None:
    for name, entry in subject.entries():
        found = _located(name, entry)
        if isinstance(found, str):
            require(
                "://" in found or _exists(found),
                f"locating {name} returns {found}, which does not exist; raise an InputError",
            )
            require(
                entry.address in (None, found),
                f"locating {name} returns {found}, and its address is {entry.address}",
            )
            continue
        text = str(found).strip()
        require(
            text and "\n" not in text,
            f"locating {name} raises an error that is not one line: {text!r}",
        )
        require(
            entry.name in text,
            f"locating {name} raises {text!r}, which does not name it; say what to do to have it",
        )


def _check_locates_alone(subject: CatalogSubject, nothing: None) -> None:
    for name, entry in subject.entries():
        with _watched() as audit:
            first, second = _located(name, entry), _located(name, entry)
        # It may write a file, for example to unpack a file of the package.
        reached = [one for one in audit.does if one.startswith(_REACHING)]
        require(not reached, f"locating {name} {', '.join(reached)}")
        require(str(first) == str(second), f"locating {name} gives {first!s}, and then {second!s}")


def _check_prompts_are_read(subject: CatalogSubject, nothing: None) -> None:
    tried = 0
    for entry in subject.listed("prompts"):
        path = _located(f"{entry.name!r}", entry)
        if not isinstance(path, str) or not os.path.exists(path):
            continue
        tried += 1
        try:
            file = formats.locate_prompt(path)
            prompt: formats.Prompt = file.format.read_prompt(file.path)
        except PromptTuningError as error:
            raise BrokenClauseError(f"{entry.name!r} cannot be read: {error}") from error
        arrays = {} if prompt.module is None else dict(prompt.module.parameters)
        if prompt.array is not None:
            shape, dtype = prompt.array.shape, prompt.array.dtype
            require(
                len(shape) == 2 and dtype == np.float32,
                f"{entry.name!r} is {dtype} of the shape {shape}, expected float32 (P, H)",
            )
            arrays["its matrix"] = prompt.array
        for name, array in arrays.items():
            require(np.isfinite(array).all(), f"{entry.name!r}: {name} is not finite")
    if not tried:
        raise NotTriedError("none of its prompts is on this machine")


def _check_no_name_is_taken(subject: CatalogSubject, nothing: None) -> None:
    installed = registry.process_registry()
    others = 0
    for plugin in installed.discover():
        if plugin.kind != "catalog" or plugin.status != "ok":
            continue
        try:
            catalog = installed.load("catalog", plugin.name)
        except PluginError:  # It lists no names.
            continue
        if catalog is subject.catalog:
            continue
        others += 1
        for method in LISTS:
            taken = {entry.name for entry in getattr(catalog, method)()}
            both = sorted(taken & {entry.name for entry in subject.listed(method)})
            require(not both, f"{method}() lists {', '.join(both)}, and so does {plugin}")
    if not others:
        raise NotTriedError("no other catalog is installed")


CATALOG_CHECKS: tuple[Check[CatalogSubject], ...] = (
    # First, since a catalog may cache what it has read.
    Check(
        "lists_at_once",
        1,
        "listing is quick, opens no file outside of its own package, and no socket",
        _check_lists_at_once,
        is_needed=True,
    ),
    Check(
        "names",
        2,
        "each name is printable, no path and listed once; a prompt's name is MODEL/TASK",
        _check_names,
        is_needed=True,
    ),
    Check("same_list", 3, "it lists the same each time", _check_same_list),
    Check(
        "facts",
        4,
        "facts are texts below upper-case headings, the same in all entries of a list",
        _check_facts,
    ),
    Check(
        "other_fields",
        4,
        "notes are lines, hugging_face is OWNER/NAME, and an address is a text",
        _check_other_fields,
    ),
    Check(
        "locates",
        5,
        "locate returns a path or an address, or raises an InputError that names the entry",
        _check_locates,
    ),
    Check(
        "locates_alone",
        5,
        "locate opens no socket, starts no process, and gives the same each time",
        _check_locates_alone,
    ),
    Check(
        "prompts_are_read",
        6,
        "an installed format reads each prompt on this machine, as finite float32 arrays",
        _check_prompts_are_read,
    ),
    Check(
        "no_name_is_taken",
        7,
        "no other installed catalog has the same name",
        _check_no_name_is_taken,
    ),
)

CONTRACT = Contract(CATALOG_CHECKS, catalog_subject, examples=1)
