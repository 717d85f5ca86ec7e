"""Recording of training metrics: ``metrics.jsonl``, TensorBoard, and an experiment tracker."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from deepfits.errors import InputError
from deepfits.training.checkpoint import cut_metrics


class Recorder:
    """Write rows of metrics to files and trackers.

    The files are ``metrics.jsonl`` in the model's directory, without the rows that a killed run wrote after
    `step`, and ``tensorboard/``, if TensorBoard is installed. A tracker, ``"mlflow"`` or ``"wandb"``, logs to
    its active run, or else to a new one.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool, tracker: str | None = None) -> None:
        self._track = _open_tracker(tracker, out.name) if tracker else None
        path = out / "metrics.jsonl"
        cut_metrics(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._board = _open_board(out / "tensorboard", step) if tensorboard else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row, which must have a ``step``."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.show("training", row)

    def show(self, group: str, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row to TensorBoard and the tracker, but not to ``metrics.jsonl``."""
        numbers = {
            f"{group}/{name}": float(value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float)
        }
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, row["step"])
        if self._track is not None and numbers:
            self._track(numbers, row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _open_tracker(name: str, run: str) -> Callable[[dict[str, float], int], None]:
    """Return a function that logs numbers for a step; server and project are set by the environment."""
    try:
        module = import_module(name)
    except ImportError:
        raise InputError(f"tracker {name!r} is not installed: pip install {name}") from None
    if name == "mlflow":
        if module.active_run() is None:
            module.start_run(run_name=run)
        return lambda numbers, step: module.log_metrics(numbers, step=step)
    if module.run is None:
        module.init(name=run)
    return lambda numbers, step: module.log(numbers, step=step)


def _open_board(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # optional dependency; metrics.jsonl has the same numbers
    return SummaryWriter(directory, purge_step=step + 1 if step else None)
