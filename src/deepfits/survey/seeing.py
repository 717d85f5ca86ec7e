"""The width of the PSF, from stars."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, optimize

SIDE = 25


def choose_stars(
    radius: np.ndarray, snr: np.ndarray, flags: np.ndarray, stellar_radius: float, *, most: int = 40
) -> np.ndarray:
    """Choose bright unblended point sources: indices, without the brightest tenth (saturation).

    The brightest, because there stars of a given radius outnumber compact galaxies most.
    """
    good = np.isfinite(radius) & (snr > 40) & (flags == 0)
    good &= np.abs(np.log(np.where(good, radius, 1) / stellar_radius)) < 0.08
    which = np.flatnonzero(good)
    which = which[np.argsort(-snr[which])]
    return which[len(which) // 10 :][:most]


def star_image(image: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return the median of the stars' images, each shifted to its own centre and divided by its flux.

    Returns
    -------
    ndarray or None
        ``(25, 25)``; None when fewer than three stars have all their pixels.
    """
    half, stamps = SIDE // 2, []
    for cx, cy in zip(x, y, strict=True):
        ix, iy = round(float(cx)), round(float(cy))
        if not (half <= ix < image.shape[1] - half and half <= iy < image.shape[0] - half):
            continue
        window = np.s_[iy - half : iy + half + 1, ix - half : ix + half + 1]
        stamp = image[window].astype(float)
        if not (weight[window] > 0).all():
            continue
        stamp = stamp - np.median(np.concatenate([stamp[0], stamp[-1], stamp[:, 0], stamp[:, -1]]))
        centred = ndimage.shift(stamp, (iy - cy, ix - cx), order=3, mode="nearest")
        core = centred[half - 4 : half + 5, half - 4 : half + 5].sum()
        if core > 0:
            stamps.append(centred / core)
    return np.median(stamps, axis=0) if len(stamps) >= 3 else None


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
