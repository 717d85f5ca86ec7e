"""Which objects a figure shows: by rule, never by hand.

Shapes: N objects, B bands, H, W pixels.
"""

from __future__ import annotations

import numpy as np

from deepfits.photometry import aperture_flux, circular_aperture

HIGHEST_QUANTILE, LOWEST_QUANTILE = 0.99, 0.35


def central_flux(
    image: np.ndarray, weight: np.ndarray, pixel_scale_arcsec: float, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sum ``(N, B, H, W)`` in a circle of at least two pixels' radius: flux and error, ``(N, B)``, nJy."""
    circle = circular_aperture(image.shape[-1], max(radius_arcsec / pixel_scale_arcsec, 2.0))
    return aperture_flux(image, weight, circle)


def signal_to_noise(flux: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the signal to noise of all bands together, ``(N,)``; NaN where any band is missing."""
    return np.sqrt(np.sum(np.clip(flux / error, 0, None) ** 2, axis=1))


def choose_examples(ranking: np.ndarray, number: int) -> np.ndarray:
    """Choose objects at evenly spaced quantiles of `ranking`, from bright to faint.

    Parameters
    ----------
    ranking
        ``(N,)``, signal to noise; objects with NaN are not eligible.
    number
        How many; fewer are returned where fewer are eligible.

    Returns
    -------
    ndarray
        Indices, brightest first. The quantiles run from 0.99 down to 0.35.

    Examples
    --------
    >>> choose_examples(np.arange(101.0), 3).tolist()
    [99, 67, 35]
    """
    eligible = np.flatnonzero(np.isfinite(ranking))
    if eligible.size <= number:
        return eligible[np.argsort(-ranking[eligible], kind="stable")]
    order = eligible[np.argsort(ranking[eligible], kind="stable")]
    quantiles = np.linspace(HIGHEST_QUANTILE, LOWEST_QUANTILE, number)
    return order[np.unique(np.round(quantiles * (len(order) - 1)).astype(int))[::-1]]
