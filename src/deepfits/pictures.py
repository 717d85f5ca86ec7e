"""Colour images of galaxies, as arrays and PNG, for figures, web pages and notebooks.

Shapes: N objects, B bands, H, W pixels.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np

from deepfits.photometry import robust_scatter

MISSING = (0.86, 0.87, 0.89)
GAP = 2
RESIDUAL_SIGMA = 5.0
BRIGHTEST = 60.0
EDGE_PIXELS = 3

# Weights of the (blue, green, red) thirds of the bands; they make an average faint galaxy look white.
_BALANCE = (2.2, 1.1, 0.9)
_SOFTENING = 8.0  # transition of the stretch from linear to logarithmic, in units of the noise


def noise_per_band(weight: np.ndarray) -> np.ndarray:
    """Return the median pixel noise of each band in nJy, ``(B,)``, from weights, ``(N, B, H, W)`` nJy⁻².

    NaN for a band without data.
    """
    out = np.full(weight.shape[1], np.nan)
    for band in range(weight.shape[1]):
        valid = weight[:, band][weight[:, band] > 0]
        if valid.size:
            out[band] = float(np.median(valid)) ** -0.5
    return out


def noise_where(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the noise, ``(B,)``, with NaN in bands of which an image, ``(B, H, W)``, has no data.

    With it, composites of an image and of its best fit, which has all bands, are made of the same bands.
    """
    return np.where(np.isfinite(image).any(axis=(1, 2)), noise, np.nan)


def noise_at_edges(image: np.ndarray) -> np.ndarray:
    """Return the robust scatter of a cutout's outer pixels, ``(B, H, W)``, per band; NaN without data."""
    edge = np.ones(image.shape[1:], dtype=bool)
    edge[EDGE_PIXELS:-EDGE_PIXELS, EDGE_PIXELS:-EDGE_PIXELS] = False
    outer = [pixels[edge & np.isfinite(pixels)] for pixels in image]
    return np.array([float(robust_scatter(pixels)) if pixels.size else np.nan for pixels in outer])


def colour_composite(image: np.ndarray, noise: np.ndarray, *, top: float = BRIGHTEST) -> np.ndarray:
    """Combine all bands into RGB, ``(H, W, 3)`` in [0, 1], after Lupton et al. (2004): hue does not saturate.

    The image is ``(B, H, W)``, nJy, NaN where there is no data; a pixel without data in all bands of a colour
    is grey. Colours are thirds of the bands with data and a noise, ``(B,)`` nJy per pixel, which sets the
    transition of the stretch from linear to logarithmic. `top`, in units of that transition, is shown at full
    brightness: use one value for images whose brightness is to be compared, or `top_of` each image to make
    faint objects visible.
    """
    layers, is_grey, _ = _layers(np.asarray(image), noise)  # of a tensor too, as models render
    if is_grey.all():
        return np.full((*is_grey.shape, 3), MISSING)
    rgb = np.moveaxis(layers[::-1], 0, -1)
    scale = _SOFTENING * float(np.nanmedian(noise))
    intensity = rgb.mean(axis=-1)
    stretched = np.arcsinh(intensity / scale) / np.arcsinh(top)
    rgb = np.clip(rgb, 0, None) * (stretched / np.where(intensity > 0, intensity, np.inf))[..., None]
    seen = np.clip(0.06 + rgb / np.maximum(1, rgb.max(axis=-1, keepdims=True)), 0, 1)
    return np.where(is_grey[..., None], MISSING, seen)


