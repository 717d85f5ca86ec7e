"""Anomalies of the central object, and artefacts of its image, from the residuals of the best fit.

Shapes: N objects, B bands, H = W pixels.

A fit leaves noise, what the generator renders wrong for any galaxy, and what is odd about this one. The
second is known as a fraction of the flux (`deepfits.fitting.model_error`), so the significance of residuals
is

    S_b = (K ∗ r_b) / √(K² ∗ σ_b² + (f_b · K ∗ |m_b|)²),

with the residual r, the model image m and a Gaussian K, because no source on the sky is sharper than the PSF.
Noise adds in quadrature; model errors do not. Four statistics describe what is odd:

``structure``, ``extended``
    the highest |S| of all bands together, with a narrow and a wide K: a second nucleus, an arc; a ring;
``colour``
    the highest |S| of any single band: a part of another colour;
``latent``
    the excess of the latent's length over what is typical for the brightness: the generator can render the
    galaxy, but rarely does.

Residuals sharper than the PSF are artefacts of the image (cosmic rays, columns, trails), and so are residuals
of a single band that are around the centre (a wrong PSF): ``artefact``. Pixels without data, of
neighbours, or outside the galaxy are ignored.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from deepfits.photometry import distance_from_middle

NARROW_PIXELS, WIDE_PIXELS = 1.5, 3.0  # standard deviations of the Gaussians K
PARTS = ("structure", "extended", "colour", "latent")
UNUSUAL_LATENT = "rarely generated"  # reason of an anomaly whose largest part is the latent
SHARPEST = 2.0
"""Ratio of the significance filtered with K to that of the pixel, below which a residual is sharp.

It is 0.4 for a single pixel, 1.4 for a line, and 3 or more for a source.
"""
FEWEST_SIGMA = 5.0  # minimum significance of a pixel to be called sharp: noise is sharp, too
ROUND = 0.6  # fraction of a residual's power in its azimuthal mean above which it is around the centre
SHARED = 0.4  # fraction of the highest peak that another band must reach to be named too
SMALLEST_PIXELS, LARGEST_PIXELS = 5.0, 15.0  # minimum and maximum of the radius within which residuals count


def gaussian(size: int, width: float) -> np.ndarray:
    """Return the matrix K of a Gaussian filter, ``(H, H)``; K @ image @ K.T filters an image."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    return np.asarray(np.exp(-((distance / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi)))


