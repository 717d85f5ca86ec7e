"""What the best fit leaves of the object in the middle, and whether that is the galaxy's or the image's.

Shapes: N objects, B bands, H = W pixels.

A fit leaves noise, what the generator draws wrong of any galaxy, and what is odd about this one. The second
is known as a share of the light (`deepfits.fitting.model_error`), so residuals are taken in units of both:

    S_b = (K ∗ r_b) / √(K² ∗ σ_b² + (f_b · K ∗ |m_b|)²),

with the residual r, the drawing m and a Gaussian K, because nothing on the sky is sharper than the PSF. Noise
adds up in quadrature, a wrong drawing does not. Four figures say what is odd:

``structure``, ``extended``
    the highest |S| of all bands together, with a narrow and a wide K: a second nucleus, an arc; a ring;
``colour``
    the highest |S| of any one band: a part of another colour;
``latent``
    how much longer the latent is than usual for the brightness: the generator draws it, but hardly ever.

What is sharper than the PSF is the image's (cosmic rays, columns, trails), and so is what is left round about
the middle of one band alone (a wrong PSF): ``artefact``. Pixels without data, of neighbours and outside the
galaxy count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deepfits.photometry import distance_from_middle

NARROW_PIXELS, WIDE_PIXELS = 1.5, 3.0
"""Standard deviations of the Gaussians K."""
PARTS = ("structure", "extended", "colour", "latent")
SHARPEST = 2.0
"""Significance with K over that of the pixel: 0.4 for one pixel, 1.4 for a line, 3 or more for a source."""
FEWEST_SIGMA = 5.0
"""Significance of a pixel under which nothing is called sharp: noise is."""
ROUND = 0.6
"""Share of a residual's power in its mean over circles from which on it is round about the middle."""
SHARED = 0.4
"""Share of the highest peak that another band has to reach to be named beside it."""
SMALLEST_PIXELS, LARGEST_PIXELS = 5.0, 15.0
"""Radii within which residuals count, at least and at most."""


