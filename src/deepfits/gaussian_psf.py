"""PSFs as sums of round Gaussians: made from a FWHM or an image; their profiles and widths.

Shapes: N objects, B bands, K Gaussians of a PSF, R radii, H, W pixels.

The sum (multi-Gaussian expansion: Emsellem, Monnet & Bacon 1994) is an array ``(..., K, 2)`` of weights,
which sum to 1, and standard deviations in arcseconds; NaN if the PSF is unknown. It describes optics and
atmosphere, without the convolution with the pixel. Needs only NumPy, to expand measured images SciPy too.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from deepfits.errors import InputError
from deepfits.photometry import FWHM_PER_SIGMA

Width = TypeVar("Width", float, np.ndarray)

NUM_GAUSSIANS = 8
USUAL_BETA = 3.0
"""Index of the Moffat profile (Moffat 1969) that is assumed if only the FWHM of a PSF is known."""
NARROWEST, WIDEST = 0.25, 6.0  # range of standard deviations, in units of the FWHM
NUM_GRIDS = 6  # sets of standard deviations that are tried for an image


def moffat_psf(fwhm_arcsec: float, beta: float = USUAL_BETA) -> np.ndarray:
    """Expand a Moffat profile in Gaussians, ``(K, 2)``; NaN if the FWHM is NaN.

    Examples
    --------
    >>> psf = moffat_psf(0.8)
    >>> round(float(psf[:, 0].sum()), 6), round(float(fwhm_of(psf)), 2)
    (1.0, 0.8)
    """
    if not math.isfinite(fwhm_arcsec):
        return np.full((NUM_GAUSSIANS, 2), np.nan, dtype=np.float32)
    psf = _unit_moffat(round(beta if math.isfinite(beta) else USUAL_BETA, 2)).copy()
    psf[:, 1] *= fwhm_arcsec
    return psf.astype(np.float32)


@lru_cache(maxsize=256)
def _unit_moffat(beta: float) -> np.ndarray:
    """Expand a Moffat profile of unit FWHM."""
    if not beta > 1:
        raise InputError(f"a Moffat profile needs an index above 1, not {beta}")
    squared = 1 / (4 * (2 ** (1 / beta) - 1))  # of the scale radius
    radius = expansion_radii(1.0)
    profile = (beta - 1) / (np.pi * squared) * (1 + radius**2 / squared) ** -beta
    enclosed = 1 - (1 + radius**2 / squared) ** (1 - beta)
    sigma = np.geomspace(NARROWEST, WIDEST, NUM_GAUSSIANS)
    return np.stack([expand_profile(radius, profile, enclosed, sigma)[0], sigma], axis=1)


def moffat_radius(fwhm: Width, beta: float) -> Width:
    """Return the scale radius of a Moffat profile, in the unit of its FWHM."""
    return fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))


def expansion_radii(fwhm: float) -> np.ndarray:
    """Return the radii at which a profile is fitted, out to 12 FWHM."""
    return np.concatenate([[0.0], np.geomspace(0.02, 12, 120)]) * fwhm


def expand_profile(
    radius: np.ndarray, profile: np.ndarray, enclosed: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, float]:
    """Fit the weights of Gaussians to a radial profile and its enclosed flux.

    Return the weights, which sum to 1, and the maximum error of the profile relative to its peak.
    """
    ratio = -0.5 * (radius[:, None] / sigma) ** 2
    gaussians = np.exp(ratio) / (2 * np.pi * sigma**2)
    rows = np.concatenate([gaussians / profile[0], 3 * -np.expm1(ratio)])
    weight = non_negative(rows, np.concatenate([profile / profile[0], 3 * enclosed]))
    weight /= weight.sum()
    return weight, float(np.abs(gaussians @ weight - profile).max() / profile[0])


def non_negative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve a non-negative least-squares problem (Lawson & Hanson 1974, algorithm NNLS).

    Examples
    --------
    >>> non_negative(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([1.0, -1.0])).tolist()
    [1.0, 0.0]
    """
    number = matrix.shape[1]
    out, is_free = np.zeros(number), np.zeros(number, dtype=bool)
    least = 1e-10 * np.abs(matrix.T @ target).max()
    for _ in range(3 * number):
        slope = np.where(is_free, -np.inf, matrix.T @ (target - matrix @ out))
        if slope.max() <= least:
            break
        is_free[slope.argmax()] = True
        while True:
            trial = np.zeros(number)
            trial[is_free] = np.linalg.lstsq(matrix[:, is_free], target, rcond=None)[0]
            if (trial[is_free] > 0).all():
                break
            falling = is_free & (trial <= 0)
            step = (out[falling] / np.maximum(out[falling] - trial[falling], 1e-300)).min()
            out = out + step * (trial - out)
            is_free &= out > 1e-12 * max(out.max(), 1e-300)
            out[~is_free] = 0
        out = trial
    return out


