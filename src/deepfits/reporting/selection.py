"""Rules that select the objects shown in figures.

Shapes: N objects, B bands, H, W pixels.
"""

from __future__ import annotations

import numpy as np

BRIGHT, FAINT = (0.99, 0.80), (0.60, 0.20)  # quantiles of signal-to-noise ratio


def reduced_chi2(image: np.ndarray, model: np.ndarray | float, weight: np.ndarray) -> np.ndarray:
    """Return χ² per valid pixel, ``(N,)``, of a model of images ``(N, B, H, W)``."""
    number = (weight > 0).sum(axis=(1, 2, 3))
    residual = np.asarray(image - model, dtype=np.float64)  # a fit that failed may draw 10²⁰ nJy
    chi2 = (residual**2 * weight).sum(axis=(1, 2, 3))
    return np.where(number > 0, chi2 / np.maximum(number, 1), np.nan)


def choose_examples(ranking: np.ndarray, number: int, quantiles: tuple[float, float] = BRIGHT) -> np.ndarray:
    """Choose up to `number` objects at evenly spaced quantiles of `ranking`, highest first.

    The ranking, ``(N,)``, is by signal-to-noise ratio; objects with NaN are not eligible.

    Examples
    --------
    >>> choose_examples(np.arange(101.0), 3).tolist()
    [99, 90, 80]
    """
    eligible = np.flatnonzero(np.isfinite(ranking))
    if eligible.size <= number:
        return eligible[np.argsort(-ranking[eligible], kind="stable")]
    order = eligible[np.argsort(ranking[eligible], kind="stable")]
    places = np.linspace(*quantiles, number) * (len(order) - 1)
    return order[np.unique(np.round(places).astype(int))[::-1]]
