"""Progress display of the command line: a bar on a terminal, a line every ten seconds in a log."""

import logging
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from deepfits.progress import Task

SECONDS_BETWEEN_LINES = 10.0
# The remaining time is shown once this share of the work is done or this many seconds have passed: earlier
# rates include the start-up. The rate is that of the last LEAST_SECONDS, or of the last half of the elapsed
# time if that is longer.
LEAST_SHARE, LEAST_SECONDS = 0.05, 30.0

console = Console(stderr=True, highlight=False)


def log_handler() -> logging.Handler:
    """Return the log handler: rich columns on a terminal, else one plain line per message."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(
            console=console, show_path=False, show_level=False, markup=False, highlighter=None
        )
        form = "%(message)s"
    else:
        handler, form = logging.StreamHandler(console.file), "%(asctime)s %(message)s"
    handler.setFormatter(logging.Formatter(form, datefmt="%H:%M:%S"))
    return handler


class _TimeLeft(TimeRemainingColumn):
    """Remaining time, shown once the rate is reliable."""

    def render(self, task: RichTask) -> Text:
        """Draw the remaining time, or dashes."""
        share = (task.completed - task.fields["begun"]) / task.total if task.total else 0.0
        if not task.finished and _is_early(share, task.elapsed or 0.0):
            return Text("-:--:--", style="progress.remaining")
        return super().render(task)


def _is_early(share: float, seconds: float) -> bool:
    return share < LEAST_SHARE and seconds < LEAST_SECONDS


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: RichTask) -> Text:
        """Draw the rate, or nothing before it is known."""
        speed = task.finished_speed or task.speed
        return Text(_rate(speed, task.fields["unit"]) if speed else "")


def _rate(per_second: float, unit: str) -> str:
    """Format a rate per second, or the time per unit if the rate is below one per second."""
    return f"{per_second:,.0f} {unit}/s" if per_second >= 1 else f"{1 / per_second:,.1f} s each"


class _Bar:
    """A task on a terminal."""

    def __init__(self, rich: RichProgress, task: TaskID) -> None:
        self._rich, self._task = rich, task

    def advance(self, number: float = 1, note: str = "") -> None:
        self._rich.advance(self._task, number)
        if note:
            self._rich.update(self._task, note=note)


def _print_line(line: str) -> None:
    """Print a log line without wrapping, because logs are parsed line by line."""
    console.print(line, markup=False, soft_wrap=True)


class _Lines:
    """A task in a log: one line every ten seconds, with rate and remaining time."""

    def __init__(self, description: str, total: float | None, unit: str, done: float) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._start_done = self._done = done
        self._start = self._last = time.monotonic()
        self._before = deque([(self._start, done)])

    def advance(self, number: float = 1, note: str = "") -> None:
        self._done += number
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._print(now, note)

    def _print(self, now: float, note: str) -> None:
        rate = self._recent_rate(now)
        share = (self._done - self._start_done) / self._total if self._total else 0.0
        state, left = f"{self._done:,.0f} {self._unit}", ""
        if self._total:
            state = f"{self._done:,.0f} of {self._total:,.0f} {self._unit}"
            remaining = max(self._total - self._done, 0)
            if remaining and rate > 0 and not _is_early(share, now - self._start):
                minutes, seconds = divmod(round(remaining / rate), 60)
                left = f", {minutes} min {seconds:02d} s left"
        speed = f", {_rate(rate, self._unit)}" if rate > 0 else ""
        _print_line(f"{self._description}: {state}{speed}{left}" + (f" ({note})" if note else ""))

    def _recent_rate(self, now: float) -> float:
        """Return the recent rate in units per second, or the overall rate if nothing was done recently."""
        since = now - max(LEAST_SECONDS, (now - self._start) / 2)
        while len(self._before) > 1 and self._before[1][0] <= since:
            self._before.popleft()
        then, done = self._before[0]
        self._before.append((now, self._done))
        if self._done > done:
            return (self._done - done) / max(now - then, 1e-9)
        return (self._done - self._start_done) / max(now - self._start, 1e-9)

    def close(self) -> None:
        """Print the last line: the number of units done and the time taken."""
        seconds = time.monotonic() - self._start
        unit = re.sub(r"(?<=\w)s$", "", self._unit.replace("ies", "ys")) if self._done == 1 else self._unit
        _print_line(f"{self._description}: {self._done:,.0f} {unit} in {seconds:.1f} s")


@contextmanager
def show_progress(
    description: str, *, total: float | None, unit: str = "", done: float = 0
) -> Iterator[Task]:
    """Show a task with rate and remaining time; the command line's `deepfits.progress.Progress`."""
    if not console.is_terminal:
        lines = _Lines(description, total, unit, done)
        yield lines
        lines.close()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", style="bold"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        _TimeLeft(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with RichProgress(*columns, console=console) as rich:
        task = rich.add_task(description, total=total, completed=int(done), unit=unit, note="", begun=done)
        yield _Bar(rich, task)
