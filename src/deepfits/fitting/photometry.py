"""What is summed up of an image: totals and apertures, as weights of its pixels, and the radii that follow.

Shapes: N objects, B bands, K sums, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SUBPIXELS = 10
APERTURE_ARCSEC = 2.0  # diameter
GROWTH_ARCSEC = 3.0  # diameter within which light counts for the radii of an object
NUM_CIRCLES = 16
FRACTIONS = (0.2, 0.5, 0.8)


def aperture(size: int, diameter_pixels: float) -> np.ndarray:
    """Return the fraction of each pixel inside a circle around the cutout's middle, ``(size, size)`` float32.

    Examples
    --------
    >>> round(float(aperture(32, 10.0).sum()), 1)
    78.6
    """
    fine = (np.arange(size * SUBPIXELS) + 0.5) / SUBPIXELS - size / 2
    is_inside = fine[:, None] ** 2 + fine[None, :] ** 2 <= (diameter_pixels / 2) ** 2
    blocks = is_inside.reshape(size, SUBPIXELS, size, SUBPIXELS)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


def total_and_aperture(
    size: int, pixel_scale_arcsec: float, diameter_arcsec: float = APERTURE_ARCSEC
) -> np.ndarray:
    """Return the two sums that features hold, ``(2, size, size)``: all pixels, and a circular aperture."""
    circle = aperture(size, diameter_arcsec / pixel_scale_arcsec)
    return np.stack([np.ones_like(circle), circle])


def circles(size: int, pixel_scale_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Return concentric apertures, ``(K, size, size)``, and their radii in arcsec, ``(K,)``.

    The largest has the diameter `GROWTH_ARCSEC`, or what fits into the cutout.
    """
    largest = min(GROWTH_ARCSEC / 2, size * pixel_scale_arcsec / 2)
    radius = largest * np.arange(1, NUM_CIRCLES + 1) / NUM_CIRCLES
    return np.stack([aperture(size, 2 * one / pixel_scale_arcsec) for one in radius]), radius


def radii_of(growth: np.ndarray, radius: np.ndarray, fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """Return the radii that hold fractions of the light inside the largest circle.

    Parameters
    ----------
    growth
        ``(..., K)``: light inside circles.
    radius
        ``(K,)``: theirs, rising.

    Returns
    -------
    np.ndarray
        ``(..., F)``, in the unit of `radius`; NaN where the largest circle holds no light.

    Examples
    --------
    >>> radii_of(np.array([[1.0, 2.0, 4.0]]), np.array([1.0, 2.0, 3.0]), [0.5, 0.75])
    array([[2. , 2.5]])
    """
    flat = growth.reshape(-1, growth.shape[-1])
    total = flat[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        curve = np.where(total > 0, flat / total, np.nan)
    curve = np.concatenate([np.zeros_like(total), np.maximum.accumulate(curve, axis=1)], axis=1)
    edge = np.concatenate([[0.0], radius])
    out = np.empty((len(flat), len(fractions)))
    for number, fraction in enumerate(fractions):
        upper = np.clip((curve < fraction).sum(axis=1), 1, len(radius))
        low, high = (np.take_along_axis(curve, one[:, None], axis=1)[:, 0] for one in (upper - 1, upper))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip((fraction - low) / (high - low), 0.0, 1.0)
        out[:, number] = edge[upper - 1] + share * (edge[upper] - edge[upper - 1])
    return out.reshape(*growth.shape[:-1], len(fractions))