def expand_image(image: np.ndarray, pixel_scale_arcsec: float, *, pixel_side: float = 1.0) -> np.ndarray:
    """Expand a measured PSF image in round Gaussians, ``(K, 2)``.

    The image, ``(H, W)``, is free of background and has any normalisation; unknown pixels are NaN. The PSF is
    centred near the brightest pixel. The convolution with the detector's pixels, of side `pixel_side` in
    pixels of this image, is removed: 1 for a star or HSC's PSF models; 0 if the image samples the PSF at the
    centres of its pixels. Raise `InputError` if the image has no positive flux, or is mostly NaN.
    """
    image = np.asarray(image, dtype=float)
    is_known = np.isfinite(image)
    light = np.where(is_known, image, 0)
    if image.ndim != 2 or 2 * is_known.sum() < image.size or not light.sum() > 0:
        raise InputError("a PSF image must be two-dimensional, mostly finite and have a positive flux")
    scale = light.max()
    above = (light > scale / 2).sum()
    fwhm = max(2 * math.sqrt(above / np.pi), 1.0)
    y0, x0 = centre_of_light(light.clip(min=0), fwhm)
    y, x = np.arange(image.shape[0]) - y0, np.arange(image.shape[1]) - x0
    widest = min(WIDEST * fwhm, min(image.shape) / 2)
    target, least = image[is_known] / scale, math.inf
    # Between two widths a Gaussian would become a mixture, whose FWHM is up to 5% smaller.
    for start in np.geomspace(
        1, (WIDEST / NARROWEST) ** (1 / (NUM_GAUSSIANS - 1)), NUM_GRIDS, endpoint=False
    ):
        widths = np.geomspace(NARROWEST * fwhm * start, widest, NUM_GAUSSIANS)
        along_y, along_x = (pixel_mean(at, widths[:, None], pixel_side) for at in (y, x))
        matrix = (along_y[:, :, None] * along_x[:, None])[:, is_known].T / scale
        orthogonal, triangle = np.linalg.qr(matrix)  # the same problem with as many rows as Gaussians
        trial = non_negative(triangle, orthogonal.T @ target)
        if trial.sum() > 0 and (off := float(((matrix @ trial - target) ** 2).sum())) < least:
            weight, sigma, least = trial, widths, off
    if least == math.inf:
        raise InputError("a PSF image has no peak that Gaussians could describe")
    return np.stack([weight / weight.sum(), sigma * pixel_scale_arcsec], axis=1).astype(np.float32)


