"""Mosaics of pixels for the explorer, made in milliseconds.

Shapes: N objects, B bands, H, W pixels.

Figures with axes use matplotlib; these mosaics are needed many times per second, so they are assembled as
arrays, and the page adds the text.
"""

from __future__ import annotations

import numpy as np

from deepfits.photometry import FWHM_PER_SIGMA
from deepfits.pictures import (
    RESIDUAL_SIGMA,
    colour_composite,
    combined,
    diverging,
    grey,
    lay_out,
    noise_where,
    significance,
    stretch,
    top_of,
)


def panels(
    image: np.ndarray, weight: np.ndarray, fitted: np.ndarray, scene: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Arrange one object in rows per band and columns: observed, best fit, residual in σ, noise-free image.

    Images and weights are ``(B, H, W)``, nJy and nJy⁻²; the noise is ``(B,)``, nJy per pixel. The first row
    of the picture, ``(B + 1, 4)`` tiles in [0, 1], combines all bands.
    """
    is_valid = weight > 0
    residual = significance(image, fitted, weight)
    observed = np.where(is_valid, image, np.nan)
    seen, top = noise_where(observed, noise), top_of(observed, noise)
    first = [
        colour_composite(observed, seen, top=top),
        colour_composite(fitted, seen, top=top),
        diverging(combined(residual) / RESIDUAL_SIGMA),
        colour_composite(scene, seen, top=top),
    ]
    rows = [first]
    for band in range(len(image)):
        level = noise[band] if np.isfinite(noise[band]) else max(1e-9, float(np.std(fitted[band])))
        top = float(np.nanpercentile(fitted[band], 99.5)) if np.isfinite(fitted[band]).any() else 5 * level
        pair = [np.where(is_valid[band], image[band], np.nan), fitted[band]]
        rows.append(
            [
                *(grey(stretch(pixels, level, top)) for pixels in pair),
                diverging(residual[band] / RESIDUAL_SIGMA),
                grey(stretch(scene[band], level, top)),
            ]
        )
    return lay_out([tile[::-1] for row in rows for tile in row], 4)


def add_seeing_and_noise(
    image: np.ndarray, *, fwhm_pixels: float, noise: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Convolve images, ``(N, B, H, W)``, with a round Gaussian, and add white noise of `noise`, ``(B,)``."""
    if fwhm_pixels > 0:
        from scipy.ndimage import gaussian_filter

        sigma = fwhm_pixels / FWHM_PER_SIGMA
        image = gaussian_filter(image, sigma=(0, 0, sigma, sigma), mode="nearest")
    return image + rng.normal(size=image.shape) * np.nan_to_num(noise)[:, None, None]
