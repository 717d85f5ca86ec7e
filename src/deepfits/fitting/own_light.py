"""The light of the galaxy in the middle of a noise-free drawing: its own, whatever is drawn around it.

Shapes: N objects, B bands, H = W pixels.
"""

from __future__ import annotations

import numpy as np

from deepfits.photometry import growth_circles, growth_radii

SMALLEST_TOTAL_ARCSEC = 1.0
FEWEST_RADII, MOST_RADII = 2.1, 5.0
MOFFAT_INDEX = 3.0
WINGS = 2
"""Pixels beyond the pixels of a neighbour in which its light is still looked for."""


def symmetric(image: np.ndarray) -> np.ndarray:
    """Return the smaller of each pixel and the one opposite, ``(..., H, W)``: the symmetric part.

    Source: the templates of the deblender of SDSS (R. Lupton), here of a drawing without noise, where the
    smaller of two values is not biased by it.
    """
    return np.minimum(image, image[..., ::-1, ::-1])


def own_light(model: np.ndarray, is_neighbour: np.ndarray) -> np.ndarray:
    """Return which pixels to add up for the galaxy's own light in a noise-free drawing of it.

    Where a pixel of a neighbour, or of its wings, is brighter than the one opposite, that one stands in.

    Parameters
    ----------
    model
        ``(N, B, H, W)``.
    is_neighbour
        ``(N, H, W)`` bool.

    Returns
    -------
    np.ndarray
        ``(N, B, H, W)`` float32: 0, 1 or 2. The sum of this times an aperture that is symmetric times the
        model is the flux in that aperture.

    Examples
    --------
    >>> own_light(np.array([[[[1.0, 9.0]]]]), np.array([[[False, True]]]))
    array([[[[2., 0.]]]], dtype=float32)
    """
    from scipy import ndimage

    disc = np.hypot(*np.mgrid[-WINGS : WINGS + 1, -WINGS : WINGS + 1]) <= WINGS + 0.3
    near = ndimage.binary_dilation(is_neighbour, disc[None])
    replaced = near[:, None] & (model > model[..., ::-1, ::-1])
    return (1.0 - replaced + replaced[..., ::-1, ::-1]).astype(np.float32)


def total_radius(model: np.ndarray, weight: np.ndarray, size: int, pixel_scale_arcsec: float) -> np.ndarray:
    """Return the radius within which light counts for the total of a galaxy, ``(N,)`` in arcsec.

    2.1 to 5 half-light radii of the symmetric part of the drawing, all bands together in units of their
    noise: the more signal a galaxy has, the farther out its wings are known, the less a neighbour's count.

    Parameters
    ----------
    model, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    """
    apertures, radius = growth_circles(size, pixel_scale_arcsec)
    is_valid = weight > 0
    pixels = is_valid.sum((2, 3))
    noise2 = (np.where(is_valid, 1 / np.where(is_valid, weight, 1), 0)).sum((2, 3)) / np.maximum(pixels, 1)
    gain = np.where(pixels > 0, 1 / np.sqrt(np.where(noise2 > 0, noise2, 1)), 0)  # (N, B)
    together = (symmetric(model) * gain[:, :, None, None]).sum(axis=1)
    half = growth_radii(np.einsum("nhw,khw->nk", together, apertures), radius, [0.5])[:, 0]
    largest = size * pixel_scale_arcsec / np.sqrt(2.0)
    inside = soft_circles(size, np.nan_to_num(half, nan=largest) / pixel_scale_arcsec)
    num_pixels = np.maximum((pixels > 0).sum(1), 1) * inside.sum((1, 2))
    signal = (together * inside).sum((1, 2)) / np.sqrt(num_pixels)
    radii = np.clip(0.8 + 1.4 * np.log10(np.maximum(signal, 1.0) / 10), FEWEST_RADII, MOST_RADII)
    return np.clip(np.nan_to_num(radii * half, nan=largest), SMALLEST_TOTAL_ARCSEC, largest)


def soft_circles(size: int, radius_pixels: np.ndarray) -> np.ndarray:
    """Return circles around the middle, ``(N, H, W)`` float32; pixels count by how far they are inside."""
    offset = np.arange(size) - (size - 1) / 2
    away = np.hypot(offset[:, None], offset[None, :])
    return np.clip(radius_pixels[:, None, None] - away + 0.5, 0.0, 1.0).astype(np.float32)


def enclosed(fwhm_arcsec: np.ndarray, radius_arcsec: np.ndarray) -> np.ndarray:
    """Return the share of a point source's light that lies inside circles, ``(N, B)``; 1 where it is unknown.

    The least that an aperture loses, in each band by its own seeing. Of Moffat's profile: a measured PSF ends
    with its stamp, before its wings do.

    Parameters
    ----------
    fwhm_arcsec
        ``(N, B)``; NaN where unknown.
    radius_arcsec
        ``(N,)``.

    Examples
    --------
    >>> enclosed(np.array([[0.7, np.nan]]), np.array([1.4])).round(2)
    array([[0.96, 1.  ]])
    """
    scale = fwhm_arcsec / (2 * np.sqrt(2 ** (1 / MOFFAT_INDEX) - 1))
    with np.errstate(divide="ignore"):
        inside = 1 - (1 + (radius_arcsec[:, None] / scale) ** 2) ** (1 - MOFFAT_INDEX)
    return np.where(np.isfinite(inside), inside, 1.0)
