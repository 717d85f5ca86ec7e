"""What a training writes down as it goes: ``metrics.jsonl``, and TensorBoard's curves where installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deepfits.training.checkpoint import cut_metrics


class Recorder:
    """Write rows of numbers.

    Parameters
    ----------
    out
        The model's directory: ``metrics.jsonl`` and ``tensorboard/`` go there.
    step
        Rows after this step, of a run that was killed, are dropped.
    tensorboard
        Write TensorBoard's files too, if it is installed.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        path = out / "metrics.jsonl"
        cut_metrics(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._board = _open_board(out / "tensorboard", step) if tensorboard else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row; it has a ``step``."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.show("training", row)

    def show(self, group: str, row: Mapping[str, Any]) -> None:
        """Give the numbers of a row to TensorBoard alone."""
        if self._board is None:
            return
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(f"{group}/{name}", value, row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class NoRecorder:
    """Write nothing: what the other processes have."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Write nothing."""

    def show(self, group: str, row: Mapping[str, Any]) -> None:
        """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _open_board(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # an optional part: metrics.jsonl has the same numbers
    return SummaryWriter(directory, purge_step=step + 1 if step else None)
