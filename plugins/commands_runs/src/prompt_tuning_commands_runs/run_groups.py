"""Groups runs that differ only in the seed and in paths, and names the other differences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

from prompt_tuning_commands_runs.best_values import Metric, Spread
from prompt_tuning_commands_runs.run_records import RunRecord, readable

# Not compared: the seed, and the paths of files, which are compared by their checksums.
_APART = {
    "RANDOM_SEED", "random_seed", "MODEL_DIR", "model_dir", "INITIAL_CHECKPOINT_PATH",
    "CHECKPOINT_PATH", "checkpoint_path", "model_path", "VOCABULARY_FILE",
    "sentencepiece_model_file",
}  # fmt: skip
ABSENT = "-"


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in the seed and in paths.

    Attributes:
      records: The runs.
      settings: The bindings and the other facts that they share, by name.
    """

    records: Sequence[RunRecord]
    settings: Mapping[str, str]

    def best(self, metric: Metric) -> list[tuple[RunRecord, int, float]]:
        """Returns the step and value of each run's best evaluation; skips runs without one."""
        found = ((record, metric.best(record)) for record in self.records)
        return [(record, *best) for record, best in found if best is not None]

    def spread(self, metric: Metric) -> Spread | None:
        """Summarizes the best values of its runs."""
        return Spread.of([value for _, _, value in self.best(metric)])


def by_task(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Returns the runs of each task."""
    found: dict[str, list[RunRecord]] = {}
    for record in records:
        found.setdefault(record.task, []).append(record)
    return found


def grouped(records: Iterable[RunRecord], metrics: Sequence[Metric]) -> list[RunGroup]:
    """Groups runs of one task; the best group by the first metric comes first."""
    found: dict[frozenset[tuple[str, str]], list[RunRecord]] = {}
    for record in records:
        found.setdefault(frozenset(_settings(record).items()), []).append(record)
    groups = [RunGroup(members, _settings(members[0])) for members in found.values()]
    if not metrics:
        return groups
    sign = 1 if metrics[0].is_lowest else -1

    def rank(group: RunGroup) -> float:
        spread = group.spread(metrics[0])
        return float("inf") if spread is None else sign * spread.mean

    return sorted(groups, key=rank)


def _settings(record: RunRecord) -> dict[str, str]:
    """Returns everything about a run but its seed, its paths and its results."""
    facts = record.facts
    plugins = {f"{plugin['distribution']}": str(plugin["version"]) for plugin in facts["plugins"]}
    return {
        **{
            name: value
            for name, value in record.bindings.items()
            if name.rpartition(".")[2] not in _APART
        },
        "model": str(facts["model"].get("sha256"))[:12],
        "vocabulary": str(facts["vocabulary"].get("sha256"))[:12],
        "training examples": str(facts["task"].get("training_examples_sha256"))[:12],
        **{f"version of {name}": version for name, version in plugins.items()},
        **{f"version of {name}": str(version) for name, version in facts["versions"].items()},
        "changes": json.dumps(facts.get("changes", [])),
    }


def differences(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Returns a column for each setting that differs: a readable value for each group.

    A setting that some groups lack is left out. For example, it is a parameter of an initializer
    that these groups don't use, and the setting that names the initializer differs as well. It is
    shown only if two groups differ in nothing else.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.settings))
    differing = [name for name in names if len({g.settings.get(name) for g in groups}) > 1]
    # The values of groups that have the setting.
    shared = [
        name
        for name in differing
        if len({g.settings[name] for g in groups if name in g.settings}) > 1
    ]
    rows = {tuple(group.settings.get(name) for name in shared) for group in groups}
    kept = shared if len(rows) == len(groups) else differing
    headings = _short_names(kept)
    return {headings[name]: [_cell(group, name) for group in groups] for name in kept}


def _cell(group: RunGroup, name: str) -> str:
    value = group.settings.get(name)
    return ABSENT if value is None else readable(value, group.settings)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the shortest unique end of each name: `prompt_init` for `make.prompt_init`."""

    def end(name: str, parts: int) -> str:
        if name.startswith("version of "):
            return name
        return ".".join(name.rpartition("/")[2].split(".")[-parts:])

    short = {}
    for name in names:
        ends = (end(name, parts) for parts in range(1, name.count(".") + 2))
        short[name] = next(
            (one for one in ends if sum(end(n, one.count(".") + 1) == one for n in names) == 1),
            name,
        )
    return short
