"""Progress bar, TensorBoard files and picture of the curves of a training run."""

from __future__ import annotations

import contextlib
import datetime
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import rich.console
import rich.progress
import rich.table

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local import extras
from prompt_tuning_files import run_files
from prompt_tuning_files.prompt_files import atomic_write

LOSS = "loss_per_nonpadding_target_token"
SECONDS_BETWEEN_LINES = 60.0
"""The longest time without a line in training, if no terminal shows a progress bar."""


class TrainingReport:
    """Shows metrics while training and keeps them.

    It also writes `metrics.jsonl` in the run's directory, one line for each step and each
    evaluation, with the seconds since the run began; see `run_files.Logged`. A resumed run reads
    its history from that file, and continues to count from the seconds of its last save. If a file
    cannot be written, there is a warning and training continues, since a prompt is worth more than
    its curves.

    Args:
      directory: The run's directory.
      console: The terminal for the progress bar and lines.
      resumed_at: The step at which the run resumes; metrics of later steps are dropped.

    Attributes:
      history: The values of each metric by step; names begin with "train/" or "eval/".
    """

    def __init__(
        self, directory: Path, console: rich.console.Console, resumed_at: int | None = None
    ) -> None:
        self.history: dict[str, dict[int, float]] = {}
        self._has_failed = False
        self._began = time.monotonic()
        self._console = console
        self._tensorboard = _TensorBoard(directory / "tensorboard", resumed_at)
        self._lines = self._reopen(directory / run_files.METRICS_FILE, resumed_at)
        self._progress: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._plain: _PlainProgress | None = None

    @contextlib.contextmanager
    def training(self, steps: int, batch_size: int, done: int = 0) -> Iterator[None]:
        """Shows a progress bar on a terminal or in a notebook, or else a line each minute.

        Args:
          steps: Number of steps of the whole run.
          batch_size: Examples in each step.
          done: Number of steps taken before the run was resumed.
        """
        shows_bar = self._console.is_terminal or self._console.is_jupyter
        if not shows_bar:
            self._plain = _PlainProgress(steps, batch_size, done)
        with rich.progress.Progress(
            rich.progress.TextColumn("training"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[loss]}"),
            _ExamplesPerSecond(batch_size),
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            disable=not shows_bar,
        ) as self._progress:
            self._task = self._progress.add_task("", total=steps, completed=done, loss="")
            yield

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of a training step."""
        self._keep("train", step, metrics)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, loss=f"loss {metrics[LOSS]:.3f}")
        line = None if self._plain is None else self._plain.line(step, metrics[LOSS])
        if line is not None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records and prints the metrics of an evaluation."""
        self._keep("eval", step, metrics)
        values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        losses = self.history.get(f"train/{LOSS}", {})
        loss = f", loss per token {losses[step]:.3f}" if step in losses else ""
        self._console.print(f"step {step}: {values}{loss}", highlight=False)

    def end(self, step: int) -> None:
        """Records that the run has ended at `step`."""
        with self._attempt():
            self._lines.write(run_files.Logged(step, {}, self._seconds, has_ended=True).line())

    def flush(self) -> None:
        """Writes all metrics so far to the disk."""
        with self._attempt():
            self._lines.flush()
            self._tensorboard.flush()

    def close(self) -> None:
        """Closes the files."""
        with self._attempt():
            self._lines.close()
            self._tensorboard.close()

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[None]:
        """Turns the failure of a report into a warning, once in the whole run."""
        try:
            yield
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                warnings.warn(
                    f"the curves of the run cannot be written ({error.strerror or error}); "
                    "training goes on without them",
                    stacklevel=3,
                )

    def draw(self, path: Path) -> None:
        """Writes the curves of training loss and evaluation metrics as a PNG.

        Without Matplotlib, which the extra `curves` installs, it prints a line instead.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            self._console.print(
                f"no {path.name}: {error}{extras.how_to_install(error)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            return
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
        with self._attempt(), atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=120)

    def _keep(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        named = {f"{group}/{name}": value for name, value in metrics.items()}
        self._remember(step, named)
        with self._attempt():
            self._lines.write(run_files.Logged(step, named, self._seconds).line())
            self._tensorboard.write(step, named)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _remember(self, step: int, named: Mapping[str, float]) -> None:
        for name, value in named.items():
            self.history.setdefault(name, {})[step] = value

    def _reopen(self, path: Path, resumed_at: int | None) -> TextIO:
        """Opens the file of metrics for appending; keeps its lines up to `resumed_at`."""
        kept, seconds = [], 0.0
        if resumed_at is not None and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    logged = run_files.parse_line(line)
                except ValueError:
                    continue  # This line is cut by a crash, or damaged; no step depends on it.
                if logged.step <= resumed_at and not logged.has_ended:
                    kept.append(line + "\n")
                    self._remember(logged.step, logged.values)
                    seconds = logged.seconds or seconds
            self._began -= seconds
        with atomic_write(path) as file:
            file.write("".join(kept).encode())
        return path.open("a", encoding="utf-8")


def table(title: str, columns: list[str], rows: list[list[str]]) -> rich.table.Table:
    """Returns a table for the terminal; all columns but the first are aligned to the right."""
    result = rich.table.Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        result.add_column(column, justify="right" if number else "left")
    for row in rows:
        result.add_row(*row)
    return result


class _TensorBoard:
    """A file of events for TensorBoard.

    It does not use tensorboardX's `SummaryWriter`, whose thread prints a traceback when the disk is
    full.
    """

    def __init__(self, directory: Path, resumed_at: int | None) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        if directory.is_symlink():
            raise InputError(
                f"{directory} is a symbolic link, expected a folder of the run; remove it"
            )
        directory.mkdir(parents=True, exist_ok=True)
        self._event = event_pb2.Event
        self._writer = EventsWriter(str(directory / "events"))
        if resumed_at is not None:
            # Makes TensorBoard drop values of an earlier file from this step on.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(
                event_pb2.Event(wall_time=time.time(), step=resumed_at + 1, session_log=start)
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.write_event(
            self._event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _PlainProgress:
    """Lines of progress, for logs and pipes.

    Args:
      steps: Number of steps of the whole run.
      batch_size: Examples in each step.
      done: Number of steps taken before the run was resumed.
    """

    def __init__(self, steps: int, batch_size: int, done: int) -> None:
        self._steps = steps
        self._batch_size = batch_size
        self._taken = self._shown = done
        self._time = time.monotonic()

    def line(self, step: int, loss: float) -> str | None:
        """Returns a line after a step; None if the last line was shown shortly before.

        The speed is the mean since the last line, including evaluations and saves.
        """
        self._taken += 1
        now = time.monotonic()
        if now - self._time < SECONDS_BETWEEN_LINES:
            return None
        speed = (self._taken - self._shown) / max(now - self._time, 1e-9)
        self._shown, self._time = self._taken, now
        left = datetime.timedelta(seconds=round((self._steps - self._taken) / speed))
        return (
            f"step {step}: loss per token {loss:.3f}, {self._taken} of {self._steps} steps taken, "
            f"{speed * self._batch_size:.3g} examples/s, {left} left"
        )


class _ExamplesPerSecond(rich.progress.ProgressColumn):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        speed = "?" if task.speed is None else f"{task.speed * self._batch_size:.0f}"
        return rich.text.Text(f"{speed} examples/s")
