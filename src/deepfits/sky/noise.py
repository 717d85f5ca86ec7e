"""Correlated noise, as in coadds, with a given variance per pixel and a given depth in apertures.

Shapes: H, W pixels. Random numbers are drawn in blocks of rows, each with its own seed, so that the parts of
an image can be made independently and in any order, with the same result.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from deepfits.photometry import circular_aperture, flux_of_magnitude

BLOCK_ROWS = 64


def aperture_factor(weight: float, radius: float) -> float:
    """Return the ratio of the noise in a circular aperture to σ √area.

    The latter is what aperture photometry (`sep`, `photutils`) states, assuming independent pixels. Without
    smoothing the ratio is slightly below 1: the noise of a pixel on the border scales with the enclosed
    fraction of the pixel, not with its square root. The noise is smoothed with the kernel [w, 1, w] along
    each axis, where w is `weight`; the radius is in pixels.
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
    """Return the smoothing weight that gives an aperture factor: the inverse of `aperture_factor`."""
    if factor <= max(1.0, aperture_factor(0.0, radius)):
        return 0.0
    if factor > aperture_factor(1.0, radius):
        raise ValueError(
            f"noise_correlation {factor} is more than correlation between adjacent pixels can give"
        )
    return float(brentq(lambda w: aperture_factor(w, radius) - factor, 0.0, 1.0, xtol=1e-10))


def pixel_sigma(depth: float, radius: float, factor: float) -> float:
    """Return the noise per pixel, nJy, that gives a 5σ depth (AB magnitude) in a circular aperture.

    Radius (pixels) and factor are those of `aperture_factor`.
    """
    return flux_of_magnitude(depth) / 5 / math.sqrt(math.pi * radius**2) / factor


def unit_noise(seed: tuple[int, ...], rows: tuple[int, int], width: int, weight: float) -> np.ndarray:
    """Return noise with unit variance, correlated between adjacent pixels: ``(rows, W)`` float32.

    The seed identifies the image; `rows` are the first row and the row after the last. A pixel's value does
    not depend on which rows are requested. The weight is that of `kernel_weight`.
    """
    first, last = rows
    # Smoothing needs one more row and column on each side.
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
