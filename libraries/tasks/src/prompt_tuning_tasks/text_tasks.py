"""Text tasks: files of inputs and targets, described in gin or registered by a Python module.

In gin, the scope is the task's name:

```
import prompt_tuning_tasks as tasks

sst2/tasks.TextTask:
  splits = {'train': 'sst2/train.tsv', 'validation': 'sst2/dev.tsv'}
  inputs = 'sst2 sentence: {sentence}'
  targets = '{label}'
  target_names = {'0': 'negative', '1': 'positive'}

MIXTURE_OR_TASK_NAME = 'sst2'
```

A mixture of tasks:

```
reviews/tasks.Mixture.rates = {'sst2': 2.0, 'imdb': 1.0}
```
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import json
import math
import os
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from prompt_tuning_core import registry
from prompt_tuning_core.errors import InputError, PromptTuningError, nearest, one_line
from prompt_tuning_files import git_lfs, readable
from prompt_tuning_tasks import metrics

Row = Mapping[str, object]
Source = str | os.PathLike[str] | Callable[[], Iterable[Row]]
Sources = Source | Sequence[Source]


@dataclasses.dataclass(frozen=True)
class Example:
    """One example as text.

    Attributes:
      inputs: The input text.
      targets: The target text.
      place: Its file and line for errors, such as `train.tsv:7`; "" if they are not known.
      columns: For predictions, the columns of the row that the template does not use. Otherwise,
        the columns that `TextTask.examples` was asked to keep.
    """

    inputs: str
    targets: str
    place: str = dataclasses.field(default="", compare=False)
    columns: Mapping[str, object] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True)
class TextTask:
    """Describes a text-to-text task.

    Attributes:
      name: The task's name for MIXTURE_OR_TASK_NAME; in gin, the scope.
      splits: The source of each split's rows: the path of a `.jsonl` file (one object on each
        line), or of a `.tsv` or `.csv` file (column names in its first line; CSV as in RFC 4180);
        or a function that returns rows; or a list of such sources, read in order. Files may be
        compressed, such as `train.tsv.gz` (`.gz`, `.bz2`, `.xz`).
      inputs: Template of the input text; `{column}` is replaced by the row's value. A column's name
        may hold anything but "{", "}", ":" and "!": `{Review Text}`, `{#1 String}`.
      targets: Template of the target text.
      target_names: The text for each rendered target, for files that number their classes: a
        mapping, or a list of the texts for 0, 1 and so on. Numbers are compared by value: the key 1
        stands for `1`, `1.0` and `true`. None uses targets unchanged.
      metrics: Names of metrics (`prompt_tuning_tasks.metrics`), or functions of targets and
        predictions that return a mapping of names to values.

    Raises:
      InputError: If a template is malformed, a metric unknown, or a value of another kind.
    """

    name: str
    splits: Mapping[str, Sources]
    inputs: str = "{inputs}"
    targets: str = "{targets}"
    target_names: Mapping[Any, str] | Sequence[str] | None = None
    metrics: Sequence[str | metrics.Metric] = ("exact_match",)

    def __post_init__(self) -> None:
        for field in ("inputs", "targets"):
            template = getattr(self, field)
            if not isinstance(template, str):
                raise InputError(
                    f"task {self.name!r} has the {field} {template!r}, expected a template in "
                    "quotes, such as '{text}'"
                )
            _columns(template)
        names = self.target_names
        texts = names.values() if isinstance(names, Mapping) else names
        if isinstance(names, str) or not (
            texts is None
            or (isinstance(texts, Iterable) and all(isinstance(text, str) for text in texts))
        ):
            raise InputError(
                f"task {self.name!r} has the target_names {names!r}, expected a mapping to texts "
                "or a list of texts: {'0': 'bad', '1': 'good'} or ['bad', 'good']"
            )
        if not isinstance(self.splits, Mapping):
            raise InputError(
                f"task {self.name!r} has the splits {self.splits!r}, expected for example "
                "{'train': 'train.tsv'}"
            )
        if isinstance(self.metrics, str) or not isinstance(self.metrics, Sequence):
            raise InputError(
                f"task {self.name!r} has the metrics {self.metrics!r}, expected a list: "
                "['exact_match']"
            )
        for metric in self.metrics:
            metrics.get(metric)

    @property
    def components(self) -> tuple[tuple[TextTask, float], ...]:
        """The task itself with rate 1; see `Mixture.components`."""
        return ((self, 1.0),)

    def examples(self, split: str, columns: Sequence[str] = ()) -> list[Example]:
        """Reads a split.

        Args:
          split: Its name.
          columns: The columns that the examples keep, if their rows have them.

        Raises:
          InputError: If the task has no such split, a file is missing, or a row cannot be used; the
            message names the file and the line.
        """
        if split not in self.splits:
            raise InputError(
                f"task {self.name!r} has no split {split!r}{nearest(split, self.splits)}"
            )
        examples = [
            Example(
                self._render(self.inputs, row, place),
                self._target(row, place),
                place,
                {column: row[column] for column in columns if column in row},
            )
            for place, row in _rows(self.splits[split], f"task {self.name!r}, split {split!r}")
        ]
        if not examples:
            raise InputError(f"task {self.name!r}: split {split!r} is empty")
        return examples

    def inputs_from(self, row: Row, place: str) -> str:
        """Renders the input of one row; errors name `place` (file and line)."""
        return self._render(self.inputs, row, place)

    @property
    def input_columns(self) -> list[str]:
        """The columns that the input template names, each once."""
        return list(dict.fromkeys(_columns(self.inputs)))

    def _target(self, row: Row, place: str) -> str:
        target = self._render(self.targets, row, place)
        if self.target_names is None:
            return target
        names = _named(self.target_names)
        for found in (target, _number(target)):
            if found in names:
                return names[found]
        known = ", ".join(f"{key!r} ({type(key).__name__})" for key in _keys(self.target_names))
        raise InputError(
            f"{place}: the target {target!r} has no name in target_names, which has {known}"
        )

    @staticmethod
    def _render(template: str, row: Row, place: str) -> str:
        for column in _columns(template):
            if column not in row:
                is_table = _ending(Path(place.rpartition(":")[0])) in (".tsv", ".csv")
                names = " (the first line of a table has the names)" if is_table else ""
                raise InputError(
                    f"{place}: no column {column!r} for the template {template!r}"
                    f"{nearest(column, row)}{names}"
                )
            _check_cell(row[column], f"{place}: column {column!r}")
        parts = (t if name is None else f"{t}{row[name]}" for t, name in _parsed(template))
        text = "".join(parts)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{place}: {text!r} holds half of a surrogate pair, which is no text")
        return text


def _check_cell(value: object, place: str) -> None:
    """Refuses a value of a row that is no text and no number."""
    if value is None or isinstance(value, list | dict):
        found = "null" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{place} is {found}, expected a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{place} is {value}, expected a text or a finite number")


def _keys(names: Mapping[Any, str] | Sequence[str]) -> Iterable[Any]:
    return names if isinstance(names, Mapping) else range(len(names))


def _named(names: Mapping[Any, str] | Sequence[str]) -> dict[str, str]:
    """Returns target_names by text; a key that is a number is also there in its shortest form."""
    texts = names.values() if isinstance(names, Mapping) else names
    pairs = list(zip(map(str, _keys(names)), texts, strict=True))
    by_value = {_number(key): text for key, text in pairs}
    return {**by_value, **dict(pairs)}


def _number(text: str) -> str:
    """Returns a whole number, `true` or `false` in its shortest form, and other text unchanged."""
    text = {"true": "1", "false": "0"}.get(text.lower(), text)
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() else text


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Describes several tasks that one prompt is trained on.

    Attributes:
      name: The mixture's name for MIXTURE_OR_TASK_NAME; in gin, the scope.
      rates: Rates at which training draws from each task, by name. Only proportions matter.

    Raises:
      InputError: If there is no task or a rate is not a positive number.
    """

    name: str
    rates: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.rates, Mapping) or not self.rates:
            raise InputError(
                f"mixture {self.name!r} has the rates {self.rates!r}, expected for example "
                "{'task_a': 2.0, 'task_b': 1.0}"
            )
        for task, rate in self.rates.items():
            number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
            if not (number and rate > 0 and math.isfinite(rate)):
                raise InputError(
                    f"mixture {self.name!r}: the rate of {task!r} is {rate!r}, expected a positive "
                    "number"
                )

    @property
    def components(self) -> tuple[tuple[TextTask, float], ...]:
        """Its tasks with their rates, in the order of their names.

        Raises:
          InputError: If there is no such task.
        """
        # Sorted, as in gin's operative config: a run from that file must have the same order.
        return tuple((self._task(name), rate) for name, rate in sorted(self.rates.items()))

    def _task(self, name: str) -> TextTask:
        try:
            task = get(name)
        except InputError as e:
            raise InputError(f"mixture {self.name!r}: {e}") from None
        if isinstance(task, Mixture):
            raise InputError(
                f"mixture {self.name!r}: {name!r} is a mixture itself; name its tasks instead"
            )
        return task


