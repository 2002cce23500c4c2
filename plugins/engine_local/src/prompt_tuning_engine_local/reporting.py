"""What a training run shows: a progress bar, TensorBoard files, a picture of the curves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import rich.console
import rich.progress
import rich.table

if TYPE_CHECKING:
    import tensorboardX

LOSS = "loss_per_nonpadding_target_token"


class TrainingReport:
    """Shows metrics while training and keeps them.

    Args:
      directory: Where TensorBoard's files go.
      console: Where the progress bar and lines go.

    Attributes:
      history: For each metric its values by step, "train/" or "eval/" in front of its name.
    """

    def __init__(self, directory: Path, console: rich.console.Console) -> None:
        import tensorboardX

        self.history: dict[str, dict[int, float]] = {}
        self._console = console
        self._writer: tensorboardX.SummaryWriter = tensorboardX.SummaryWriter(str(directory))
        self._progress: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    @contextlib.contextmanager
    def training(self, steps: int, batch_size: int) -> Iterator[None]:
        """Shows a progress bar on a terminal while the block runs."""
        with rich.progress.Progress(
            rich.progress.TextColumn("training"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[loss]}"),
            _ExamplesPerSecond(batch_size),
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        ) as self._progress:
            self._task = self._progress.add_task("", total=steps, loss="")
            yield

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a training step."""
        self._keep("train", step, metrics)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, loss=f"loss {metrics[LOSS]:.3f}")

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes and prints the metrics of an evaluation."""
        self._keep("eval", step, metrics)
        values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        losses = self.history.get(f"train/{LOSS}", {})
        loss = f", loss per token {losses[step]:.3f}" if step in losses else ""
        self._console.print(f"step {step}: {values}{loss}", highlight=False)

    def close(self) -> None:
        """Ends the TensorBoard files."""
        self._writer.close()

    def draw(self, path: Path) -> None:
        """Writes the curves of training loss and evaluation metrics as a PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        from prompt_tuning_core.prompt_files import atomic_write

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        FigureCanvasAgg(figure)  # Needs no display.
        losses, metrics = figure.subplots(1, 2)
        by_step = self.history.get(f"train/{LOSS}", {})
        losses.plot(list(by_step), list(by_step.values()), linewidth=0.8)
        losses.set(xlabel="step", ylabel="training loss per target token")
        for name, by_step in self.history.items():
            if name.startswith("eval/"):
                label = name.removeprefix("eval/")
                metrics.plot(list(by_step), list(by_step.values()), marker=".", label=label)
        metrics.set(xlabel="step", ylabel="evaluation")
        if metrics.lines:
            metrics.legend()
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=120)

    def _keep(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.history.setdefault(f"{group}/{name}", {})[step] = value
            self._writer.add_scalar(f"{group}/{name}", value, step)


def table(title: str, columns: list[str], rows: list[list[str]]) -> rich.table.Table:
    """Returns a table for the terminal; all columns but the first are aligned to the right."""
    result = rich.table.Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        result.add_column(column, justify="right" if number else "left")
    for row in rows:
        result.add_row(*row)
    return result


class _ExamplesPerSecond(rich.progress.ProgressColumn):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        speed = "?" if task.speed is None else f"{task.speed * self._batch_size:.0f}"
        return rich.text.Text(f"{speed} examples/s")
