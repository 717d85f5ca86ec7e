"""Width of the PSF, measured from stars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, optimize, stats

from deepfits.gaussian_psf import centre_of_light, moffat_radius
from deepfits.photometry import GROWTH_ARCSEC, growth_circles, growth_radii, robust_scatter
from deepfits.survey.stars import SPREAD, Locus

SIDE, LEAST_SIDE = 25, 9
"""Side of the stamps of stars, and its minimum for small cutouts, pixels."""
LEAST_NOISE = 1e-5
"""Noise of a pixel, in units of a star's flux, below which stars count the same."""
WIDER = 3
"""Side of the image of a star with its wings, in units of that of its stamp."""
FEWEST = 3
"""Minimum number of stars for a PSF."""
FEW = 25
"""Minimum number of stars for a linear variation of the width over a field; twice as many for a parabola."""
CHANCE, LEAST_VARIATION, MOST_VARIATION = 2e-4, 0.01, 0.4
"""Limits on the variation of the log width: p-value, minimum standard deviation, maximum deviation."""
ERROR_OF_WIDTH = 50
"""Error of the log half-light radius of a stamp, in units of the noise of a pixel over the star's flux.

It is mostly that of the level at the edge, 0.13 of a pixel's noise, which counts over 240 pixels, divided by
the 0.6 by which the light inside a radius grows with its logarithm; a simulation gave 45 to 60."""
MOST_ERROR = 0.3
"""Stars with a larger error of the log width are not used: it is no longer Gaussian."""
PIXEL_SQUARE = 2 * np.log(2) / 12
"""Contribution of the pixel to the square of a half-light radius, pixels²."""
BRIGHT, COMPACT, LEAST = 50, 2, 8
"""Minimum signal-to-noise of the objects compared by size; percentage of these taken as the most compact, and
the minimum number."""
APERTURE_ARCSEC = 1.0
"""Radius of the aperture for the signal-to-noise of a cutout's central object."""


