"""Where redshifts are extrapolated: how densely labelled objects lie around an object in feature space.

Shapes: N objects, T training objects, K features, D principal axes.

The measure is the distance to the 10th nearest labelled object, in the space of the leading principal axes of
the labelled objects, in units of the median of that distance among the labelled objects themselves. An object
is outside the domain where this exceeds what 99% of the labelled objects have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepfits.redshifts.learning import Standard

NUM_NEIGHBOURS = 10
NUM_AXES = 8
INSIDE = 0.99


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The labelled objects' points, ``(T, D)``, along principal axes, ``(K, D)``, over standard deviations.

    The unit is the median distance among them, the limit the distance in that unit beyond which an object is
    outside.
    """

    standard: Standard
    points: np.ndarray
    axes: np.ndarray
    unit: float
    limit: float

    @classmethod
    def learn(cls, features: np.ndarray, together: np.ndarray | None = None) -> Domain:
        """Learn from the labelled objects, ``(T, K)``; see `Standard.learn`."""
        standard = Standard.learn(features, together)
        values = standard(features)
        _, singular, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        number = min(NUM_AXES, int((singular > 1e-6 * singular[0]).sum()))
        axes = right[:number].T / (singular[:number] / np.sqrt(len(features)))
        points = values @ axes
        own = _distance(points, points, NUM_NEIGHBOURS + 1)  # the nearest is the object itself
        unit = float(np.median(own)) or 1.0
        limit = float(np.quantile(own / unit, INSIDE))
        return cls(standard=standard, points=points, axes=axes, unit=unit, limit=limit)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance to the labelled objects, ``(N,)``, in units of their own median."""
        return _distance(self.points, self.standard(features) @ self.axes, NUM_NEIGHBOURS) / self.unit


def _distance(training: np.ndarray, points: np.ndarray, number: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(training).query(points, k=[min(number, len(training))])
    return distance[:, 0]