def smoothed(
    residual: np.ndarray, variance: np.ndarray, light: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return K ∗ r, its variance from noise, and K ∗ |m|, ``(N, B, H, W)``."""
    kernel = gaussian(residual.shape[3], width)
    square = kernel**2
    return kernel @ residual @ kernel.T, square @ variance @ square.T, kernel @ light @ kernel.T


def comparable(
    image: np.ndarray, weight: np.ndarray, model: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return residual, variance and absolute model image, 0 where there is no data."""
    is_valid = weight > 0
    variance = noise[:, None, None] ** 2 / np.where(is_valid, weight, np.inf)
    return np.where(is_valid, image - model, 0), variance, np.where(is_valid, np.abs(model), 0)


def region(size: int, radius_pixels: np.ndarray) -> np.ndarray:
    """Return the pixels that count for galaxies of these radii, ``(N, H, W)`` bool."""
    distance = distance_from_middle(size)
    return np.asarray(distance <= np.clip(radius_pixels, SMALLEST_PIXELS, LARGEST_PIXELS)[:, None, None])


def residual_figures(
    image: np.ndarray,
    weight: np.ndarray,
    model: np.ndarray,
    *,
    radius_pixels: np.ndarray,
    fraction: np.ndarray,
    noise: np.ndarray,
    bands: Sequence[str],
    pixel_scale_arcsec: float,
) -> dict[str, np.ndarray]:
    """Return the most significant residuals, and where they are in words.

    Images, weights and models are ``(N, B, H, W)``, nJy and nJy⁻², with weight 0 for pixels to ignore.

    `fraction` ``(B,)`` is the fraction of the flux that the generator renders wrong, `noise` ``(B,)`` the
    ratio of true to stated noise. Return ``structure``, ``extended``, ``colour`` and ``artefact``, ``(N,)``:
    the highest |S| of each kind, 0 if there is none; and ``structure_words`` and so on.
    """
    within = region(image.shape[3], radius_pixels)
    weight = np.where(within[:, None], weight, 0)
    is_valid = weight > 0
    residual, variance, light = comparable(image, weight, model, noise)
    light = fraction[:, None, None] * light
    pixels = np.maximum(is_valid.sum((2, 3), keepdims=True), 1)
    per_pixel = np.where(is_valid, 1 / np.where(is_valid, variance, 1), 0)
    gain = np.sqrt(per_pixel.sum((2, 3), keepdims=True) / pixels)  # 0 for a band without data
    filtered, noise2, error = smoothed(residual, variance, light, NARROW_PIXELS)
    each = over(filtered, noise2 + error**2) * is_valid
    narrow = _significance_of_all(filtered, noise2, error, gain) * is_valid.any(1)
    wide = _significance_of_all(*smoothed(residual, variance, light, WIDE_PIXELS), gain) * is_valid.any(1)
    plain = over(residual, variance), over(filtered, noise2)  # in units of noise alone, to measure sharpness
    distance = distance_from_middle(image.shape[3])
    kinds = ("structure", "extended", "colour", "artefact")
    out = {kind: np.zeros(len(image), dtype=np.float32) for kind in kinds}
    words = {kind: np.full(len(image), "", dtype=object) for kind in kinds}
    for row in range(len(image)):
        inside = within[row]
        peaks = [
            ("structure", *_peak(narrow[row], inside), "structure in all bands"),
            ("extended", *_peak(wide[row], inside), "extended light in all bands"),
        ]
        for band in range(len(bands)):
            position = _peak(each[row, band], inside)[1]
            sharp = _is_sharp(plain[0][row, band], plain[1][row, band], position)
            peaks.append(_peak_of_band(each[row], sharp, band, position, inside, distance, bands))
        for kind, height, position, what in peaks:
            if abs(height) > out[kind][row]:
                out[kind][row] = abs(height)
                where = distance.flat[position] * pixel_scale_arcsec
                sign = "brighter" if height > 0 else "fainter"
                words[kind][row] = f"{what}, {sign} than the model {where:.2g} arcsec from the centre"
    return out | {f"{kind}_words": values.astype(str) for kind, values in words.items()}


def over(signal: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return a signal in units of its scatter; 0 where the variance is 0."""
    return np.where(variance > 0, signal / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


def _significance_of_all(
    filtered: np.ndarray, noise2: np.ndarray, error: np.ndarray, gain: np.ndarray
) -> np.ndarray:
    """Return S of all bands together, ``(N, H, W)``; model errors are fully correlated between bands."""
    return over((gain * filtered).sum(1), (gain**2 * noise2).sum(1) + (gain * error).sum(1) ** 2)


def _peak(significance: np.ndarray, inside: np.ndarray) -> tuple[float, int]:
    position = int(np.argmax(np.abs(significance) * inside))
    return float(significance.flat[position] * inside.flat[position]), position


def _peak_of_band(
    each: np.ndarray,
    is_sharp: bool,
    band: int,
    position: int,
    inside: np.ndarray,
    distance: np.ndarray,
    bands: Sequence[str],
) -> tuple[str, float, int, str]:
    """Classify the highest peak of a band: return its kind, height, pixel and words."""
    height = float(each[band].flat[position] * inside.flat[position])
    heights = each.reshape(len(each), -1)[:, position] * np.sign(height)
    if is_sharp:
        return "artefact", height, position, f"artefact in {bands[band]}: sharper than the PSF"
    is_alone = np.delete(heights, band).max(initial=0.0) < SHARED * abs(height)
    if is_alone and _roundness(each[band], inside, distance) > ROUND:
        return "artefact", height, position, f"PSF of {bands[band]}: residual around the centre"
    odd = [name for name, value in zip(bands, heights, strict=True) if value >= SHARED * abs(height)]
    *first, last = odd
    listed = f"{', '.join(first)} and {last}" if first else last
    return "colour", height, position, f"another colour in {listed}"


def _is_sharp(pixels: np.ndarray, filtered: np.ndarray, position: int) -> bool:
    """Return whether a peak is sharper than the PSF, from its significance without and with K."""
    row, column = divmod(position, len(pixels))
    pixel = np.abs(pixels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]).max()
    return bool(pixel > FEWEST_SIGMA and abs(filtered.flat[position]) < SHARPEST * pixel)


def _roundness(significance: np.ndarray, inside: np.ndarray, distance: np.ndarray) -> float:
    """Return the fraction of a map's power that is in its azimuthal mean."""
    ring, values = distance[inside].astype(int), significance[inside]
    mean = np.bincount(ring, values) / np.maximum(np.bincount(ring), 1)
    return float((mean[ring] ** 2).sum() / max((values**2).sum(), 1e-30))


def score(
    figures: Mapping[str, np.ndarray], usual: Mapping[str, tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the four statistics to the anomaly score; also return the name of the largest, both ``(N,)``.

    `figures` are the statistics in `PARTS`; `usual` holds the median of each over ordinary galaxies, and the
    distance from it to the 84th percentile. Positive deviations in these units are added in quadrature.

    Examples
    --------
    >>> usual = {name: (1.0, 0.5) for name in PARTS}
    >>> figures = {name: np.array([1.0, 2.5 if name == "colour" else 0.0]) for name in PARTS}
    >>> [values.tolist() for values in score(figures, usual)]
    [[0.0, 3.0], ['structure', 'colour']]
    """
    deviation = np.stack([(figures[name] - usual[name][0]) / usual[name][1] for name in PARTS])
    total = np.sqrt((np.maximum(deviation, 0) ** 2).sum(0)).astype(np.float32)
    return total, np.array(PARTS)[np.nan_to_num(deviation).argmax(0)]