Task = TextTask | Mixture
TaskT = TypeVar("TaskT", TextTask, Mixture)


@functools.lru_cache(maxsize=1000)
def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    """Splits a template into pieces: a text, and the column after it or None."""
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as e:
        raise InputError(f"the template {template!r} is malformed: {e}") from None
    for _, name, spec, conversion in fields:
        if name is not None and (not name.strip() or spec or conversion or "{" in name):
            raise InputError(
                f"the template {template!r} holds {{{name}}}; braces hold the name of a column, "
                "which has no '{', ':' or '!'; write {{ and }} for braces in the text"
            )
    return tuple((text, name) for text, name, _, _ in fields)


def _columns(template: str) -> list[str]:
    return [name for _, name in _parsed(template) if name is not None]


def _rows(sources: Sources, place: str) -> Iterator[tuple[str, Row]]:
    """Yields each row with its place (file and line) for errors."""
    if callable(sources):
        for number, row in enumerate(sources(), 1):
            yield f"{place}, row {number}", row
    elif isinstance(sources, (str, os.PathLike)):
        path = Path(sources).expanduser()
        reader = _READERS.get(_ending(path))
        if reader is None:
            known = ", ".join(_READERS)
            raise InputError(
                f"{place}: {path} has none of the endings {known}, alone or followed by "
                f"one of {', '.join(_COMPRESSED)}"
            )
        yield from reader(path)
    elif isinstance(sources, Sequence):
        for number, source in enumerate(sources, 1):
            yield from _rows(source, f"{place}, source {number}")
    else:
        raise InputError(f"{place}: found {sources!r}, expected a path, a function or a list")


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for place, line in _full_lines(path):
        try:
            row = json.loads(line, object_pairs_hook=_each_once)
        except json.JSONDecodeError as e:
            raise InputError(f"{place}: not JSON: {e.msg} at column {e.colno}") from None
        except RecursionError:
            raise InputError(f"{place}: JSON that is nested too deeply") from None
        except ValueError as e:  # A name twice, or a number of thousands of digits.
            raise InputError(f"{place}: {str(e).partition(';')[0]}") from None
        if not isinstance(row, dict):
            raise InputError(f"{place}: found {type(row).__name__}, expected a JSON object")
        yield place, row


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Makes a row of the members of a JSON object."""
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object")
    return row


def _tsv(path: Path) -> Iterator[tuple[str, Row]]:
    return _table((place, line.split("\t")) for place, line in _full_lines(path))


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    return _table(_csv_records(path))


_LONGEST_CELL = 2**31 - 1
"""In characters. Python's default limit is 131,072, and the limit holds for the whole process."""


