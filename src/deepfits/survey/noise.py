"""Background level and pixel noise, robustly, and how correlated the noise is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepfits.photometry import NJY_ZERO_POINT, SIGMA_PER_MAD
from deepfits.splits import evenly_spaced

MESH = 64
# Blocks that are enough to know the noise to a few parts in a thousand.
MAX_BLOCKS = 80
MAX_LEVEL_SIGMAS = 1.0
MOST_BLOCKS, FEW_BLOCKS = 400, 4
"""In which sky, noise and weights are compared; in a part of an image, at least so many."""
UNEVEN = 2.0
"""Noise of one part of an image over that of another which constant weights do not stand for."""
# A pixel so many times as bright as the noise shows no star.
BRIGHTEST = 1e12
# Too few to measure noise on.
FEW_PIXELS = 64
# Pixels apart whose differences say the noise: noise of resampled images is correlated over fewer.
LAG = 3
CLIPPING_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the sky does where no source is.

    Attributes
    ----------
    level
        Median background, nJy.
    sigma
        Standard deviation of one pixel, nJy.
    correlation
        Noise in 4×4 blocks over what independent pixels would give; 1 for white noise.
    """

    level: float
    sigma: float
    correlation: float = 1.0


def sample_rows(height: int, number: int = 8, whole: int = 1024) -> list[tuple[int, int]]:
    """Choose strips of 64 rows, evenly over an image; an image of up to `whole` rows is one strip."""
    if height <= whole:
        return [(0, height)]
    starts = np.linspace(0, height - MESH, number).astype(int)
    return [(int(start), int(start) + MESH) for start in starts]


def clipped_statistics(values: np.ndarray, *, clip: float = 3.0) -> tuple[float, float]:
    """Return median and standard deviation of values of any shape after clipping outliers; NaN for no values.

    The standard deviation of what is left is set right for the clipped tails of a Gaussian. It is not the
    median absolute deviation, which is off by a tenth where the noise is only a few steps of the counts (SDSS
    u).
    """
    # Sorted once, what is kept is a slice, and its median is in the middle of it.
    values = np.sort(values[np.isfinite(values)], axis=None)
    if not values.size:
        return np.nan, np.nan
    level = _middle_of(values)
    spread = SIGMA_PER_MAD * float(np.median(np.abs(values - level)))
    for _ in range(CLIPPING_ROUNDS):
        kept = values
        if spread > 0:
            ends = np.asarray([level - clip * spread, level + clip * spread], values.dtype)
            first = int(np.searchsorted(values, ends[0], side="left"))
            kept = values[first : int(np.searchsorted(values, ends[1], side="right"))]
        level, spread = _middle_of(kept), float(np.std(kept, dtype=np.float64)) / _clipped_width(clip)
        if kept.size == values.size:
            break
        values = kept
    return level, spread


def _middle_of(ordered: np.ndarray) -> float:
    """Return the median of sorted values."""
    half = len(ordered) // 2
    return float(ordered[half - 1 + len(ordered) % 2 : half + 1].mean(dtype=np.float64))


def _clipped_width(clip: float) -> float:
    """Return the standard deviation of a unit Gaussian cut off at ±clip.

    Examples
    --------
    >>> round(_clipped_width(3.0), 4)
    0.9866
    """
    tail = 2 * clip * math.exp(-0.5 * clip**2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - tail / math.erf(clip / math.sqrt(2)))


