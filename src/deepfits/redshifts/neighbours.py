"""Nearest neighbours in colour space, as survey catalogues use them beside template fitting.

Shapes: N objects, T training objects, K features, Q levels.

Features are standardised robustly; missing ones are set to the middle, so that they count for nothing. The
estimate is the mean (squared loss) or median (absolute loss) of the neighbours' redshifts, weighted by the
inverse distance; their spread is the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepfits.errors import InputError
from deepfits.files import writing
from deepfits.redshifts.features import Matrix
from deepfits.redshifts.pdf import LEVELS, pit, recalibrated, sorted_quantiles

NUM_NEIGHBOURS = (5, 8, 12, 20, 35, 60)
MIN_FOR_QUANTILES = 25
"""A distribution asks at least so many: the tails of five objects say nothing."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Training objects, and how many of them are asked.

    Attributes
    ----------
    features, value
        ``(T, K)`` standardised, and ``(T,)``.
    centre, scale
        ``(K,)``, of the standardisation.
    num, loss
        Neighbours, and whether their mean or median is the estimate.
    validation_pit
        ``(V,)``, for recalibration; `LEVELS` itself changes nothing.
    """

    features: np.ndarray
    value: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    num: int
    loss: str
    validation_pit: np.ndarray

    def _asked(self, features: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbours' values in increasing order and their weights: ``(N, num)`` each."""
        from scipy.spatial import cKDTree

        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise InputError(
                f"the model was trained on {len(self.centre)} features, not {features.shape[1:]}"
            )
        found = cKDTree(self.features).query(_standardised(features, self.centre, self.scale), k=num)
        distance, rows = (np.reshape(one, (len(features), num)) for one in found)
        values = self.value[rows]
        weights = 1 / (distance + 0.1 * np.median(distance, axis=1, keepdims=True) + 1e-9)
        order = np.argsort(values, axis=1)
        weights = np.take_along_axis(weights, order, axis=1)
        return np.take_along_axis(values, order, axis=1), weights / weights.sum(axis=1, keepdims=True)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return estimates ``(N,)``."""
        values, weights = self._asked(features, self.num)
        if self.loss == "squared":
            return (values * weights).sum(axis=1)
        return _weighted_quantiles(values, weights, np.array([0.5]))[:, 0]

    def predict_quantiles(self, features: np.ndarray, *, raw: bool = False) -> np.ndarray:
        """Return quantiles at `LEVELS`, ``(N, Q)``, recalibrated unless `raw`."""
        num = min(max(self.num, MIN_FOR_QUANTILES), len(self.value))
        quantiles = sorted_quantiles(_weighted_quantiles(*self._asked(features, num), LEVELS))
        return quantiles if raw else recalibrated(quantiles, self.validation_pit)

    def save(self, directory: str | Path) -> None:
        """Write ``neighbours.npz``."""
        with writing(Path(directory) / "neighbours.npz") as temporary, temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                features=self.features,
                value=self.value,
                centre=self.centre,
                scale=self.scale,
                num=self.num,
                loss=self.loss,
                validation_pit=self.validation_pit,
            )

    @classmethod
    def load(cls, directory: str | Path) -> Neighbours:
        """Read back `save`."""
        path = Path(directory) / "neighbours.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = {name: file[name] for name in file.files}
            return cls(**{**fields, "num": int(fields["num"]), "loss": str(fields["loss"])})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a file of neighbours ({error}); train again") from error


def _standardised(features: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(features), (features - centre) / scale, 0.0)


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles of weighted samples in increasing order: ``(N, num)`` to ``(N, len(levels))``."""
    middle = np.cumsum(weights, axis=1) - weights / 2
    return np.stack([np.interp(levels, m, v) for m, v in zip(middle, values, strict=True)])


def train_neighbours(
    train: Matrix,
    train_value: np.ndarray,
    validation: Matrix,
    validation_value: np.ndarray,
    *,
    loss: str = "squared",
) -> Neighbours:
    """Choose how many neighbours to ask on the validation part, recalibrate there, then keep all objects."""
    centre = np.nanmedian(train.values, axis=0)
    low, high = np.nanquantile(train.values, [0.16, 0.84], axis=0)
    scale = np.where(high > low, (high - low) / 2, 1.0)

    def made(values: np.ndarray, value: np.ndarray, num: int, validation_pit: np.ndarray) -> Neighbours:
        return Neighbours(
            features=_standardised(values, centre, scale),
            value=value,
            centre=centre,
            scale=scale,
            num=num,
            loss=loss,
            validation_pit=validation_pit,
        )

    def error(num: int) -> float:
        estimate = made(train.values, train_value, num, LEVELS).predict(validation.values)
        return float(np.mean(np.abs(estimate - validation_value) ** (2 if loss == "squared" else 1)))

    best = min([num for num in NUM_NEIGHBOURS if num < len(train_value)], key=error)
    tuned = made(train.values, train_value, best, LEVELS)
    transform = pit(tuned.predict_quantiles(validation.values, raw=True), validation_value)
    everything = np.concatenate([train.values, validation.values])
    return made(everything, np.concatenate([train_value, validation_value]), best, transform)
