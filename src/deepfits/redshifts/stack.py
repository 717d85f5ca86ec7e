"""Several methods as one: weights learned from estimates that none of them had learned from.

Shapes: V labelled objects, M methods, Q quantile levels.

Source: stacked regression, Breiman (1996, Machine Learning 24, 49): weights that are not negative, chosen by
the loss of cross-validated estimates; here they also sum to 1, and quantiles are averaged with the same
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from deepfits.redshifts.images import TargetScale
from deepfits.redshifts.left_out import LeftOut

RIDGE = 0.02
"""How much equal weights are preferred, in units of the loss: with few labels the loss does not tell much."""


def common(parts: Sequence[LeftOut]) -> list[LeftOut]:
    """Return the objects that all methods have an estimate of, in the same order."""
    rows = reduce(np.intersect1d, [one.rows for one in parts])
    return [one.at(rows) for one in parts]


def stacking_weights(points: np.ndarray, value: np.ndarray, loss: str) -> np.ndarray:
    """Return the weights of the methods, ``(M,)``, that sum to 1.

    Parameters
    ----------
    points
        ``(M, V)``: estimates of left-out objects.
    value
        ``(V,)``.
    loss
        ``"squared"`` or ``"absolute"``; the latter of ln(1 + z), as in `TargetScale`.
    """
    from scipy.optimize import minimize

    number = len(points)
    scale = TargetScale.learn(value, loss)
    target, found = scale.forward(value), np.array([scale.forward(one) for one in points])

    def objective(logits: np.ndarray) -> float:
        weights = _simplex(logits)
        error = weights @ found - target
        size = np.mean(error**2) if loss == "squared" else np.mean(np.abs(error))
        return float(size * (1 + RIDGE * number * np.sum((weights - 1 / number) ** 2)))

    starts = [np.zeros(number), *(3.0 * np.eye(number))]
    best = min(
        (minimize(objective, start, method="Nelder-Mead", options={"maxiter": 400}) for start in starts),
        key=lambda result: result.fun,
    )
    return _simplex(best.x)


def _simplex(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(np.clip(logits - np.max(logits), -30, 0))
    return raised / raised.sum()


def averaged(weights: np.ndarray, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weighted mean of estimates ``(N,)`` or quantiles ``(N, Q)`` of M methods."""
    return np.tensordot(weights, np.array(values, dtype=np.float64), axes=1)