def measure_noise(image: np.ndarray, is_valid: np.ndarray) -> Noise | None:
    """Measure background and noise in 64×64 blocks, and take the median block.

    Blocks are rid of their own level, so that a slope of the sky does not count as noise; the lower half of
    the blocks (those with the fewest sources) decides. Images are ``(H, W)`` in nJy. Returns None
    when the valid pixels do not vary.
    """
    levels, sigmas, ratios = [], [], []
    corners = [
        (y, x)
        for y in range(0, max(image.shape[0] - MESH // 2, 1), MESH)
        for x in range(0, max(image.shape[1] - MESH // 2, 1), MESH)
        if is_valid[y : y + MESH, x : x + MESH].mean() >= 0.5
    ]
    for y, x in corners[:: -(-len(corners) // MAX_BLOCKS) or 1]:
        block, good = image[y : y + MESH, x : x + MESH], is_valid[y : y + MESH, x : x + MESH]
        level, sigma = clipped_statistics(block[good])
        if sigma > 0 and good.sum() >= MESH:
            levels.append(level)
            sigmas.append(sigma)
            ratios.append(_block_ratio(block - level, good, sigma))
    if not sigmas:
        if is_valid.sum() < 2:
            return None
        level, sigma = clipped_statistics(image[is_valid])
        return Noise(level=level, sigma=sigma) if sigma > 0 else None
    quiet = np.argsort(sigmas)[: (len(sigmas) + 1) // 2]
    correlation = float(np.nanmedian(np.asarray(ratios)[quiet])) if np.isfinite(ratios).any() else 1.0
    return Noise(
        level=float(np.median(levels)),
        sigma=float(np.median(np.asarray(sigmas)[quiet])),
        correlation=correlation,
    )


def rim(height: int, width: int) -> np.ndarray:
    """Return the outer eighth of a cutout on each side, where its object seldom is, ``(H, W)`` bool."""
    out, margin = np.ones((height, width), bool), max(min(height, width) // 8, 1)
    out[margin:-margin, margin:-margin] = False
    return out


def rim_pixels(image: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return flux and weight of the pixels at the rims of cutouts, ``(N, H, W)``, that have data.

    Where the rims have too few, of all pixels.
    """
    is_valid = weight > 0
    is_used = is_valid & rim(*image.shape[1:])
    is_used = is_used if is_used.sum() >= FEW_PIXELS else is_valid
    return image[is_used], weight[is_used]


def difference_noise(image: np.ndarray, is_valid: np.ndarray) -> tuple[float, int]:
    """Measure the noise of a cutout on its outer pixels, from second differences along the rows.

    Returns the standard deviation of one pixel, nJy, and from how many differences it is. The cutout is ``(H,
    W)``, its object in the middle. The light of a large galaxy or of a neighbour is smooth over `LAG` pixels
    and hardly counts; in the scatter of the pixels it would.

    Examples
    --------
    >>> slope = np.arange(32.0)[:, None] + 5 * np.arange(32.0)
    >>> noise = np.random.default_rng(0).normal(0, 2, (32, 32))
    >>> sigma, number = difference_noise(slope + noise, np.ones((32, 32), bool))
    >>> 1.8 < sigma < 2.2, number
    (True, 207)
    """
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in image.shape)
    from_middle = np.maximum(rows[:, None], columns)
    is_outer = from_middle > 0.75 * from_middle[is_valid].max(initial=0)
    middle, left, right = np.s_[:, LAG:-LAG], np.s_[:, : -2 * LAG], np.s_[:, 2 * LAG :]
    is_used = is_outer[middle] & is_valid[left] & is_valid[middle] & is_valid[right]
    differences = (2 * image[middle] - image[left] - image[right])[is_used]
    return clipped_statistics(differences)[1] / math.sqrt(6), int(differences.size)


def _block_ratio(residual: np.ndarray, good: np.ndarray, sigma: float) -> float:
    """Return the noise of sums over small blocks in units of what white noise would give."""
    side = 4
    height, width = (n // side * side for n in residual.shape)
    if height < 2 * side or width < 2 * side:
        return np.nan
    view = np.where(good, residual, np.nan)[:height, :width]
    sums = view.reshape(height // side, side, width // side, side).sum(axis=(1, 3)).ravel()
    _, spread = clipped_statistics(sums, clip=2.5)
    return spread / (sigma * side)


def depth_of(sigma_njy: float, pixel_scale: float) -> float:
    """Return the AB magnitude of 5σ in a circular aperture of 2″ for white noise of the pixels."""
    pixels = math.pi / pixel_scale**2
    return NJY_ZERO_POINT - 2.5 * math.log10(5 * sigma_njy * math.sqrt(pixels))


def sky_doubts(plane: Any) -> list[str]:
    """Describe what no calibrated image has: a sky that is left in, weights that do not go as the noise.

    `plane` is a `deepfits.survey.planes.Plane`.
    """
    out, blocks = [], _measured_blocks(plane)
    parts = [blocks[blocks[:, 0] == part] for part in np.unique(blocks[:, 0])]
    # The quarter with the least light of galaxies stands for a part.
    quiet = np.array([np.percentile(part[:, 2:], 25, axis=0) for part in parts if len(part) >= FEW_BLOCKS])
    difference = float(np.ptp(quiet[:, 0]) / np.median(quiet[:, 1])) if len(quiet) else 0.0
    if abs(plane.noise.level) > MAX_LEVEL_SIGMAS * plane.noise.sigma:
        out.append(
            f"the sky lies at {plane.noise.level / plane.noise.sigma:.1f} σ; subtract it first "
            "(`deepfits stack` does)"
        )
    elif difference > MAX_LEVEL_SIGMAS:
        out.append(
            f"the sky differs by {difference:.1f} σ of a pixel between parts of the image; subtract it first "
            "(photutils.Background2D, SExtractor)"
        )
    ratio = float(quiet[:, 1].max() / quiet[:, 1].min()) if len(quiet) else 1.0
    if plane.weight_kind == "measured" and ratio > UNEVEN:
        out.append(
            f"the noise differs by a factor {ratio:.1f} between parts of the image, and without weights all "
            "of it counts alike; give weights (.weight.fits, .rms.fits)"
        )
    trend, power = weight_trend(blocks[:, 1], blocks[:, 3])
    if trend < -0.5:
        kind, end = ("errors", "rms") if power < -1.5 else ("variances", "var")
        out.append(f"the noise is largest where the weights are: are they {kind}? name the file .{end}.fits")
    if trend > 0.5 and power > 1.6:
        out.append(
            f"the inverse variance of the pixels goes as the weights to the power {power:.1f}: are they 1/σ, "
            "and not 1/σ²? write their squares"
        )
    return out


def _measured_blocks(plane: Any) -> np.ndarray:
    """Measure blocks of 32×32 pixels all over an image, at most `MOST_BLOCKS`.

    Returns ``(N, 4)``: which of up to 4×4 parts of the image a block lies in, the median of its weights, its
    level and its noise.
    """
    side, (height, width) = 32, plane.shape
    down, across = (min(length // (2 * side), 4) for length in (height, width))
    blocks: list[tuple[int, float, np.ndarray]] = []
    for start, stop in sample_rows(height, 16, 599):
        image, weight = plane.rows(start, stop)
        for y in range(0, stop - start - side + 1, side):
            for x in range(0, width - side + 1, side):
                block, its = image[y : y + side, x : x + side], weight[y : y + side, x : x + side]
                if (its > 0).mean() > 0.8:
                    part = down * (start + y) // height * 4 + across * x // width
                    blocks.append((part, float(np.median(its[its > 0])), block[its > 0]))
    some = [blocks[place] for place in evenly_spaced(len(blocks), MOST_BLOCKS)]
    measured = [(part, weight, *clipped_statistics(values)) for part, weight, values in some]
    return np.array([values for values in measured if values[3] > 0]).reshape(-1, 4)


def weight_trend(stated: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Compare the weights with the inverse of the measured variance, over blocks: how they go together.

    Parameters
    ----------
    stated, spread
        Weights and measured noise of blocks, ``(N,)``.

    Returns
    -------
    trend, power
        The rank correlation, +1 for weights that say where the noise is small, −1 for the opposite; and the
        power of the weights that the inverse variance goes as. NaN where the weights do not vary.
    """
    if len(stated) < 12 or np.percentile(stated, 90) < 1.3 * np.percentile(stated, 10):
        return math.nan, math.nan
    measured = spread**-2
    first, second = (np.argsort(np.argsort(values)) for values in (stated, measured))
    power = np.polyfit(np.log(stated), np.log(measured), 1)[0]
    return float(np.corrcoef(first, second)[0, 1]), float(power)
