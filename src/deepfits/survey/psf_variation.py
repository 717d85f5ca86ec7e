"""Variation of the PSF's width over a field.

Shapes: N stars, S pixels on a side of their stamps, G nodes of a grid on a side.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from deepfits.gaussian_psf import expand_image, pixel_mean
from deepfits.survey.seeing import edge_noise, with_wings

FEW, MOST = 25, 300  # minimum number of stars, and the number of the brightest that are used at most
LEAST_VARIATION, MOST_VARIATION = 0.01, 0.4
"""Limits on the variation of the log width: minimum standard deviation, maximum deviation."""
LEAST_EVIDENCE = 5.0  # minimum gain in the log marginal likelihood over a constant width
OUTLIER = 3.0  # stars whose width deviates by more standard deviations are left out (galaxies, blends)
CORE = 15  # side of the part of a stamp in which the width is measured, pixels
FLOOR = 0.02  # light below which all pixels count the same, in units of the star's peak
LOG_RATIOS = np.linspace(-0.6, 0.6, 25)
"""Log ratios of width at which a star is compared with the median star."""
SMALL, MOST_DILUTED = 0.05, 3.0
"""Change of the log width by which the effect of the pixel is found, and the largest correction for it."""
NUM_NODES = 17  # nodes of the grid on a side of the field
NUM_ROUNDS = 4  # fits, each without the outliers of the one before
# Bounds of the Gaussian process: variance of the log width, correlation length in units of half the longer
# side of the field, and intrinsic variance of the stars. The length is also started from two values.
VARIANCE, LENGTH, INTRINSIC, STARTS = (1e-7, 0.1), (0.25, 3.0), (1e-6, 0.1), (0.4, 1.2)


def width_over_field(
    stamps: np.ndarray,
    star: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    among: tuple[np.ndarray, np.ndarray],
    shape: Sequence[int],
) -> list[list[float]] | None:
    """Find the variation of the PSF's width over a field, from its stars.

    The log widths of the stars are modelled as a Gaussian process of the position, with their errors and an
    intrinsic scatter: where stars are far away, it returns to the mean. Outliers are left out. The width of
    the PSF without the pixel, which is found, varies more than that of the stars.

    The `stamps`, ``(N, S, S)``, are centred and background-subtracted, `star` is their median image, and
    their positions are 0-based pixels. The result is the log of the width on a grid of rows and columns,
    ``(G, G)``, for `width_at`, relative to that of the stars `among` others, whose median image is the
    field's PSF; None with fewer than `FEW` stars, or if it does not vary significantly and by at least 1%.
    """
    if len(stamps) < FEW:
        return None
    log_width, error = relative_widths(stamps, star)
    brightest = np.argsort(error)[: min(MOST, int(np.isfinite(error).sum()))]
    if len(brightest) < FEW:
        return None
    place = _scaled(x, y, shape)[brightest]
    model = _without_outliers(place, log_width[brightest], error[brightest])
    if model is None:
        return None
    rows, columns = (np.linspace(0, side - 1, NUM_NODES) for side in shape)
    grid_x, grid_y = np.meshgrid(columns, rows)
    nodes = model.predict(_scaled(grid_x.ravel(), grid_y.ravel(), shape))
    nodes -= np.median(model.predict(_scaled(*among, shape)))
    nodes *= change_without_pixel(star)
    if np.std(nodes) < LEAST_VARIATION:
        return None
    nodes = np.clip(nodes, -MOST_VARIATION, MOST_VARIATION).reshape(NUM_NODES, NUM_NODES)
    return [[round(float(value), 5) for value in row] for row in nodes]


def width_at(
    log_width: Sequence[Sequence[float]], x: np.ndarray, y: np.ndarray, shape: Sequence[int]
) -> np.ndarray:
    """Return the PSF's width at 0-based pixels relative to that of the field, ``(N,)``.

    `log_width` is from `width_over_field`, `shape` that of the field; beyond its edges the width is that at
    the edge.
    """
    nodes = np.asarray(log_width)
    place = [at / max(side - 1, 1) * (NUM_NODES - 1) for at, side in zip((y, x), shape, strict=True)]
    return np.exp(ndimage.map_coordinates(nodes, place, order=1, mode="nearest"))


def psf_at(
    psf: np.ndarray,
    log_width: Sequence[Sequence[float]] | None,
    x: np.ndarray,
    y: np.ndarray,
    shape: Sequence[int],
) -> np.ndarray:
    """Return a field's PSF, ``(K, 2)``, with its width at 0-based pixels, ``(N, K, 2)``; see `width_at`."""
    out = np.repeat(psf[None], len(x), axis=0)
    if log_width is not None:
        out[:, :, 1] *= width_at(log_width, x, y, shape)[:, None]
    return out


