"""Whether an object is larger than the PSF: a star–galaxy statistic measured on the pixels.

Shapes: N objects, B bands, H = W pixels, K Gaussians of a PSF.

A generator renders stars nearly as sharp as the PSF, but faint galaxies too; the pixels tell them apart
better. With P the PSF and G the same slightly broadened, both at the object's position, and ⟨a, b⟩ the sum of
a·b in units of the noise,

    spread = ⟨G, I⟩ / ⟨P, I⟩ − ⟨G, P⟩ / ⟨P, P⟩

has mean 0 for a star of any brightness, and is larger for extended objects.

Source: SPREAD_MODEL of SExtractor (Desai et al. 2012, ApJ 757, 83), here of all bands together, weighted by
their fluxes.
"""

import itertools

import numpy as np

from deepfits.gaussian_psf import fwhm_of
from deepfits.photometry import distance_from_middle, offset_from_middle

WIDER = 0.2
"""G is P convolved with a Gaussian whose standard deviation is this fraction of the FWHM of the PSF."""
APERTURE_FWHM = 4.0
MAX_SHIFT_PIXELS, STEP_PIXELS = 1.0, 0.5
NEAR_PIXELS = 8  # half the side of the square in which the position is searched for
_AT_ONCE = 256


def spread(
    image: np.ndarray,
    weight: np.ndarray,
    psf: np.ndarray,
    pixel_scale_arcsec: float,
    noise_correlation: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the spread and its error, ``(N,)`` each; NaN where no band has data or a PSF.

    Images and weights are ``(N, B, H, W)``, nJy and nJy⁻², with weight 0 for neighbours. PSFs, ``(N, B, K,
    2)``, are fractions and standard deviations, arcsec, of Gaussians. The noise correlation, ``(B,)``, is the
    ratio of the errors of sums to what the weights imply.
    """
    value, error = np.full((2, len(image)), np.nan, dtype=np.float32)
    for first in range(0, len(image), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        value[some], error[some] = _spread(
            image[some], weight[some], psf[some], pixel_scale_arcsec, noise_correlation
        )
    return value, error


def _spread(
    image: np.ndarray, weight: np.ndarray, psf: np.ndarray, pixel: float, correlation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    size = image.shape[3]
    fwhm = fwhm_of(psf) / pixel  # (N, B)
    offset = offset_from_middle(size)
    inside = distance_from_middle(size) <= APERTURE_FWHM / 2 * fwhm[..., None, None]
    used = np.where(np.isfinite(psf).all((2, 3))[..., None, None] & inside, weight, 0.0)
    data = np.where(used > 0, image, 0.0)
    sigma = np.nan_to_num(psf[..., 1], nan=1.0) / pixel
    share = np.nan_to_num(psf[..., 0])
    wider = np.hypot(sigma, WIDER * np.nan_to_num(fwhm, nan=1.0)[..., None])
    position = _fit_position(used, data, share, sigma)
    narrow, wide = (_render(share, width, position, offset) for width in (sigma, wider))

    def inner(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return (used * first * second).sum((2, 3))  # (N, B)

    power = inner(narrow, narrow)
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = np.where(power > 0, inner(narrow, data) / power, 0.0)
        total, of_star = (flux**2 * power).sum(1), (flux**2 * inner(wide, narrow)).sum(1)
        value = (flux * inner(wide, data)).sum(1) / total - of_star / total
        variance = (flux * correlation) ** 2 * (inner(wide, wide) - inner(wide, narrow) ** 2 / power)
        error = np.sqrt(np.nansum(variance, axis=1)) / total
    is_measured = total > 0
    return np.where(is_measured, value, np.nan), np.where(is_measured, error, np.nan)


def _fit_position(used: np.ndarray, data: np.ndarray, share: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return where the PSF fits best in the brightest band, ``(N, 2)`` rows and columns from the centre.

    Searched on a grid and refined by parabolas around the best point. Moments would be biased by neighbours.
    """
    size = used.shape[3]
    near = slice(max(0, size // 2 - NEAR_PIXELS), size // 2 + NEAR_PIXELS)
    used, data, offset = used[..., near, near], data[..., near, near], offset_from_middle(size)[near]

    def gains(position: np.ndarray) -> np.ndarray:
        model = _render(share, sigma, position, offset)
        power = (used * model**2).sum((2, 3))
        product = np.maximum((used * model * data).sum((2, 3)), 0)
        return product**2 / np.where(power > 0, power, 1)

    start, row = np.zeros((len(used), 2)), np.arange(len(used))
    band = gains(start).argmax(axis=1)
    used, data, share, sigma = (values[row, band][:, None] for values in (used, data, share, sigma))

    def gain(position: np.ndarray) -> np.ndarray:
        return gains(position)[:, 0]

    steps = np.arange(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS + STEP_PIXELS / 2, STEP_PIXELS)
    best, position = np.full(len(used), -1.0), start
    for shift in itertools.product(steps, steps):
        gained = gain(np.broadcast_to(np.array(shift), position.shape))
        position, best = np.where((gained > best)[:, None], shift, position), np.maximum(gained, best)
    for axis, step in itertools.product((0, 1), (STEP_PIXELS / 2, STEP_PIXELS / 4)):
        delta = step * np.eye(2)[axis]
        low, middle, high = (gain(position + side * delta) for side in (-1, 0, 1))
        curvature = low - 2 * middle + high
        peak = np.where(curvature < 0, 0.5 * (low - high) / np.where(curvature < 0, curvature, -1), 0)
        position = position + np.clip(peak, -1, 1)[:, None] * delta
    return position


def _render(share: np.ndarray, sigma: np.ndarray, position: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Render sums of round Gaussians, averaged over pixels: ``(N, B, K)`` in pixels to ``(N, B, H, W)``."""
    from scipy.special import erf

    edges = np.append(offset - 0.5, offset[-1] + 0.5)
    x = edges - position[:, None, None, :, None]  # (N, 1, 1, 2, H + 1)
    profile = np.diff(0.5 * erf(x / (np.sqrt(2.0) * sigma[..., None, None])), axis=-1)  # (N, B, K, 2, H)
    return np.einsum("nbk,nbkh,nbkw->nbhw", share, profile[:, :, :, 0], profile[:, :, :, 1])
