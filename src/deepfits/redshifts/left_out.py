"""What a method says of labelled objects that it did not learn from: for recalibration and stacking.

Shapes: V objects, Q quantile levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.files import writing


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Estimates from cross-validation, or of a validation part.

    Attributes
    ----------
    rows
        ``(V,)``: which of the labelled objects, as row numbers of the data set.
    point
        ``(V,)``.
    quantiles
        ``(V, Q)`` before recalibration, or None.
    """

    rows: np.ndarray
    point: np.ndarray
    quantiles: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> LeftOut:
        """Return the objects of some rows, in their order; all must be there."""
        order = np.argsort(self.rows)
        place = order[np.searchsorted(self.rows[order], rows)]
        assert np.array_equal(self.rows[place], rows)
        return LeftOut(
            rows=rows,
            point=self.point[place],
            quantiles=None if self.quantiles is None else self.quantiles[place],
        )

    def save(self, directory: str | Path) -> None:
        """Write ``left_out.npz``."""
        arrays: dict[str, Any] = {"rows": self.rows, "point": self.point}
        if self.quantiles is not None:
            arrays["quantiles"] = self.quantiles.astype(np.float32)
        with writing(Path(directory) / "left_out.npz") as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **arrays)

    @classmethod
    def load(cls, directory: str | Path) -> LeftOut:
        """Read back `save`."""
        path = Path(directory) / "left_out.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = {name: file[name] for name in file.files}
            return cls(**fields)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a file of left-out estimates ({error}); train again") from error
