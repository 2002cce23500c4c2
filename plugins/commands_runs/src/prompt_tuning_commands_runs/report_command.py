"""Report on training runs in one web page that needs no network."""

from __future__ import annotations

import argparse
from pathlib import Path

from prompt_tuning_commands_runs import comparing, report_page, run_records
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import prompt_files

_DEFAULT = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument(
        "directories", metavar="RUN", nargs="+", help="a run's directory, or one above several"
    )
    parser.add_argument(
        "--output", metavar="FILE", default=_DEFAULT, help=f"the page; default: {_DEFAULT}"
    )
    comparing.add_arguments(parser)
    parser.epilog = "Example: prompt-tuning report out/run --output report.html"


def run(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    output = Path(arguments.output).expanduser()
    if output.is_dir():
        raise InputError(f"--output {output}: is a directory, expected a file such as {_DEFAULT}")
    runs = [run_records.read_run(one) for one in run_records.find_runs(arguments.directories)]
    page = report_page.page(comparing.compare(runs, arguments.metric, arguments.lowest))
    exists = output.exists()
    try:
        with prompt_files.atomic_write(output) as file:
            file.write(page.encode())
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot be written ({error.strerror or error}); give another file"
        ) from None
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    print(f"{'replaced' if exists else 'wrote'} {output}: {count}")
    return 0
