"""Interface through which long tasks report progress, independent of how it is displayed.

Numerics and stages take a `progress` argument of type `Progress` and know nothing of terminals; the command
line passes `deepfits.console.show_progress`. The default is silent.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Task(Protocol):
    """A long-running task."""

    def advance(self, number: float = 1, note: str = "") -> None:
        """Report that `number` more units are done; `note` is a short remark next to the bar."""


class Progress(Protocol):
    """Open a task: ``with progress("fit", total=1000, unit="objects") as task: task.advance(10)``."""

    def __call__(
        self, description: str, *, total: float | None, unit: str = "", done: float = 0
    ) -> AbstractContextManager[Task]:
        """Open the task; `done` units were finished earlier, by an interrupted run."""


class _SilentTask:
    def advance(self, number: float = 1, note: str = "") -> None:
        """Do nothing."""


def silent(
    description: str, *, total: float | None, unit: str = "", done: float = 0
) -> AbstractContextManager[Task]:
    """Show nothing: the default `Progress`."""
    return nullcontext(_SilentTask())


def noted(progress: Progress, task: Task, label: str) -> Progress:
    """Return a `Progress` that shows nested work as notes of an outer task, without lines of its own.

    It is silent if `progress` is; `label` names the part of the outer task.
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
