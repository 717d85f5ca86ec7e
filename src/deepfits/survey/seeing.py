"""The width of the PSF, from stars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, optimize, stats

from deepfits.gaussian_psf import centre_of_light
from deepfits.photometry import GROWTH_ARCSEC, growth_circles, growth_radii, robust_scatter
from deepfits.survey.stars import Locus

SIDE, LEAST_SIDE = 25, 9
FEWEST = 3
"""Stars that make a PSF, at least."""
FEW = 25
"""Stars that tell how a width varies over a field, at least; twice as many for a parabola."""
CHANCE, LEAST_VARIATION, MOST_VARIATION = 1e-3, 0.01, 0.4
"""Of a variation: probability of none, its least standard deviation, and the most, in the logarithm."""
PIXEL_SQUARE = 2 * np.log(2) / 12
"""What a pixel adds to the square of a half-light radius, pixels."""
BRIGHT, COMPACT, LEAST = 50, 2, 8
"""Signal-to-noise of objects that are told by their size, and how many per cent of them, at least how many,
count as most compact."""
APERTURE_ARCSEC = 1.0
"""Radius inside which the signal-to-noise of what is in the middle of a cutout is taken."""


def choose_stars(
    radius: np.ndarray, snr: np.ndarray, flags: np.ndarray, locus: Locus, *, most: int = 40
) -> np.ndarray:
    """Choose bright unblended point sources: indices, without the brightest tenth (saturation).

    The brightest, because there stars of a given radius outnumber compact galaxies most.
    """
    good = np.isfinite(radius) & (snr > locus.least_snr) & (flags == 0)
    good &= np.abs(np.log(np.where(good, radius, 1) / locus.radius)) < locus.half_width
    which = np.flatnonzero(good)
    which = which[np.argsort(-snr[which])]
    return which[len(which) // 10 :][:most]


def star_image(image: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return the median of the stars' images, each shifted to its own centre and divided by its flux.

    It is ``(25, 25)``; None when fewer than three stars have all their pixels.
    """
    stamps = [_stamp(image, weight, cx, cy, SIDE) for cx, cy in zip(x, y, strict=True)]
    return _median_of([stamp for stamp in stamps if stamp is not None])


def _median_of(stamps: list[np.ndarray]) -> np.ndarray | None:
    return np.median(stamps, axis=0) if len(stamps) >= FEWEST else None


def _stamp(image: np.ndarray, weight: np.ndarray, cx: float, cy: float, side: int) -> np.ndarray | None:
    """Return what is around a place, centred on it, without background, the light of its core 1.

    None where a pixel is missing or there is no light.
    """
    half, ix, iy = side // 2, round(float(cx)), round(float(cy))
    if not (half <= ix < image.shape[1] - half and half <= iy < image.shape[0] - half):
        return None
    window = np.s_[iy - half : iy + half + 1, ix - half : ix + half + 1]
    stamp = image[window].astype(float)
    if not (weight[window] > 0).all():
        return None
    stamp = stamp - np.median(np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]]))
    centred = ndimage.shift(stamp, (iy - cy, ix - cx), order=3, mode="nearest")
    core = centred[half - 4 : half + 5, half - 4 : half + 5].sum()
    return np.asarray(centred / core) if core > 0 else None


def width_over_field(
    image: np.ndarray,
    weight: np.ndarray,
    segmentation: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    among: tuple[np.ndarray, np.ndarray],
) -> list[float] | None:
    """Fit how the width of the PSF varies over a field, from its stars.

    The logarithm of the stars' half-light radii, the pixel taken out, is a plane over the field, or a
    parabola where that explains more than chance would, by least squares without what is far off. Returns
    one, three or six coefficients for `width_at`; None where there are fewer than `FEW` stars, or where they
    vary by no more than their scatter explains or by less than a hundredth.

    Images are ``(H, W)``, the segmentation 0 where no object is. The stars lie at x, y, ``(N,)`` pixels from
    0; those with other objects near them are left out. A width of 1 is that of the stars `among` whose median
    image is the field's PSF.
    """
    circles, radius = growth_circles(SIDE, GROWTH_ARCSEC / SIDE)  # the stamp is as wide as the largest
    radius = radius * SIDE / GROWTH_ARCSEC  # pixels
    alone = np.array([_is_alone(segmentation, cx, cy) for cx, cy in zip(x, y, strict=True)], dtype=bool)
    x, y = x[alone], y[alone]
    stamps = [_stamp(image, weight, cx, cy, SIDE) for cx, cy in zip(x, y, strict=True)]
    there = np.array([stamp is not None for stamp in stamps], dtype=bool)
    if there.sum() < FEW:
        return None
    growth = np.einsum("nhw,khw->nk", np.stack([one for one in stamps if one is not None]), circles)
    square = growth_radii(growth, radius, [0.5])[:, 0] ** 2 - PIXEL_SQUARE
    good = np.isfinite(square) & (square > 0)
    width = 0.5 * np.log(square[good])
    found = _polynomial(width, _terms(x[there][good], y[there][good], image.shape))
    return _varying(found, among, image.shape) if len(among[0]) else None


