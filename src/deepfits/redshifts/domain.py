"""The domain of the labelled objects in feature space, outside which redshifts are extrapolated.

Shapes: N objects, T training objects, K features, D principal axes.

The distance of an object is that to its 10th nearest labelled object, along the leading principal axes of the
labelled objects, in units of the median of the same distance among the labelled objects themselves. An object
is outside the domain if its distance exceeds that of 99% of the labelled objects.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from deepfits.redshifts.learning import Standard

NUM_NEIGHBOURS = 10
NUM_AXES = 8
INSIDE = 0.99
FLAGS = ("domain_distance", "is_outside_domain")  # columns of `Domain.flags`


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The labelled objects, projected on their whitened principal axes."""

    standard: Standard  # standardisation of the features
    points: np.ndarray  # (T, D): the labelled objects along the axes
    axes: np.ndarray  # (K, D): principal axes divided by the standard deviations along them
    unit: float  # median distance among the labelled objects
    limit: float  # distance, in that unit, beyond which an object is outside the domain

    @classmethod
    def learn(
        cls, features: np.ndarray, together: np.ndarray | None = None, *, inside: float = INSIDE
    ) -> Self:
        """Learn the domain of labelled objects, ``(T, K)``; for `together` see `Standard.learn`.

        The share `inside` of the labelled objects is within the domain.
        """
        standard = Standard.learn(features, together)
        values = standard(features)
        _, singular, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        number = min(NUM_AXES, int((singular > 1e-6 * singular[0]).sum()))
        axes = right[:number].T / (singular[:number] / np.sqrt(len(features)))
        points = values @ axes
        own = _distance(points, points, NUM_NEIGHBOURS + 1)  # the nearest is the object itself
        unit = float(np.median(own)) or 1.0
        limit = float(np.quantile(own / unit, inside))
        return cls(standard=standard, points=points, axes=axes, unit=unit, limit=limit)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance from the labelled objects, ``(N,)``, in units of `unit`."""
        return _distance(self.points, self.standard(features) @ self.axes, NUM_NEIGHBOURS) / self.unit

    def flags(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of predictions that tell how far objects are from the labelled ones."""
        distance = self.distance(features)
        return dict(zip(FLAGS, (distance, distance > self.limit), strict=True))


def _distance(training: np.ndarray, points: np.ndarray, number: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(training).query(points, k=[min(number, len(training))])
    return distance[:, 0]
