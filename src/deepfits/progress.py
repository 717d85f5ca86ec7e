"""How long work tells where it is, without printing.

Numerics and stages take a `progress` argument of the type `Progress` and know nothing of terminals; the
command line hands them `deepfits.console.show_progress`. The default is silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One piece of long work."""

    def advance(self, number: float = 1, note: str = "") -> None:
        """Report that `number` more units are done; `note` is a short remark beside the bar."""


class Progress(Protocol):
    """Open a task: ``with progress("fit", total=1000, unit="objects") as task: task.advance(10)``."""

    def __call__(
        self, description: str, *, total: float | None, unit: str = "", done: float = 0
    ) -> AbstractContextManager[Task]:
        """Open the task; `done` units were finished earlier (a resumed run)."""


class _SilentTask:
    def advance(self, number: float = 1, note: str = "") -> None:
        """Do nothing."""


def silent(
    description: str, *, total: float | None, unit: str = "", done: float = 0
) -> AbstractContextManager[Task]:
    """Show nothing: the default `Progress`."""
    return nullcontext(_SilentTask())


def noted(progress: Progress, task: Task, label: str) -> Progress:
    """Return a `Progress` that shows work inside a task as notes of the task, without lines of its own.

    Where `progress` is silent, so is the work inside; `label` says which part of the task it is.
    """
    if progress is silent:
        return silent

    class Inner:
        def __init__(self, description: str, total: float | None, done: float) -> None:
            self.description, self.total, self.done = description, total, done

        def advance(self, number: float = 1, note: str = "") -> None:
            self.done += number
            of = "" if self.total is None else f" of {self.total:,.0f}"
            task.advance(0, f"{label}: {self.description}, {self.done:,.0f}{of}")

    @contextmanager
    def inside(description: str, *, total: float | None, unit: str = "", done: float = 0) -> Iterator[Task]:
        yield Inner(description, total, done)

    return inside