def centre_of_light(light: np.ndarray, fwhm: float) -> tuple[float, float]:
    """Return the Gaussian-weighted centroid (y, x) of the flux around the peak, pixels."""
    (y0, x0), sigma = np.unravel_index(int(light.argmax()), light.shape), max(fwhm / FWHM_PER_SIGMA, 0.7)
    y, x = np.arange(light.shape[0]), np.arange(light.shape[1])
    at = np.array([y0, x0], dtype=float)
    for _ in range(20):
        part = light * np.outer(
            *(np.exp(-0.5 * ((o - c) / sigma) ** 2) for o, c in zip((y, x), at, strict=True))
        )
        mean = np.array([part.sum(1) @ y, part.sum(0) @ x]) / part.sum()
        at += 2 * (mean - at)  # the weight halves the shift of a peak as wide as itself
        at = at.clip((y0 - 2, x0 - 2), (y0 + 2, x0 + 2))
    return float(at[0]), float(at[1])


def pixel_mean(at: np.ndarray, sigma: np.ndarray, side: float) -> np.ndarray:
    """Average Gaussians over pixels of this side centred at `at`; for side 0, evaluate them there."""
    if not side:
        return np.asarray(np.exp(-0.5 * (at / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)))
    from scipy.special import erf

    upper, lower = (erf(edge / (sigma * math.sqrt(2))) for edge in (at + side / 2, at - side / 2))
    return np.asarray((upper - lower) / (2 * side))


def profile_of(psf: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return the surface brightness, ``(..., R)``, of PSFs ``(..., K, 2)`` at radii ``(..., R)``."""
    weight, sigma = psf[..., 0].astype(float), psf[..., 1].astype(float)
    each = np.exp(-0.5 * (radius[..., None] / sigma[..., None, :]) ** 2) / (
        2 * np.pi * sigma[..., None, :] ** 2
    )
    return np.asarray((weight[..., None, :] * each).sum(-1))


def enclosed(psf: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return the fraction of the flux, ``(..., R)``, of PSFs ``(..., K, 2)`` inside radii ``(..., R)``.

    Examples
    --------
    >>> enclosed(np.array([[1.0, 0.5]]), np.array([0.5 * np.sqrt(2 * np.log(2)), 5.0])).round(3).tolist()
    [0.5, 1.0]
    """
    weight, sigma = psf[..., 0].astype(float), psf[..., 1].astype(float)
    each = -np.expm1(-0.5 * (radius[..., None] / sigma[..., None, :]) ** 2)
    return np.asarray((weight[..., None, :] * each).sum(-1))


def fwhm_of(psf: np.ndarray) -> np.ndarray:
    """Return the FWHM, ``(...)`` arcseconds, of PSFs ``(..., K, 2)``; NaN stays NaN."""
    low = np.zeros(psf.shape[:-2])
    high = 4 * FWHM_PER_SIGMA * np.nanmax(psf[..., 1], axis=-1, initial=1e-3)
    half = profile_of(psf, low[..., None])[..., 0] / 2
    for _ in range(50):
        middle = (low + high) / 2
        is_inside = profile_of(psf, middle[..., None])[..., 0] > half
        low, high = np.where(is_inside, middle, low), np.where(is_inside, high, middle)
    return np.where(np.isfinite(half), low + high, np.nan)


def psf_or_moffat(psf: np.ndarray | None, fwhm_arcsec: Sequence[float], number: int) -> np.ndarray:
    """Return the PSFs of some objects, ``(N, B, K, 2)``: the recorded ones, else Moffat profiles.

    `psf` is None for a store without recorded PSFs. An unknown PSF stays NaN if the FWHM of its band is NaN
    too.
    """
    usual = np.stack([moffat_psf(fwhm) for fwhm in fwhm_arcsec])
    if psf is None:
        return np.broadcast_to(usual, (number, *usual.shape))
    most = max(psf.shape[2], NUM_GAUSSIANS)

    def padded(values: np.ndarray) -> np.ndarray:
        """Append Gaussians of weight 0."""
        nothing = np.array([0, 1], dtype=values.dtype)
        shape = (*values.shape[:-2], most - values.shape[-2], 2)
        return np.concatenate([values, np.broadcast_to(nothing, shape)], axis=-2)

    return np.where(np.isfinite(psf).all((2, 3), keepdims=True), padded(psf), padded(usual))
