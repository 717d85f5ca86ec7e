"""Noise as coadds have it: true in every pixel, correlated between neighbours, right in apertures.

Shapes: H, W pixels. Random numbers are made in blocks of rows, each from a seed of its own, so that any part
of an image can be made alone, in any order, and always comes out the same.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from deepfits.photometry import circular_aperture, flux_of_magnitude

BLOCK_ROWS = 64


def aperture_factor(weight: float, radius: float) -> float:
    """Return the noise in a circular aperture over σ √area.

    Aperture photometry states the latter (`sep`, `photutils`), as of independent pixels. Without smoothing
    the ratio is a little below 1: pixels on the border count in part, and their noise falls with the part,
    not with its root. The weight is w of the smoothing kernel [w, 1, w] along each axis, the radius in
    pixels.
    """
    inside = circular_aperture(2 * math.ceil(radius) + 3, radius, subpixels=5)
    number = inside.sum()
    rho = {0: 1.0, 1: 2 * weight / (1 + 2 * weight**2), 2: weight**2 / (1 + 2 * weight**2)}
    height, width = inside.shape
    total = 0.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            a = inside[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
            b = inside[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
            total += rho[abs(dy)] * rho[abs(dx)] * float((a * b).sum())
    return math.sqrt(total / number)


@lru_cache(maxsize=32)
def kernel_weight(factor: float, radius: float) -> float:
    """Find the smoothing that gives an aperture factor: the inverse of `aperture_factor`.

    Raises
    ------
    ValueError
        More correlation than three taps can make.
    """
    if factor <= max(1.0, aperture_factor(0.0, radius)):
        return 0.0
    if factor > aperture_factor(1.0, radius):
        raise ValueError(f"noise_correlation {factor} is more than neighbours in an aperture can have")
    return float(brentq(lambda w: aperture_factor(w, radius) - factor, 0.0, 1.0, xtol=1e-10))


def pixel_sigma(depth: float, aperture_arcsec: float, pixel_scale: float, factor: float) -> float:
    """Return the standard deviation of a pixel, nJy, that gives a 5σ depth in an aperture.

    The depth is the AB magnitude of five times the error in an aperture of a diameter in arcseconds, which
    the scale of the pixels is in too; the factor is that of `aperture_factor`.
    """
    sigma = flux_of_magnitude(depth) / 5
    num_pixels = math.pi * (aperture_arcsec / 2 / pixel_scale) ** 2
    return sigma / math.sqrt(num_pixels) / factor


def unit_noise(seed: tuple[int, ...], rows: tuple[int, int], width: int, weight: float) -> np.ndarray:
    """Return noise of variance 1 in every pixel, correlated between neighbours: ``(rows, W)`` float32.

    The seed's whole numbers name the image, of which a first row and the one after the last are asked for:
    the numbers are the same whatever part it is. The weight is that of `kernel_weight`.
    """
    first, last = rows
    # One row and one column more on each side, for the smoothing.
    white = _white(seed, first - 1, last + 1, width + 2)
    if weight == 0:
        return white[1:-1, 1:-1]
    smooth = white[1:-1] + np.float32(weight) * (white[:-2] + white[2:])
    smooth = smooth[:, 1:-1] + np.float32(weight) * (smooth[:, :-2] + smooth[:, 2:])
    smooth /= np.float32(1 + 2 * weight**2)
    return smooth


def _white(seed: tuple[int, ...], first: int, last: int, width: int) -> np.ndarray:
    blocks = range(first // BLOCK_ROWS, (last - 1) // BLOCK_ROWS + 1)
    parts = [
        np.random.default_rng((*seed, block + 1)).standard_normal((BLOCK_ROWS, width), dtype=np.float32)
        for block in blocks
    ]
    start = first - blocks[0] * BLOCK_ROWS
    return np.concatenate(parts)[start : start + last - first]