def choose_stars(
    radius: np.ndarray, snr: np.ndarray, flags: np.ndarray, locus: Locus, *, most: int = 40
) -> np.ndarray:
    """Select the brightest unblended point sources, without the brightest tenth (saturation), as indices.

    At the bright end, stars of a given radius most outnumber compact galaxies.
    """
    good = np.isfinite(radius) & (snr > locus.least_snr) & (flags == 0)
    good &= np.abs(np.log(np.where(good, radius, 1) / locus.radius)) < locus.half_width
    which = np.flatnonzero(good)
    which = which[np.argsort(-snr[which])]
    return which[len(which) // 10 :][:most]


def star_image(image: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return the weighted median image of stars, ``(25, 25)``, each recentred and normalised by its flux.

    None if fewer than three stars have data in all pixels.
    """
    stamps = [_stamp(image, weight, cx, cy, SIDE) for cx, cy in zip(x, y, strict=True)]
    return _median_of([stamp for stamp in stamps if stamp is not None])


def _median_of(stamps: list[np.ndarray]) -> np.ndarray | None:
    return _weighted_median(np.stack(stamps)) if len(stamps) >= FEWEST else None


def _weighted_median(stamps: np.ndarray) -> np.ndarray:
    """Return the median of stamps ``(N, S, S)``, weighted by the inverse of their noise at the edge.

    This is the maximum of the likelihood for errors with exponential tails, so that faint stars do not add
    noise to the image of bright ones.
    """
    weight = 1 / np.maximum(_edge_noise(stamps), LEAST_NOISE)
    order = np.argsort(stamps, axis=0)
    value, weight = np.take_along_axis(stamps, order, axis=0), weight[order]
    place = (np.cumsum(weight, axis=0) - weight / 2) / weight.sum(axis=0)
    after = np.clip((place < 0.5).sum(axis=0), 1, len(stamps) - 1)[None]
    (low, high), (left, right) = (
        [np.take_along_axis(values, at, axis=0)[0] for at in (after - 1, after)] for values in (value, place)
    )
    return np.asarray(low + (high - low) * np.clip((0.5 - left) / (right - left), 0, 1))


def _edge_noise(stamps: np.ndarray) -> np.ndarray:
    edge = np.concatenate([stamps[:, 0], stamps[:, -1], stamps[:, :, 0], stamps[:, :, -1]], axis=1)
    return np.asarray(robust_scatter(edge))


def _edge_level(image: np.ndarray) -> float:
    return float(np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])))


def _stamp(image: np.ndarray, weight: np.ndarray, cx: float, cy: float, side: int) -> np.ndarray | None:
    """Return a background-subtracted stamp, centred on a position and normalised by its 9×9 core.

    None if a pixel has no data or the flux is not positive.
    """
    half, ix, iy = side // 2, round(float(cx)), round(float(cy))
    if not (half <= ix < image.shape[1] - half and half <= iy < image.shape[0] - half):
        return None
    window = np.s_[iy - half : iy + half + 1, ix - half : ix + half + 1]
    stamp = image[window].astype(float)
    if not (weight[window] > 0).all():
        return None
    stamp = stamp - _edge_level(stamp)
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
    """Fit the variation of the PSF's width over a field, from its stars.

    The logarithm of the stars' half-light radii, corrected for the pixel, is modelled as a plane over the
    field, or as a paraboloid where that is significantly better, by least squares with outlier rejection.
    Each star counts by the error of its width, so that faint ones do not hide a variation of the bright ones.

    Parameters
    ----------
    image, weight
        ``(H, W)``, the image background-subtracted.
    segmentation
        ``(H, W)``, 0 where there is no object.
    x, y
        Positions of stars, ``(N,)``, 0-based pixels; stars with other objects nearby are excluded.
    among
        x and y of the stars whose median image is the field's PSF; the width is relative to theirs.

    Returns
    -------
    coefficients
        Three or six, for `width_at`; None with fewer than `FEW` stars, or if the variation is not significant
        or its standard deviation is below 1%.
    """
    circles, radius = growth_circles(SIDE, GROWTH_ARCSEC / SIDE)  # the largest circle fills the stamp
    radius = radius * SIDE / GROWTH_ARCSEC  # pixels
    is_alone = np.array([_is_alone(segmentation, cx, cy) for cx, cy in zip(x, y, strict=True)], dtype=bool)
    x, y = x[is_alone], y[is_alone]
    stamps = [_stamp(image, weight, cx, cy, SIDE) for cx, cy in zip(x, y, strict=True)]
    is_complete = np.array([stamp is not None for stamp in stamps], dtype=bool)
    if is_complete.sum() < FEW:
        return None
    complete = np.stack([stamp for stamp in stamps if stamp is not None])
    growth = np.einsum("nhw,khw->nk", complete, circles)
    square = growth_radii(growth, radius, [0.5])[:, 0] ** 2 - PIXEL_SQUARE
    error = np.hypot(SPREAD, ERROR_OF_WIDTH * _edge_noise(complete))
    good = np.isfinite(square) & (square > 0) & (error < MOST_ERROR)
    if not good.any():
        return None
    log_width, error = 0.5 * np.log(square[good]), error[good]
    terms = _terms(x[is_complete][good], y[is_complete][good], image.shape)
    coefficients = _fit_polynomial(log_width / error, terms / error[:, None])
    return _relative_coefficients(coefficients, among, image.shape) if len(among[0]) else None


def _fit_polynomial(log_width: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Fit a constant, a plane and a paraboloid; return the last that improves the fit significantly.

    Both arguments are divided by the errors of the widths. Fits are compared by their residuals of all stars,
    each at most at the limit beyond which the larger fit rejects stars: if those it rejected did not count,
    it would seem to improve what it merely leaves out.
    """
    best, _ = _fit_without_outliers(log_width, terms[:, :1])
    if best is None:
        return np.array([np.median(log_width / terms[:, 0])])
    for num_terms in (3, 6):
        trial, limit = _fit_without_outliers(log_width, terms[:, :num_terms])
        if trial is None:
            return best
        before, after = (
            float(np.minimum((log_width - terms[:, : len(fit)] @ fit) ** 2, limit**2).sum())
            for fit in (best, trial)
        )
        # F-test of the additional terms.
        added, dof = num_terms - len(best), len(log_width) - num_terms
        if stats.f.sf((before - after) / added / (after / dof + 1e-12), added, dof) < CHANCE:
            best = trial
    return best


def _fit_without_outliers(log_width: np.ndarray, terms: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Fit by least squares; also return the limit for outliers. None if too few stars are left."""
    middle = float(np.median(log_width / terms[:, 0]))
    residual, fit, limit = log_width - middle * terms[:, 0], None, np.inf
    keep = np.abs(residual) < 5 * robust_scatter(residual) + 1e-6
    for _ in range(4):
        if keep.sum() < FEW * terms.shape[1] / 3:
            return None, limit
        fit = np.linalg.lstsq(terms[keep], log_width[keep], rcond=None)[0]
        residual = log_width - terms @ fit
        limit = float(3.5 * robust_scatter(residual[keep]) + 1e-6)
        keep = np.abs(residual) < limit
    return fit, limit


def _relative_coefficients(
    coefficients: np.ndarray, among: tuple[np.ndarray, np.ndarray], shape: Sequence[int]
) -> list[float] | None:
    """Return coefficients relative to the median at positions `among`; None if the width hardly varies."""
    x, y = np.meshgrid(np.linspace(0, shape[1], 3), np.linspace(0, shape[0], 3))
    over_field = _terms(x.ravel(), y.ravel(), shape)[:, : len(coefficients)] @ coefficients
    if np.std(over_field) < LEAST_VARIATION:
        return None
    log_width = _terms(*among, shape)[:, : len(coefficients)] @ coefficients
    return [float(coefficients[0] - np.median(log_width)), *coefficients[1:].tolist()]


def _is_alone(segmentation: np.ndarray, cx: float, cy: float) -> bool:
    half, ix, iy = SIDE // 2, round(float(cx)), round(float(cy))
    near = segmentation[max(iy - half, 0) : iy + half + 1, max(ix - half, 0) : ix + half + 1]
    return bool(near.size and len(np.unique(near[near > 0])) <= 1)


def width_at(coefficients: Sequence[float], x: np.ndarray, y: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the PSF's width at positions relative to that of the field, ``(N,)``; see `width_over_field`."""
    log_ratio = _terms(x, y, shape)[:, : len(coefficients)] @ np.asarray(coefficients)
    return np.asarray(np.exp(np.clip(log_ratio, -MOST_VARIATION, MOST_VARIATION)))


def _terms(x: np.ndarray, y: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the monomials up to degree 2 of the position, scaled to −1…1 over the field: ``(N, 6)``."""
    u, v = (np.clip(2 * at / max(side - 1, 1) - 1, -1, 1) for at, side in ((x, shape[1]), (y, shape[0])))
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)


def star_among_cutouts(
    image: np.ndarray, weight: np.ndarray, pixel_scale_arcsec: float
) -> tuple[np.ndarray, int] | None:
    """Return the median image of the most compact of many objects, and their number.

    These are the 2% with the smallest half-light radii, apart from the very smallest (cosmic rays). If the
    objects include no stars, the image is that of the most compact galaxies, which is wider than the PSF.
    Images and weights are ``(N, H, W)`` of one band, with the objects at the centre. The median image is
    ``(S, S)`` with S odd and at most 25. Returns None if the objects are too few or the cutouts too small.
    """
    size = image.shape[1]
    side = min(SIDE, (size - 3) | 1)
    if side < LEAST_SIDE:
        return None
    is_complete = (weight > 0).all(axis=(1, 2))
    image, weight = image[is_complete].astype(float), weight[is_complete]
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
    complete = [stamp for stamp in stamps if stamp is not None]
    median = _median_of(complete)
    return None if median is None else (median, len(complete))


def with_wings(star: np.ndarray) -> np.ndarray:
    """Return the image of a star with the wings that its stamp lacks, on a field `WIDER` times as wide.

    The background that is subtracted from a stamp includes the wings of the star itself. Their level at the
    edge is added again, and the image is continued outwards, as in the Moffat profile that best fits the
    stamp after the same subtraction.

    Parameters
    ----------
    star
        ``(S, S)`` with S odd: from `star_image` or `star_among_cutouts`.

    Examples
    --------
    A star of unit flux, of which the stamp lacks 3%:

    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> star = 1.8 / (np.pi * 16) * (1 + (x**2 + y**2) / 16) ** -2.8
    >>> stamp = star - np.median([star[0], star[-1], star[:, 0], star[:, -1]])
    >>> round(float(stamp.sum()), 3), round(float(with_wings(stamp).sum()), 3)
    (0.97, 1.0)
    """
    half = star.shape[0] // 2
    out = _moffat(_fit_moffat(star), WIDER * half)
    middle = np.s_[(WIDER - 1) * half : (WIDER + 1) * half + 1]
    out[middle, middle] = star + _edge_level(out[middle, middle])
    return out


def moffat_fwhm(star: np.ndarray) -> float:
    """Return the FWHM, in pixels, of the Moffat profile that fits the image of a star best.

    Examples
    --------
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> alpha = 4.0 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    >>> star = (1 + (x**2 + y**2) / alpha**2) ** -3.0
    >>> round(moffat_fwhm(star - np.median([star[0], star[-1], star[:, 0], star[:, -1]])), 3)
    4.0
    """
    return float(_fit_moffat(star)[1])


def _fit_moffat(star: np.ndarray) -> np.ndarray:
    """Fit the parameters of `_moffat`, whose median at the edge is subtracted as in the stamp of a star."""
    half, peak = star.shape[0] // 2, float(star.max())

    def residual(parameters: np.ndarray) -> np.ndarray:
        model = _moffat(parameters, half)
        return (model - _edge_level(model) - star / peak).ravel()

    above = (star > 0.5 * peak).sum()
    start = [1.0, max(2 * np.sqrt(above / np.pi), 1.2), 3.0, 0.0, 0.0]
    bounds = ([0.2, 0.5, 1.2, -2, -2], [5, star.shape[0], 30, 2, 2])
    fit = optimize.least_squares(residual, np.clip(start, *bounds), bounds=bounds)
    return np.asarray(fit.x * [peak, 1, 1, 1, 1])


def _moffat(parameters: np.ndarray, half: int) -> np.ndarray:
    """Return a Moffat profile of this height, FWHM, index and centre on 2 `half` + 1 pixels squared."""
    height, fwhm, beta, x0, y0 = parameters
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    radius2 = ((x - x0) ** 2 + (y - y0) ** 2) / moffat_radius(float(fwhm), float(beta)) ** 2
    return np.asarray(height * (1 + radius2) ** -beta)