def _polynomial(width: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return coefficients of a constant, a plane or a parabola: the last that explains more than chance."""
    found = np.array([np.median(width)])
    keep = np.abs(width - found[0]) < 5 * robust_scatter(width) + 1e-6
    for degrees in (3, 6):
        tried = found
        for _ in range(4):
            if keep.sum() < FEW * degrees / 3:
                return found
            tried = np.linalg.lstsq(terms[keep, :degrees], width[keep], rcond=None)[0]
            off = width - terms[:, :degrees] @ tried
            keep = np.abs(off) < 3.5 * robust_scatter(off[keep]) + 1e-6
        before, after = (
            float(((width - terms[:, : len(one)] @ one)[keep] ** 2).sum()) for one in (found, tried)
        )
        more, left = degrees - len(found), int(keep.sum()) - degrees
        if stats.f.sf((before - after) / more / (after / left + 1e-12), more, left) > CHANCE:
            break
        found = tried
    return found


def _varying(
    found: np.ndarray, among: tuple[np.ndarray, np.ndarray], shape: Sequence[int]
) -> list[float] | None:
    """Return coefficients about the median at some places; None of what hardly varies over a field."""
    x, y = np.meshgrid(np.linspace(0, shape[1], 3), np.linspace(0, shape[0], 3))
    over = _terms(x.ravel(), y.ravel(), shape)[:, : len(found)] @ found
    if np.std(over) < LEAST_VARIATION:
        return None
    width = _terms(*among, shape)[:, : len(found)] @ found
    return [float(found[0] - np.median(width)), *found[1:].tolist()]


def _is_alone(segmentation: np.ndarray, cx: float, cy: float) -> bool:
    half, ix, iy = SIDE // 2, round(float(cx)), round(float(cy))
    near = segmentation[max(iy - half, 0) : iy + half + 1, max(ix - half, 0) : ix + half + 1]
    return bool(near.size and len(np.unique(near[near > 0])) <= 1)


def width_at(coefficients: Sequence[float], x: np.ndarray, y: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the width of the PSF at places over that of the field, ``(N,)``; see `width_over_field`."""
    away = _terms(x, y, shape)[:, : len(coefficients)] @ np.asarray(coefficients)
    return np.asarray(np.exp(np.clip(away, -MOST_VARIATION, MOST_VARIATION)))


def _terms(x: np.ndarray, y: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the powers of the place, from −1 to 1 over the field: ``(N, 6)``."""
    u, v = (np.clip(2 * at / max(side - 1, 1) - 1, -1, 1) for at, side in ((x, shape[1]), (y, shape[0])))
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)


def star_among_cutouts(
    image: np.ndarray, weight: np.ndarray, pixel_scale_arcsec: float
) -> tuple[np.ndarray, int] | None:
    """Return the median image of the most compact of many objects, and how many these are.

    The two per cent of smallest half-light radius, but for the very smallest (cosmic rays). Where no stars
    are among them, the image is that of the most compact galaxies, and wider than the PSF. Images and weights
    are ``(N, H, W)`` of one band, the objects in the middle. The image is ``(S, S)`` with S odd and at most
    25; it is None when there are too few to tell.
    """
    size = image.shape[1]
    side = min(SIDE, (size - 3) | 1)
    if side < LEAST_SIDE:
        return None
    whole = (weight > 0).all(axis=(1, 2))
    image, weight = image[whole].astype(float), weight[whole]
    edge = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    image = image - np.median(edge, axis=1)[:, None, None]
    circles, radius = growth_circles(size, pixel_scale_arcsec)
    growth = np.einsum("nhw,khw->nk", image, circles)
    half_light = growth_radii(growth, radius, [0.5])[:, 0] / pixel_scale_arcsec
    middle = circles[np.argmin(np.abs(radius - APERTURE_ARCSEC))]
    snr = np.einsum("nhw,hw->n", image, middle) / np.sqrt(np.einsum("nhw,hw->n", 1 / weight, middle**2))
    bright = np.flatnonzero((snr > BRIGHT) & np.isfinite(half_light))
    chosen = bright[np.argsort(half_light[bright])][len(bright) // 300 :][
        : max(COMPACT * len(bright) // 100, LEAST)
    ]
    stamps: list[np.ndarray | None] = []
    for row in chosen:
        cy, cx = centre_of_light(image[row].clip(min=0) * circles[-1], 2 * half_light[row])
        stamps.append(_stamp(image[row], weight[row], cx, cy, side))
    there = [stamp for stamp in stamps if stamp is not None]
    median = _median_of(there)
    return None if median is None else (median, len(there))


def moffat_fwhm(stamp: np.ndarray) -> float:
    """Fit a round Moffat profile with a constant background, and return its FWHM in pixels.

    Examples
    --------
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> alpha = 4.0 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    >>> round(moffat_fwhm((1 + (x**2 + y**2) / alpha**2) ** -3.0), 3)
    4.0
    """
    half = stamp.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    peak = float(stamp.max())

    def residual(p: np.ndarray) -> np.ndarray:
        height, fwhm, beta, x0, y0, sky = p
        alpha2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
        return (height * (1 + ((x - x0) ** 2 + (y - y0) ** 2) / alpha2) ** -beta + sky - stamp / peak).ravel()

    above = (stamp > 0.5 * peak).sum()
    start = [1.0, max(2 * np.sqrt(above / np.pi), 1.2), 3.0, 0.0, 0.0, 0.0]
    bounds = ([0.2, 0.5, 1.2, -2, -2, -0.2], [5, stamp.shape[0], 30, 2, 2, 0.2])
    fit = optimize.least_squares(residual, np.clip(start, *bounds), bounds=bounds)
    return float(fit.x[1])
