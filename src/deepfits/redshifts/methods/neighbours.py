"""Nearest neighbours in colour space, as survey catalogues provide them next to template fitting.

Shapes: N objects, T training objects, K features, V validation objects, Q quantile levels.

The estimate is the mean (squared loss) or median (absolute loss) of the neighbours' redshifts, weighted by
inverse distance; the neighbours' weighted quantiles are the distribution.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from deepfits.redshifts.features import Matrix, Source
from deepfits.redshifts.learning import Standard
from deepfits.redshifts.method import Estimates, Method, Trained, Training
from deepfits.redshifts.pdf import AS_PREDICTED, LEVELS, pit, recalibrated, sorted_quantiles

NUM_NEIGHBOURS = (5, 8, 12, 20, 35, 60)
MIN_FOR_QUANTILES = 25
"""Minimum number of neighbours for a distribution: five objects do not constrain its tails."""


@dataclass(frozen=True, kw_only=True)
class Neighbours(Method):
    """The training objects, and the number of neighbours."""

    name: ClassVar[str] = "neighbours"
    one_of: ClassVar[tuple[str, ...]] = ("magnitudes", "latents")

    standard: Standard  # standardisation of the features
    points: np.ndarray  # (T, K): standardised features
    value: np.ndarray
    num: int  # number of neighbours for the point estimate
    loss: str  # "squared" for the mean of the neighbours, else their median
    validation_pit: np.ndarray  # (V,): PIT values for recalibration; `AS_PREDICTED` for none

    @classmethod
    def fit(cls, training: Training) -> Trained:
        """Choose the number of neighbours on the validation part."""
        assert training.features is not None
        split, value = training.dataset.split, training.dataset.value
        train, validation = (
            (training.features.take(rows).values, value[rows]) for rows in (split.train, split.validation)
        )
        together = training.features.is_latent
        neighbours = train_neighbours(*train, *validation, loss=training.loss, together=together)
        return Trained(method=neighbours, about={"num_neighbours": neighbours.num})

    def predict(self, source: Source, features: Matrix | None) -> Estimates:
        """Return the mean or median of the neighbours, and their recalibrated quantiles."""
        assert features is not None
        quantiles = recalibrated(self.raw_quantiles(features.values), self.validation_pit)
        return Estimates(point=self.point(features.values), quantiles=quantiles)

    def point(self, features: np.ndarray) -> np.ndarray:
        """Return point estimates, ``(N,)``, for features ``(N, K)``."""
        values, weights = self._nearest(features, self.num)
        if self.loss == "squared":
            return (values * weights).sum(axis=1)
        return _weighted_quantiles(values, weights, np.array([0.5]))[:, 0]

    def raw_quantiles(self, features: np.ndarray) -> np.ndarray:
        """Return quantiles at `LEVELS`, ``(N, Q)``, before recalibration."""
        num = min(max(self.num, MIN_FOR_QUANTILES), len(self.value))
        return sorted_quantiles(_weighted_quantiles(*self._nearest(features, num), LEVELS))

    def _nearest(self, features: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbours' redshifts in increasing order and their weights: ``(N, num)`` each."""
        from scipy.spatial import cKDTree

        pairs = cKDTree(self.points).query(self.standard(features), k=num)
        distance, rows = (np.reshape(part, (len(features), num)) for part in pairs)
        values = self.value[rows]
        weights = 1 / (distance + 0.1 * np.median(distance, axis=1, keepdims=True) + 1e-9)
        order = np.argsort(values, axis=1)
        weights = np.take_along_axis(weights, order, axis=1)
        return np.take_along_axis(values, order, axis=1), weights / weights.sum(axis=1, keepdims=True)


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles of weighted samples, sorted along rows: ``(N, num)`` to ``(N, len(levels))``."""
    middle = np.cumsum(weights, axis=1) - weights / 2
    return np.stack([np.interp(levels, m, v) for m, v in zip(middle, values, strict=True)])


def train_neighbours(
    train: np.ndarray,
    train_value: np.ndarray,
    validation: np.ndarray,
    validation_value: np.ndarray,
    *,
    loss: str = "squared",
    together: np.ndarray | None = None,
) -> Neighbours:
    """Choose the number of neighbours and recalibrate on validation objects, then keep all objects.

    `train` and `validation` are features, ``(N, K)`` each; for `together` see `Standard.learn`.
    """
    standard = Standard.learn(train, together)
    start = Neighbours(
        standard=standard,
        points=standard(train),
        value=train_value,
        num=NUM_NEIGHBOURS[0],
        loss=loss,
        validation_pit=AS_PREDICTED,
    )

    def error(num: int) -> float:
        residual = np.abs(replace(start, num=num).point(validation) - validation_value)
        return float(np.mean(residual ** (2 if loss == "squared" else 1)))

    best = replace(start, num=min([num for num in NUM_NEIGHBOURS if num < len(train_value)], key=error))
    return replace(
        best,
        points=standard(np.concatenate([train, validation])),
        value=np.concatenate([train_value, validation_value]),
        validation_pit=pit(best.raw_quantiles(validation), validation_value),
    )