def gaussian(size: int, width: float) -> np.ndarray:
    """Return the matrix K of a Gaussian filter, ``(H, H)``: an image is filtered by K @ image @ K.T."""
    away = np.subtract.outer(np.arange(size), np.arange(size))
    return np.asarray(np.exp(-((away / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi)))


def smoothed(
    residual: np.ndarray, variance: np.ndarray, light: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return K ∗ r, its variance by noise, and K ∗ |m|, ``(N, B, H, W)``."""
    kernel = gaussian(residual.shape[3], width)
    square = kernel**2
    return kernel @ residual @ kernel.T, square @ variance @ square.T, kernel @ light @ kernel.T


def comparable(
    image: np.ndarray, weight: np.ndarray, model: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return residual, variance and drawn light, 0 where there is no data."""
    is_valid = weight > 0
    variance = noise[:, None, None] ** 2 / np.where(is_valid, weight, np.inf)
    return np.where(is_valid, image - model, 0), variance, np.where(is_valid, np.abs(model), 0)


def region(size: int, radius_pixels: np.ndarray) -> np.ndarray:
    """Return which pixels count for galaxies that reach so far, ``(N, H, W)`` bool."""
    away = distance_from_middle(size)
    return np.asarray(away <= np.clip(radius_pixels, SMALLEST_PIXELS, LARGEST_PIXELS)[:, None, None])


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
    """Return what stands out of the residuals, and in words where.

    ``structure``, ``extended``, ``colour`` and ``artefact``, ``(N,)``, are the highest |S| of each kind, 0
    where there is none; ``structure_words`` and so on, ``(N,)`` str. Images, weights and models are ``(N, B,
    H, W)``, nJy and nJy⁻²; the weight is 0 where nothing counts. Of each galaxy `radius_pixels`, ``(N,)``, is
    how far it reaches; of each band, ``(B,)``, the fraction is the share of the light that the generator
    draws wrong, and the noise true over stated noise.
    """
    within = region(image.shape[3], radius_pixels)
    weight = np.where(within[:, None], weight, 0)
    is_valid = weight > 0
    residual, variance, light = comparable(image, weight, model, noise)
    light = fraction[:, None, None] * light
    pixels = np.maximum(is_valid.sum((2, 3), keepdims=True), 1)
    per_pixel = np.where(is_valid, 1 / np.where(is_valid, variance, 1), 0)
    gain = np.sqrt(per_pixel.sum((2, 3), keepdims=True) / pixels)  # 0 for a band without data
    left, spread, wrong = smoothed(residual, variance, light, NARROW_PIXELS)
    each = over(left, spread + wrong**2) * is_valid
    narrow = _together(left, spread, wrong, gain) * is_valid.any(1)
    wide = _together(*smoothed(residual, variance, light, WIDE_PIXELS), gain) * is_valid.any(1)
    plain = over(residual, variance), over(left, spread)  # in units of noise alone: how sharp a peak is
    away = distance_from_middle(image.shape[3])
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
            place = _peak(each[row, band], inside)[1]
            sharp = _is_sharp(plain[0][row, band], plain[1][row, band], place)
            peaks.append(_of_one_band(each[row], sharp, band, place, inside, away, bands))
        for kind, height, place, what in peaks:
            if abs(height) > out[kind][row]:
                out[kind][row] = abs(height)
                where = away.flat[place] * pixel_scale_arcsec
                sign = "brighter" if height > 0 else "fainter"
                words[kind][row] = f"{what}, {sign} than drawn {where:.1f} arcsec from the middle"
    return out | {f"{kind}_words": values.astype(str) for kind, values in words.items()}


def over(signal: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return a signal in units of its scatter, 0 where there is none."""
    return np.where(variance > 0, signal / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


def _together(left: np.ndarray, spread: np.ndarray, wrong: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return S of all bands in units of their noise, ``(N, H, W)``: a wrong drawing is wrong in all alike."""
    return over((gain * left).sum(1), (gain**2 * spread).sum(1) + (gain * wrong).sum(1) ** 2)


def _peak(significance: np.ndarray, inside: np.ndarray) -> tuple[float, int]:
    place = int(np.argmax(np.abs(significance) * inside))
    return float(significance.flat[place] * inside.flat[place]), place


def _of_one_band(
    each: np.ndarray,
    is_sharp: bool,
    band: int,
    place: int,
    inside: np.ndarray,
    away: np.ndarray,
    bands: Sequence[str],
) -> tuple[str, float, int, str]:
    """Classify the highest peak of a band: kind, height, place and words."""
    height = float(each[band].flat[place] * inside.flat[place])
    heights = each.reshape(len(each), -1)[:, place] * np.sign(height)
    if is_sharp:
        return "artefact", height, place, f"artefact in {bands[band]}: sharper than the PSF"
    is_alone = np.delete(heights, band).max(initial=0.0) < SHARED * abs(height)
    if is_alone and _roundness(each[band], inside, away) > ROUND:
        return "artefact", height, place, f"PSF of {bands[band]}: residual round about the middle"
    odd = [name for name, value in zip(bands, heights, strict=True) if value >= SHARED * abs(height)]
    *first, last = odd
    return "colour", height, place, f"another colour in {', '.join(first) + ' and ' if first else ''}{last}"


def _is_sharp(pixels: np.ndarray, filtered: np.ndarray, place: int) -> bool:
    """Return whether a peak is sharper than the PSF, from its significance without and with K."""
    row, column = divmod(place, len(pixels))
    pixel = np.abs(pixels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]).max()
    return bool(pixel > FEWEST_SIGMA and abs(filtered.flat[place]) < SHARPEST * pixel)


def _roundness(significance: np.ndarray, inside: np.ndarray, away: np.ndarray) -> float:
    """Return the share of a map's power that its mean over circles has."""
    ring, values = away[inside].astype(int), significance[inside]
    mean = np.bincount(ring, values) / np.maximum(np.bincount(ring), 1)
    return float((mean[ring] ** 2).sum() / max((values**2).sum(), 1e-30))


def score(
    figures: Mapping[str, np.ndarray], usual: Mapping[str, tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Put the four figures together: the anomaly, and the name of the largest part, both ``(N,)``.

    They are ``structure``, ``extended``, ``colour``, ``latent``; usual is the median of each over ordinary
    galaxies, and the distance from it to the 84th percentile.

    Examples
    --------
    >>> usual = {name: (1.0, 0.5) for name in PARTS}
    >>> figures = {name: np.array([1.0, 2.5 if name == "colour" else 0.0]) for name in PARTS}
    >>> [one.tolist() for one in score(figures, usual)]
    [[0.0, 3.0], ['structure', 'colour']]
    """
    off = np.stack([(figures[name] - usual[name][0]) / usual[name][1] for name in PARTS])
    total = np.sqrt((np.maximum(off, 0) ** 2).sum(0)).astype(np.float32)
    return total, np.array(PARTS)[np.nan_to_num(off).argmax(0)]