def _layers(image: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return blue, green and red, ``(3, H, W)``, where one has no data, ``(H, W)``, and the greatest noise.

    A colour is the mean of a third of the bands with data, or of all if these are fewer than 3.
    """
    is_known = np.isfinite(image) & np.isfinite(noise)[:, None, None]
    bands = np.flatnonzero(is_known.any(axis=(1, 2)))
    thirds = np.array_split(bands, 3) if len(bands) >= 3 else [bands] * 3
    number = np.stack([is_known[third].sum(axis=0) for third in thirds])
    total = np.stack([np.where(is_known[third], image[third], 0).sum(axis=0) for third in thirds])
    sigma = [np.sqrt((noise[third] ** 2).sum()) / max(1, len(third)) for third in thirds]
    layers = np.array(_BALANCE)[:, None, None] * total / np.maximum(number, 1)
    return layers, (number == 0).any(axis=0), float(np.max(np.array(_BALANCE) * sigma))


def top_of(image: np.ndarray, noise: np.ndarray) -> float:
    """Return the `top` of `colour_composite` that makes a galaxy, ``(B, H, W)``, visible even if it is faint.

    Its brightest pixels are shown at full brightness, but nothing below 6σ of the noisiest colour is.
    """
    layers, is_grey, noisiest = _layers(image, noise)
    if is_grey.all():
        return BRIGHTEST
    scale = _SOFTENING * float(np.nanmedian(noise))
    brightest = max(np.percentile(layers.mean(axis=0), 99.5), 6 * noisiest)
    return float(np.clip(brightest / scale, 0.1, BRIGHTEST)) if scale > 0 else BRIGHTEST


def stretch(image: np.ndarray, noise: float, top: float) -> np.ndarray:
    """Map flux to [0, 1] with an asinh stretch: −2σ to 0, `top` (nJy) to 1. NaN stays NaN."""
    low = np.arcsinh(-2.0 / 3.0)
    high = np.arcsinh(max(top, 5 * noise) / (3 * noise))
    return np.clip((np.arcsinh(image / (3 * noise)) - low) / (high - low), 0, 1)


def significance(image: np.ndarray, fitted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return (image − fit) in units of the noise; NaN where there is no data."""
    return np.where(weight > 0, (image - fitted) * np.sqrt(weight), np.nan)


def combined(sigma: np.ndarray) -> np.ndarray:
    """Combine residuals of all bands, ``(B, H, W)`` in σ, into one of unit variance; NaN without data."""
    number = np.isfinite(sigma).sum(axis=0)
    return np.where(number > 0, np.nansum(sigma, axis=0) / np.sqrt(np.maximum(1, number)), np.nan)


def grey(values: np.ndarray) -> np.ndarray:
    """Map [0, 1] to grey, ``(..., 3)``; NaN to the colour of missing data."""
    return np.where(np.isnan(values)[..., None], MISSING, np.nan_to_num(values)[..., None])


def diverging(values: np.ndarray) -> np.ndarray:
    """Map residuals in σ, ±`RESIDUAL_SIGMA`, to blue, white, red; NaN to the colour of missing data."""
    clipped = np.clip(np.nan_to_num(values / RESIDUAL_SIGMA), -1, 1)[..., None]
    red, blue = np.array([0.78, 0.2, 0.15]), np.array([0.15, 0.35, 0.75])
    colour = 1 - np.abs(clipped) * (1 - np.where(clipped > 0, red, blue))
    return np.where(np.isnan(values)[..., None], MISSING, colour)


def strip(
    images: np.ndarray, noise: np.ndarray, columns: int, *, gap: int = GAP, top: float | None = None
) -> np.ndarray:
    """Arrange colour composites of objects, ``(N, B, H, W)`` with NaN without data, in rows of `columns`.

    Each has its own stretch (`top_of`), unless `top` is given.
    """
    tops = [top_of(image, noise) if top is None else top for image in images]
    pairs = zip(images, tops, strict=True)
    return lay_out([colour_composite(image, noise, top=t)[::-1] for image, t in pairs], columns, gap=gap)


def lay_out(tiles: Sequence[np.ndarray], columns: int, *, gap: int = GAP) -> np.ndarray:
    """Arrange tiles ``(H, W, 3)`` of equal size in a grid on white."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    out = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for number, tile in enumerate(tiles):
        y, x = divmod(number, columns)
        top, left = y * (height + gap), x * (width + gap)
        out[top : top + height, left : left + width] = tile
    return out


def png(picture: np.ndarray, *, zoom: int = 1) -> bytes:
    """Encode ``(H, W, 3)`` in [0, 1] as PNG, with each pixel repeated `zoom` times along both axes."""
    from PIL import Image

    data = np.repeat(np.repeat(eight_bits(picture), zoom, axis=0), zoom, axis=1)
    buffer = BytesIO()
    Image.fromarray(data).save(buffer, format="PNG", optimize=False, compress_level=4)
    return buffer.getvalue()


def eight_bits(picture: np.ndarray) -> np.ndarray:
    """Convert colours from [0, 1] to uint8."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
