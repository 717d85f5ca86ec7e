"""Where redshifts are extrapolated: how densely labelled objects lie around an object in feature space.

Shapes: N objects, T training objects, K features, D principal axes.

The measure is the distance to the 10th nearest labelled object, in the space of the leading principal axes of
the labelled objects, in units of the median of that distance among the labelled objects themselves. An object
is outside the domain where this exceeds what 99% of the labelled objects have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import writing

NUM_NEIGHBOURS = 10
NUM_AXES = 8
INSIDE = 0.99


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The labelled objects' place.

    Attributes
    ----------
    points
        ``(T, D)``, the labelled objects along the axes.
    centre, scale
        ``(K,)``: standardisation of the features.
    axes
        ``(K, D)``: onto principal axes, each divided by its spread.
    unit, limit
        Median distance among the labelled objects, and the distance in that unit beyond which an object is
        outside.
    """

    points: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    unit: float
    limit: float

    @classmethod
    def learn(cls, features: np.ndarray) -> Domain:
        """Learn from the labelled objects, ``(T, K)``."""
        centre = np.nanmedian(features, axis=0)
        low, high = np.nanquantile(features, [0.16, 0.84], axis=0)
        scale = np.where(high > low, (high - low) / 2, 1.0)
        standard = _standardised(features, centre, scale)
        _, spread, right = np.linalg.svd(standard - standard.mean(axis=0), full_matrices=False)
        number = min(NUM_AXES, int((spread > 1e-6 * spread[0]).sum()))
        axes = right[:number].T / (spread[:number] / np.sqrt(len(features)))
        points = standard @ axes
        own = _distance(points, points, NUM_NEIGHBOURS + 1)  # the nearest is the object itself
        unit = float(np.median(own))
        unit = unit if unit > 0 else 1.0
        limit = float(np.quantile(own / unit, INSIDE))
        return cls(points=points, centre=centre, scale=scale, axes=axes, unit=unit, limit=limit)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance to the labelled objects, ``(N,)``, in units of their own median."""
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise InputError(f"the domain is of {len(self.centre)} features, not {features.shape[1:]}")
        points = _standardised(features, self.centre, self.scale) @ self.axes
        return _distance(self.points, points, NUM_NEIGHBOURS) / self.unit

    def is_outside(self, features: np.ndarray) -> np.ndarray:
        """Say where a redshift would be extrapolated: ``(N,)`` bool."""
        return np.asarray(self.distance(features) > self.limit)

    def save(self, directory: str | Path) -> None:
        """Write ``domain.npz``."""
        with writing(Path(directory) / "domain.npz") as temporary, temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                points=self.points.astype(np.float32),
                centre=self.centre,
                scale=self.scale,
                axes=self.axes,
                unit=self.unit,
                limit=self.limit,
            )

    @classmethod
    def load(cls, directory: str | Path) -> Domain:
        """Read back `save`."""
        path = Path(directory) / "domain.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = {name: file[name] for name in file.files}
            return cls(**{**fields, "unit": float(fields["unit"]), "limit": float(fields["limit"])})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a file of the training domain ({error}); train again") from error


def _standardised(features: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(features), (features - centre) / scale, 0.0)


def _distance(training: np.ndarray, points: np.ndarray, number: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    number = min(number, len(training))
    distance, _ = cKDTree(training).query(points, k=[number])
    return distance[:, 0]