def _csv_records(path: Path) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(_LONGEST_CELL)
    records = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        # A quoted value may have several lines; errors name the first one.
        place = f"{path}:{records.line_num + 1}"
        try:
            values = next(records)
        except StopIteration:
            return
        except csv.Error as e:
            raise InputError(f"{place}: not CSV: {e}") from None
        if not values:
            raise InputError(f"{place}: the line is empty; remove it")
        yield place, values


def _table(records: Iterator[tuple[str, list[str]]]) -> Iterator[tuple[str, Row]]:
    """Yields rows; the first record has the names of the columns."""
    place, names = next(records, ("", []))
    for name in filter(None, names):
        if names.count(name) > 1:
            raise InputError(f"{place}: two columns have the name {name!r}")
    for place, values in records:
        if len(values) != len(names):
            raise InputError(
                f"{place}: found {len(values)} columns, expected the {len(names)} of the first "
                f"line ({', '.join(names)})"
            )
        # Some programs number the rows in a first column without a name.
        yield place, {name: v for name, v in zip(names, values, strict=True) if name}


def _full_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the lines without their line ends; an empty line is an error."""
    for place, line in _lines(path):
        line = line.rstrip("\r\n")
        if not line.strip():
            raise InputError(f"{place}: the line is empty; remove it")
        yield place, line


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields each line, including its line end, with its place."""
    number = 0
    readable.check_is_file(path, str(path))
    try:
        with _open(path) as file:
            # Split bytes, not text: text has line separators that are no line feeds.
            for number, line in enumerate(file, 1):
                if number == 1:
                    git_lfs.refuse(line, str(path))
                # Some programs write a byte order mark first.
                yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8")
    except InputError:
        raise
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}:{number}: not UTF-8 text ({e.reason} at byte {e.start} of the line)"
        ) from None
    except Exception as e:  # OSError, or an error that only one decompressor has
        reason = getattr(e, "strerror", None) or str(e)
        if isinstance(e, FileNotFoundError) and not path.is_absolute():
            reason += f"; relative paths begin in the current folder, {Path.cwd()}"
        raise InputError(f"{path}: cannot be read: {reason}") from None


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
    ".jsonl": _jsonl,
    ".tsv": _tsv,
    ".csv": _csv,
}
_COMPRESSED = (".gz", ".bz2", ".xz")


