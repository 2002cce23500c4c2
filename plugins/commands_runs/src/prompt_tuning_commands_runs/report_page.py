"""The page of a report: one file that needs no other file, no script and no network."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence

from prompt_tuning_commands_runs import (
    answers_section,
    curves_section,
    prompt_section,
    provenance_section,
    run_tables,
    saved_prompts,
    scores_section,
)
from prompt_tuning_commands_runs.best_values import Metric
from prompt_tuning_commands_runs.comparison_section import comparison
from prompt_tuning_commands_runs.curves_section import Curves
from prompt_tuning_commands_runs.html_elements import Safe, element, folded, together
from prompt_tuning_commands_runs.run_groups import ABSENT, RunGroup
from prompt_tuning_commands_runs.run_records import RunRecord
from prompt_tuning_commands_runs.saved_answers import read_answers

# The browser itself refuses to load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

Compared = Mapping[str, tuple[Sequence[RunGroup], Sequence[Metric]]]
"""The groups of runs of each task, and the metrics to compare them by."""


def page(compared: Compared) -> str:
    """Returns the HTML of a report on runs.

    Raises:
      InputError: If a file of a run is damaged.
    """
    runs = [record for groups, _ in compared.values() for g in groups for record in g.records]
    if len(runs) == 1:
        title, body = heading(runs[0]), of_run(runs[0])
    else:
        title = f"{len(runs)} runs of {', '.join(compared)}"
        body = together(
            *(comparison(task, *found) for task, found in compared.items()),
            element("h2", "Each run"),
            *(folded(f"{record.directory}: {heading(record)}", of_run(record)) for record in runs),
        )
    return f"<!DOCTYPE html>\n{_whole(title, body)}\n"


def heading(record: RunRecord) -> str:
    """Returns the heading of a run."""
    return f"{record.task}: {record.variant}, {record.initializer}, seed {record.seed}"


def of_run(record: RunRecord) -> Safe:
    """Returns the sections of a run."""
    found = read_answers(record.directory)
    prompts = saved_prompts.first_and_newest(record.directory)
    labels = next((one.labels for one in found if one.labels), [])
    sections = {
        "Scores": scores_section.scores(record, found),
        "Curves": curves_section.figures([Curves("", 0, record.history)]),
        "Prompt": prompt_section.prompt(record, prompts, labels),
        "Answers": answers_section.answers_to(found),
        "Provenance": provenance_section.provenance(record, prompts[-1] if prompts else None),
    }
    return together(
        _facts(record),
        *(
            element("section", element("h2", name), content, data_section=name.lower())
            for name, content in sections.items()
        ),
    )


def _facts(record: RunRecord) -> Safe:
    step = ABSENT if record.last_step is None else str(record.last_step)
    facts = {
        "task": record.task,
        "model": str(record.facts["model"].get("path", "unknown")),
        "variant": record.variant,
        "initializer": record.initializer,
        "seed": str(record.seed),
        "last step": f"{step}, {run_tables.state_text(record)}",
        "time": run_tables.time_text(record.seconds),
        "directory": str(record.directory),
    }
    pairs = (
        element("div", element("dt", name), element("dd", text)) for name, text in facts.items()
    )
    return element("dl", pairs, class_="facts")


def _whole(title: str, body: Safe) -> Safe:
    style = importlib.resources.files(__package__).joinpath("report.css").read_text("utf-8")
    head = together(
        Safe('<meta charset="utf-8">'),
        Safe(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Safe('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Safe(style)),
    )
    main = element("main", element("h1", title), body)
    return element("html", element("head", head), element("body", main), lang="en")
