"""Which objects a figure shows: by rule, never by hand.

Shapes: N objects, B bands, H, W pixels.
"""

from __future__ import annotations

import numpy as np

AB_ZERO_POINT_NJY = 31.4
HIGHEST_QUANTILE, LOWEST_QUANTILE = 0.99, 0.35


def central_flux(
    image: np.ndarray, weight: np.ndarray, pixel_scale_arcsec: float, radius_arcsec: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sum each band over the pixels whose centres lie within a radius of the cutout's centre.

    Parameters
    ----------
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    pixel_scale_arcsec, radius_arcsec
        Scale and aperture. The radius is at least two pixels.

    Returns
    -------
    flux, error
        ``(N, B)``, nJy; NaN where a pixel of the aperture has no data.
    """
    height, width = image.shape[-2:]
    y, x = np.mgrid[:height, :width]
    # As astropy.nddata.Cutout2D cuts an even side, sources lie within half a pixel of its middle.
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    is_inside = distance <= max(radius_arcsec / pixel_scale_arcsec, 2.0)
    inside, weights = image[..., is_inside], weight[..., is_inside]
    is_whole = (weights > 0).all(axis=-1)
    variance = np.where(weights > 0, 1 / np.where(weights > 0, weights, 1), 0).sum(axis=-1)
    flux = np.where(weights > 0, inside, 0).sum(axis=-1, dtype=np.float64)
    return np.where(is_whole, flux, np.nan), np.where(is_whole, np.sqrt(variance), np.nan)


def magnitude(flux_njy: np.ndarray) -> np.ndarray:
    """Return AB magnitudes; NaN where the flux is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flux_njy > 0, AB_ZERO_POINT_NJY - 2.5 * np.log10(flux_njy), np.nan)


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


def reference_band(bands: tuple[str, ...]) -> int:
    """Return the band whose magnitude stands for an object's brightness: i, else r, else the middle one.

    Examples
    --------
    >>> reference_band(("u", "g", "r", "i", "z"))
    3
    """
    short = [b.lower().rsplit("-", 1)[-1] for b in bands]
    for name in ("i", "r"):
        if name in short:
            return short.index(name)
    return len(bands) // 2
