"""A hook: appends the metrics of each evaluation to `metrics.csv`, for a spreadsheet."""

import csv
from pathlib import Path

from prompt_tuning_core.hookspecs import hookimpl

TABLE = Path("metrics.csv")


@hookimpl
def evaluated(step, metrics):
    """Writes one line; the first evaluation begins the table."""
    with TABLE.open("w" if step == 0 else "a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if step == 0:
            writer.writerow(["step", *metrics])
        writer.writerow([step, *metrics.values()])
