"""Pictures for the explorer: mosaics of pixels as PNG, in milliseconds.

Shapes: N objects, B bands, H, W pixels, L latent dimensions.

Figures with axes are matplotlib's; these are pixels alone, many a second, so they are put together as arrays
and the page writes the words beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np

from deepfits.reporting.figures import MISSING, colour_composite, stretch

GAP = 2
RESIDUAL_SIGMA = 5.0


def png(picture: np.ndarray, *, zoom: int = 1) -> bytes:
    """Encode ``(H, W, 3)`` in [0, 1] as PNG, each pixel `zoom` pixels wide."""
    from PIL import Image

    data = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    data = np.repeat(np.repeat(data, zoom, axis=0), zoom, axis=1)
    buffer = BytesIO()
    Image.fromarray(data).save(buffer, format="PNG", optimize=False, compress_level=4)
    return buffer.getvalue()


def strip(images: np.ndarray, weights: np.ndarray, noise: np.ndarray, *, columns: int = 8) -> np.ndarray:
    """Lay out colour composites of objects ``(N, B, H, W)`` in rows of `columns`."""
    tiles = [
        colour_composite(np.where(weight > 0, image, 0), noise)
        for image, weight in zip(images, weights, strict=True)
    ]
    return lay_out(tiles, columns)


def panels(
    image: np.ndarray, weight: np.ndarray, fitted: np.ndarray, scene: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Lay out one object: a row a band, columns observed, best fit, residual in σ, drawing without noise.

    Parameters
    ----------
    image, weight, fitted, scene
        ``(B, H, W)``, nJy and nJy⁻². The first row of the picture holds the colour composites.
    noise
        ``(B,)``, nJy per pixel.

    Returns
    -------
    ndarray
        ``((B + 1) (H + GAP), 4 (W + GAP), 3)`` in [0, 1].
    """
    is_valid = weight > 0
    residual = np.where(is_valid, (image - fitted) * np.sqrt(weight), np.nan)
    known = np.where(is_valid.any(axis=(1, 2)), noise, np.nan)
    first = [
        colour_composite(np.where(is_valid, image, 0), known),
        colour_composite(fitted, noise),
        np.broadcast_to(np.asarray(MISSING), (*image.shape[1:], 3)),
        colour_composite(scene, noise),
    ]
    rows = [first]
    for band in range(len(image)):
        level = noise[band] if np.isfinite(noise[band]) else max(1e-9, float(np.std(fitted[band])))
        top = float(np.nanpercentile(fitted[band], 99.5)) if np.isfinite(fitted[band]).any() else 5 * level
        grey = [np.where(is_valid[band], image[band], np.nan), fitted[band]]
        rows.append(
            [
                *(_grey(stretch(one, level, top)) for one in grey),
                _diverging(residual[band] / RESIDUAL_SIGMA),
                _grey(stretch(scene[band], level, top)),
            ]
        )
    return lay_out([tile for row in rows for tile in row], 4)


def lay_out(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Put tiles ``(H, W, 3)`` of one size beside and under each other on white."""
    height, width = tiles[0].shape[:2]
    lines = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    out = np.ones((lines * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3))
    for number, tile in enumerate(tiles):
        y, x = divmod(number, columns)
        top, left = y * (height + GAP), x * (width + GAP)
        out[top : top + height, left : left + width] = tile
    return out


def _grey(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values)[..., None], MISSING, np.nan_to_num(values)[..., None])


def _diverging(values: np.ndarray) -> np.ndarray:
    """Map [−1, 1] to blue, white, red; NaN to the colour of missing data."""
    clipped = np.clip(np.nan_to_num(values), -1, 1)[..., None]
    red, blue = np.array([0.78, 0.2, 0.15]), np.array([0.15, 0.35, 0.75])
    colour = 1 - np.abs(clipped) * (1 - np.where(clipped > 0, red, blue))
    return np.where(np.isnan(values)[..., None], MISSING, colour)


def add_seeing_and_noise(
    image: np.ndarray, *, fwhm_pixels: float, noise: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Blur images ``(N, B, H, W)`` with a round Gaussian, then add white noise of `noise` ``(B,)``."""
    if fwhm_pixels > 0:
        from scipy.ndimage import gaussian_filter

        sigma = fwhm_pixels / 2.3548200450309493
        image = gaussian_filter(image, sigma=(0, 0, sigma, sigma), mode="nearest")
    return image + rng.normal(size=image.shape) * np.nan_to_num(noise)[:, None, None]
