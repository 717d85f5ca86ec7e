"""Tools that several methods share: folds, standardisation, and the scale of the target.

Shapes: N objects, K features.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from deepfits.errors import InputError
from deepfits.tables.values import HIGHEST

LOSSES = ("squared", "absolute")
"""The loss trades R² against σ_MAD: ``squared`` favours R², ``absolute`` σ_MAD."""
LIMIT = 8.0  # standardised features are clipped to ± this, so that extreme values do not dominate


def check_width(features: np.ndarray, number: int) -> None:
    """Require ``(N, number)`` features, as many as the model was trained on."""
    if features.ndim != 2 or features.shape[1] != number:
        raise InputError(f"the model was trained on {number} features, not {features.shape[1:]}")


def folds(number: int, num_folds: int, generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide objects at random: for each fold, the rows to train on and the rows left out."""
    from sklearn.model_selection import PredefinedSplit

    return list(PredefinedSplit(generator.permutation(number) % num_folds).split())


def train_until(parameters: dict[str, Any], data: Any, others: Any, *, max_rounds: int, patience: int) -> Any:
    """Train an `xgboost.Booster` until its loss on other objects has not improved for `patience` rounds."""
    import xgboost

    return xgboost.train(
        parameters,
        data,
        num_boost_round=max_rounds,
        evals=[(others, "left_out")],
        early_stopping_rounds=patience,
        verbose_eval=False,
    )


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Robust standardisation by medians and half the central 68% ranges, ``(K,)`` each.

    A missing feature is set to the median, that is to 0.
    """

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def learn(cls, features: np.ndarray, together: np.ndarray | None = None) -> Self:
        """Measure medians and scales of training objects, ``(N, K)``.

        A feature that is missing for all of them is left unscaled. The features marked in `together`,
        ``(K,)`` bool, share one scale, the median of theirs: latents in units of their nuisance scatter are
        the more informative the more they vary, which individual scales would undo.
        """
        known = np.isfinite(features).any(axis=0)
        low, centre, high = np.nanquantile(np.where(known, features, 0.0), [0.16, 0.5, 0.84], axis=0)
        scale = np.where(high > low, (high - low) / 2, 1.0)
        if together is not None and together.any():
            scale[together] = np.median(scale[together])
        return cls(centre=centre, scale=scale)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return standardised features, ``(N, K)``."""
        check_width(features, len(self.centre))
        return np.where(np.isfinite(features), (features - self.centre) / self.scale, 0.0)

    def clipped(self, features: np.ndarray) -> np.ndarray:
        """Return standardised features, ``(N, K)``, between ± `LIMIT`."""
        return np.clip(self(features), -LIMIT, LIMIT)


@dataclass(frozen=True, kw_only=True)
class TargetScale:
    """The standardised target, (f(value) − centre) / scale.

    Where `is_log`, f is ln(1 + value): an absolute error of ln(1 + z) is one of Δz, as in σ_MAD and η.
    Otherwise f is the identity, so that the squared error is that of R².
    """

    centre: float
    scale: float
    is_log: bool

    @classmethod
    def learn(cls, value: np.ndarray, loss: str) -> Self:
        """Measure centre and scale of training objects; the logarithm is for plausible redshifts only."""
        is_log = loss == "absolute" and float(value.min()) > -0.5 and float(value.max()) < HIGHEST
        known = np.log1p(value) if is_log else value
        return cls(centre=float(known.mean()), scale=float(known.std()) or 1.0, is_log=is_log)

    def forward(self, value: np.ndarray) -> np.ndarray:
        """Standardise values."""
        return ((np.log1p(value) if self.is_log else value) - self.centre) / self.scale

    def inverse(self, output: np.ndarray) -> np.ndarray:
        """Return values from standardised outputs, clipped to ± 10, and to 5 in ln(1 + value)."""
        value = self.centre + self.scale * np.clip(output.astype(np.float64), -10, 10)
        return np.expm1(np.minimum(value, 5.0)) if self.is_log else value
