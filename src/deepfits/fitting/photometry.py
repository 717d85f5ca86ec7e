"""What is summed up of an image: totals and apertures, as weights of its pixels.

Shapes: K sums, H, W pixels.
"""

from __future__ import annotations

import numpy as np

SUBPIXELS = 10
APERTURE_ARCSEC = 2.0  # diameter


def aperture(size: int, diameter_pixels: float) -> np.ndarray:
    """Return the fraction of each pixel inside a circle around the cutout's middle, ``(size, size)`` float32.

    Examples
    --------
    >>> round(float(aperture(32, 10.0).sum()), 1)
    78.5
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