def relative_widths(stamps: np.ndarray, star: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the widths of stars relative to their median image.

    The median image is stretched by each of `LOG_RATIOS`, and its amplitude, shift and sky are fitted to each
    star by least squares; the width is at the minimum of χ². Residuals are divided by the root of the light
    of a star above `FLOOR`: those of bright stars are due to the shape of the PSF, not to noise, and the core
    alone would not tell how much light is in the wings. Return their log, and errors by the noise at the edge
    of the stamp, ``(N,)`` each; errors are infinite where χ² has no minimum.
    """
    middle, half = star.shape[0] // 2, CORE // 2
    core = np.s_[..., middle - half : middle + half + 1, middle - half : middle + half + 1]
    weight = 1 / np.sqrt(np.clip(star[core] / star.max(), 0, None) + FLOOR).ravel()
    flat = stamps[core].reshape(len(stamps), -1) * weight
    total, every, step = (flat**2).sum(axis=1), np.arange(len(stamps)), LOG_RATIOS[1] - LOG_RATIOS[0]
    chi2 = np.empty((len(LOG_RATIOS), len(stamps)))
    for number, ratio in enumerate(LOG_RATIOS):
        basis = np.linalg.qr(_terms(_stretched(star, ratio), core) * weight[:, None])[0]
        chi2[number] = total - ((flat @ basis) ** 2).sum(axis=1)
    least = chi2.argmin(axis=0)
    inside = np.clip(least, 1, len(LOG_RATIOS) - 2)
    below, here, above = (chi2[inside + offset, every] for offset in (-1, 0, 1))
    curvature = np.maximum(below - 2 * here + above, 1e-30)
    log_width = LOG_RATIOS[inside] - step * np.clip((above - below) / (2 * curvature), -1, 1)
    # To first order the log width is linear in the pixels of a star of unit flux.
    slope = (_stretched(star, step) - _stretched(star, -step)) / (2 * step)
    terms = np.column_stack([slope[core].ravel(), _terms(star, core)])
    linear = np.linalg.pinv(terms * weight[:, None])[0] * weight
    return log_width, np.where(inside == least, edge_noise(stamps) * np.linalg.norm(linear), np.inf)


def change_without_pixel(star: np.ndarray) -> float:
    """Return how much the log width of the PSF without the pixel changes, in units of `relative_widths`."""
    weight, sigma = expand_image(with_wings(star), 1.0).astype(float).T
    at = np.arange(len(star)) - len(star) // 2
    along = [pixel_mean(at, sigma[:, None] * np.exp(change), 1.0) for change in (-SMALL, 0, SMALL)]
    narrower, same, wider = (np.einsum("k,ky,kx->yx", weight, each, each) for each in along)
    (low, high), _ = relative_widths(np.stack([narrower, wider]), same)
    return 1 / max(float(high - low) / (2 * SMALL), 1 / MOST_DILUTED)


def _stretched(star: np.ndarray, log_ratio: float) -> np.ndarray:
    """Return a star stretched about its middle; its flux is not conserved."""
    middle = star.shape[0] // 2
    place = middle + (np.arange(star.shape[0]) - middle) / np.exp(log_ratio)
    rows, columns = np.meshgrid(place, place, indexing="ij")
    return np.asarray(ndimage.map_coordinates(star, [rows, columns], order=3, mode="nearest"))


def _terms(star: np.ndarray, core: Any) -> np.ndarray:
    """Return a star, a constant sky and the star's shifts in the core, ``(CORE², 4)``."""
    return np.stack([image[core].ravel() for image in (star, np.ones_like(star), *np.gradient(star))], axis=1)


def _scaled(x: np.ndarray, y: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return positions in units of half the longer side of the field, ``(N, 2)``."""
    return 2 * np.stack([x, y], axis=1) / max(*shape, 2)


def _without_outliers(place: np.ndarray, log_width: np.ndarray, error: np.ndarray) -> Any:
    """Return the process fitted to the stars that are no outliers; None if the width does not vary."""
    low, level, high = np.percentile(log_width, [16, 50, 84])  # not the MAD: widths may have two peaks
    sigma = np.sqrt((high - low) ** 2 / 4 + error**2)
    residual, process = log_width - level, None
    for _ in range(NUM_ROUNDS):
        good = np.abs(residual) < OUTLIER * sigma
        if good.sum() < FEW:
            return None
        process = _fitted(place[good], log_width[good] - level, error[good])
        if process is None:
            return None
        residual = log_width - level - process.predict(place)
        sigma = np.sqrt(process.kernel_.k2.noise_level + error**2)
    return process


def _fitted(place: np.ndarray, log_width: np.ndarray, error: np.ndarray) -> Any:
    """Fit variance, length and intrinsic scatter; None if a constant width is about as likely."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    def fit(kernel: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # at the bounds of the parameters
            return GaussianProcessRegressor(kernel + scatter, alpha=error**2).fit(place, log_width)

    level = ConstantKernel(1.0, "fixed")
    scatter = WhiteKernel(1e-4, INTRINSIC)
    constant = fit(level)
    varying = [fit(level + ConstantKernel(1e-3, VARIANCE) * RBF(length, LENGTH)) for length in STARTS]
    best = max(varying, key=lambda process: process.log_marginal_likelihood_value_)
    gain = best.log_marginal_likelihood_value_ - constant.log_marginal_likelihood_value_
    return best if gain > LEAST_EVIDENCE else None