def _open(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    # Imported only for compressed files: some builds of Python lack these modules.
    match path.suffix.lower():
        case ".gz":
            import gzip

            return gzip.open(path)
        case ".bz2":
            import bz2

            return bz2.open(path)
        case ".xz":
            import lzma

            return lzma.open(path)
    return path.open("rb")


def _ending(path: Path) -> str:
    """Returns the ending of a file's name, without the ending of its compression."""
    plain = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return plain.suffix.lower()


def stem(path: str | os.PathLike[str]) -> str:
    """Returns a file's name without its ending and the ending of its compression."""
    plain = Path(path)
    return (plain.with_suffix("") if plain.suffix.lower() in _COMPRESSED else plain).stem


# Endings of common files that hold no lines of text and no rows that this module reads.
_NO_TEXT = {
    ".json", ".zip", ".zst", ".tar", ".tgz", ".7z", ".parquet", ".arrow", ".feather", ".xlsx",
    ".xls", ".ods", ".npy", ".npz", ".pkl", ".pickle", ".safetensors", ".pdf", ".docx",
}  # fmt: skip


def has_rows(path: str | os.PathLike[str]) -> bool:
    """Returns True if `read_rows` reads files with this ending."""
    return _ending(Path(path)) in _READERS


def read_rows(path: str | os.PathLike[str]) -> list[tuple[str, Row]]:
    """Reads a file of rows; see `TextTask.splits` for the forms.

    Returns:
      Each row with its file and line for errors.

    Raises:
      InputError: If the file cannot be read or a line cannot be parsed.
    """
    return list(_rows(path, str(path)))


def read_lines(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Reads a file of text, possibly compressed.

    Returns:
      Each line, without its end, with its file and number for errors.

    Raises:
      InputError: If the file cannot be read.
    """
    lines = _lines(Path(path).expanduser())
    return [(place, line.removesuffix("\n").removesuffix("\r")) for place, line in lines]


def import_module(name: str) -> None:
    """Imports a plugin of kind tasks, or a module, that registers tasks (MIXTURE_OR_TASK_MODULE).

    Args:
      name: The plugin's name, such as `my_tasks`, or the module's name, such as
        `my_package.my_tasks`.

    Raises:
      InputError: If nothing has that name, a plugin and a module both have it, or the module fails
        to import.
      PluginError: If the plugin cannot be used.
      PromptTuningError: If the module itself raises one.
    """
    plugins = registry.process_registry()
    rows = [p for p in plugins.discover() if p.kind == "tasks"]
    named = [p for p in rows if p.name == name]
    file = _module_file(name)
    usable = [p for p in named if p.status != "blocked"]
    if usable and file and usable[0].value.partition(":")[0].strip() != name:
        raise InputError(
            f"MIXTURE_OR_TASK_MODULE {name!r} names both {usable[0]} and the module {file}; block "
            f"the plugin with --block-plugin={usable[0].distribution}:{name}, or rename the module"
        )
    # If the plugin is blocked, a module of the same name is used; if there is none, it is an error.
    if usable or (named and not file):
        plugins.load("tasks", name)
        return
    try:
        importlib.import_module(name)
    except PromptTuningError:
        raise
    except (Exception, SystemExit) as e:  # A module may raise anything while it is imported.
        # The missing module may be one that this module imports. Relative names are never found.
        missing = e.name if isinstance(e, ModuleNotFoundError) else None
        if name.startswith(".") or (missing and f"{name}.".startswith(f"{missing}.")):
            raise InputError(
                f"MIXTURE_OR_TASK_MODULE {name!r} is neither a plugin of kind tasks nor a module "
                f"that Python finds{nearest(name, [p.name for p in rows])}"
            ) from e
        raise InputError(f"MIXTURE_OR_TASK_MODULE {name!r} fails to import: {one_line(e)}") from e


def _module_file(name: str) -> str | None:
    """Returns the file of a top-level module, without importing it."""
    if not name.isidentifier():
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    # Not a folder without `__init__.py`: it may hold data files of the same name.
    return spec.origin if spec else None


def with_a_template(task: Task) -> TextTask:
    """Returns the task (MIXTURE_OR_TASK_NAME) after a check that it has an input template.

    Raises:
      InputError: If it is a mixture.
    """
    if isinstance(task, TextTask):
        return task
    raise InputError(
        f"MIXTURE_OR_TASK_NAME {task.name!r} is a mixture, and a text fills the input template of "
        f"one task; name one of {', '.join(task.rates)}"
    )


def read_inputs(path: str | os.PathLike[str], task: TextTask) -> list[Example]:
    """Reads texts for the model to answer (INFER_INPUT_FILE).

    The rows of a `.jsonl`, `.tsv` or `.csv` file fill the task's input template. Any other file is
    text, and each line fills a template of one column. Files may be compressed; see
    `TextTask.splits`.

    Returns:
      Examples in the file's order, with empty targets, and with the other columns of their rows.

    Raises:
      InputError: If the file cannot be read or is empty, or a row lacks a column of the template.
    """
    if _ending(Path(path)) in _NO_TEXT:
        raise InputError(
            f"INFER_INPUT_FILE {path}: is no file of lines or rows, which end in .txt, "
            f"{', '.join(_READERS)}; convert it"
        )
    try:
        rows = read_rows(path) if has_rows(path) else _rows_of_lines(path, task)
    except InputError as e:
        raise InputError(f"INFER_INPUT_FILE {e}") from None
    if not rows:
        raise InputError(f"INFER_INPUT_FILE {path}: is empty")
    used = frozenset(task.input_columns)
    return [
        Example(
            task.inputs_from(row, place),
            "",
            place,
            {column: value for column, value in row.items() if column not in used},
        )
        for place, row in rows
    ]


def _rows_of_lines(path: str | os.PathLike[str], task: TextTask) -> list[tuple[str, Row]]:
    columns = task.input_columns
    if len(columns) != 1:
        raise InputError(
            f"{path}: a line of text fills one column, and the input template of task "
            f"{task.name!r} has {len(columns)}; give a .jsonl, .tsv or .csv file"
        )
    return [(place, {columns[0]: line}) for place, line in read_lines(path)]


_REGISTERED: dict[str, Task] = {}


def register(task: TaskT) -> TaskT:
    """Registers a task or mixture under its name; call it in the module of MIXTURE_OR_TASK_MODULE.

    Raises:
      InputError: If another task or mixture has that name.
    """
    if _REGISTERED.setdefault(task.name, task) != task:
        raise InputError(f"another task is registered as {task.name!r} already")
    return task


def names() -> list[str]:
    """Returns the names of the tasks and mixtures that are registered or described in gin."""
    return sorted({*_REGISTERED, *_described_in_gin()})


def get(name: str) -> Task:
    """Returns the task or mixture called `name`, registered or described in gin.

    Raises:
      InputError: If there is none; the message names similar names.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    described = _described_in_gin()
    if name not in described:
        raise InputError(
            f"unknown task {name!r}{nearest(name, [*_REGISTERED, *described])} (a task is "
            "described in gin as NAME/tasks.TextTask, or registered by MIXTURE_OR_TASK_MODULE)"
        )
    if len(described[name]) > 1:
        raise InputError(f"{name!r} is described in gin both as a task and as a mixture")
    import gin

    # Use the task's own scope, not the scope of the caller.
    with gin.config_scope(name.split("/")):
        return gin.get_configurable(described[name].pop())(name=name)


def _described_in_gin() -> dict[str, set[type[Task]]]:
    import gin

    kinds: dict[str, type[Task]] = {"TextTask": TextTask, "Mixture": Mixture}
    pattern = rf"^(\S+)/(?:[\w.]+\.)?({'|'.join(kinds)})\."
    found: dict[str, set[type[Task]]] = {}
    for name, kind in re.findall(pattern, gin.config_str(), re.MULTILINE):
        found.setdefault(name, set()).add(kinds[kind])
    return found
