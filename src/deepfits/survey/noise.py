"""Robust estimates of background level and pixel noise, and of the correlation of the noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from deepfits.errors import listed
from deepfits.photometry import NJY_ZERO_POINT, SIGMA_PER_MAD
from deepfits.splits import evenly_spaced

MESH = 64
# Number of blocks that gives the noise to a few parts in a thousand.
MAX_BLOCKS = 80
MAX_LEVEL_SIGMAS, MAX_DIFFERENCE_SIGMAS, MAX_RIM_SIGMAS = 0.2, 0.6, 0.5
"""Largest level of the sky, difference of levels between parts of an image, and level at the rims of cutouts,
in σ of a pixel, that are not suspicious. Over the hundred pixels of a faint galaxy 0.2 σ add up to twice the
noise; galaxies too faint to be seen contribute 0.1."""
MOST_BLOCKS, FEW_BLOCKS = 400, 4
"""Maximum number of blocks in which sky, noise and weights are compared, and minimum per part of an image."""
UNEVEN = 2.0  # ratio of the noise, in units of what weights state, between parts above which these are wrong
LINE, ODD_SIGMAS = 128, 5
"""Length of the parts of columns and rows that are compared, and by how much bad ones differ at least."""
BRIGHTEST = 1e12  # pixel value in units of the noise above which it cannot be that of a source
FEW_PIXELS = 64  # minimum number of pixels for a measurement of noise
# Distance in pixels for the differences that measure noise; beyond the correlation in resampled images.
LAG = 3
# Ratio of the scatter of pixels to that of differences above which the light of sources is in all of them;
# in surveys it is 0.94 to 1.4, in images that are interpolated to far smaller pixels it may be larger.
SMOOTH = 1.5
CLIPPING_ROUNDS = 6
SIDE_OF_SUMS, SIDE_OF_APERTURES = 4, 10
"""Sides, in pixels, of the sums in which the noise's correlation is measured and of those it is meant for."""
COMMON = 0.005  # fraction of values equal to the median above which they are quantised


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Background and noise of the sky between sources."""

    level: float  # median background, nJy
    sigma: float  # standard deviation of one pixel, nJy
    correlation: float = 1.0  # noise of large sums relative to independent pixels; 1 for white noise


def sample_rows(height: int, number: int = 8, whole: int = 1024) -> list[tuple[int, int]]:
    """Choose strips of 64 rows, evenly spaced over an image; one of up to `whole` rows is a single strip."""
    if height <= whole:
        return [(0, height)]
    starts = np.linspace(0, height - MESH, number).astype(int)
    return [(int(start), int(start) + MESH) for start in starts]


def clipped_statistics(values: np.ndarray, *, clip: float = 3.0) -> tuple[float, float]:
    """Return sigma-clipped median and standard deviation of values of any shape; NaN if there are none.

    The standard deviation is corrected for the clipped tails of a Gaussian. The median absolute deviation is
    not used, since it is off by 10% where the noise is only a few quantisation steps (SDSS u).
    """
    # The values are sorted once; those kept are then a slice, with the median at its middle.
    values = np.sort(values[np.isfinite(values)], axis=None)
    if not values.size:
        return np.nan, np.nan
    level = _middle_of(values)
    spread = SIGMA_PER_MAD * float(np.median(np.abs(values - level)))
    if step := _step_of_most(values):
        spread = step
    for _ in range(CLIPPING_ROUNDS):
        kept = values
        if spread > 0:
            reach = max(clip * spread, 2.5 * step)
            ends = np.asarray([level - reach, level + reach], values.dtype)
            first = int(np.searchsorted(values, ends[0], side="left"))
            kept = values[first : int(np.searchsorted(values, ends[1], side="right"))]
        level, spread = _middle_of(kept), float(np.std(kept, dtype=np.float64)) / _clipped_width(clip)
        if kept.size == values.size:
            break
        values = kept
    return level, spread


def _step_of_most(ordered: np.ndarray) -> float:
    """Return the step from the value of more than half of sorted values to the next one; 0 if none is that.

    Such values are quantised more coarsely than their noise, so that the median deviation is not its scale.
    """
    number, middle = len(ordered), ordered[len(ordered) // 2]
    first, last = (int(np.searchsorted(ordered, middle, side)) for side in ("left", "right"))
    if last - first <= number / 2 or last - first == number:
        return 0.0
    return float(np.abs(ordered[[max(first - 1, 0), min(last, number - 1)]] - middle).max())


def _middle_of(ordered: np.ndarray) -> float:
    """Return the median of sorted values; of quantised ones that before rounding (the grouped median).

    Examples
    --------
    >>> _middle_of(np.array([1.0, 2.0, 5.0])), _middle_of(np.repeat([3.0, 4.0, 5.0], [2, 4, 6]))
    (2.0, 4.5)
    """
    number = len(ordered)
    middle = ordered[(number - 1) // 2 : number // 2 + 1].mean(dtype=np.float64)
    first, last = (
        int(np.searchsorted(ordered, ordered.dtype.type(middle), side)) for side in ("left", "right")
    )
    if last - first <= 1 + COMMON * number or first == 0 or last == number:
        return float(middle)
    below, above = 0.5 * (middle + ordered[[first - 1, last]].astype(np.float64))
    return float(below + (above - below) * (number / 2 - first) / (last - first))


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
    """Measure background and noise as medians over blocks of 64×64 pixels.

    The noise is measured about the level of each block, so that gradients of the sky do not contribute, and
    only in the less noisy half of the blocks (those with the fewest sources). Where the values scatter more
    than differences between near pixels, as in a galaxy that fills the image, it is measured about a smooth
    surface. Images are ``(H, W)`` in nJy. Returns None if the valid pixels do not vary.
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
        residual = block - level
        if sigma > SMOOTH * clipped_statistics(_differences(block, good))[1] > 0:
            residual, sigma = _without_smooth(residual, good)
        if sigma > 0 and good.sum() >= MESH:
            levels.append(level)
            sigmas.append(sigma)
            ratios.append(_block_ratio(residual, good, sigma))
    if not sigmas:
        level, sigma = clipped_statistics(image[is_valid])
        return Noise(level=level, sigma=sigma) if sigma > 0 else None
    quiet = np.argsort(sigmas)[: (len(sigmas) + 1) // 2]
    ratio = float(np.nanmedian(np.asarray(ratios)[quiet])) if np.isfinite(ratios).any() else 1.0
    return Noise(
        level=float(np.median(levels)),
        sigma=float(np.median(np.asarray(sigmas)[quiet])),
        correlation=of_large_sums(ratio),
    )


def _without_smooth(values: np.ndarray, is_valid: np.ndarray) -> tuple[np.ndarray, float]:
    """Subtract a cubic surface, fitted without outliers; return the rest and its standard deviation."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, length) for length in values.shape), indexing="ij")
    terms = np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], axis=-1)
    is_used, rest, sigma = is_valid, values, math.nan
    for _ in range(CLIPPING_ROUNDS):
        if is_used.sum() <= 2 * terms.shape[-1]:
            break
        rest = values - terms @ np.linalg.lstsq(terms[is_used], values[is_used], rcond=None)[0]
        middle, sigma = clipped_statistics(rest[is_valid])
        is_used = is_valid & (np.abs(rest - middle) < 3 * sigma)
    return rest, sigma


def of_large_sums(ratio: float) -> float:
    """Return the relative noise of sums over 10×10 pixels, about an aperture of 2″, from that over 4×4.

    Faint sources would contribute to larger sums if these were measured. It is assumed that the correlation
    falls off with distance as a Gaussian, of any width; if the noise is resampled or smoothed, sums over 4×4
    pixels do not contain all of it.

    Examples
    --------
    >>> [round(of_large_sums(ratio), 2) for ratio in (0.95, 1.0, 1.03, 1.5, 2.0, 3.0)]
    [0.95, 1.0, 1.04, 1.6, 2.25, 4.0]
    """
    width = np.linspace(0.1, 4.0, 200)[:, None]

    def of(side: int) -> np.ndarray:
        lag = np.arange(1, side)
        return 1 + 2 * ((1 - lag / side) * np.exp(-((lag / (2 * width)) ** 2))).sum(axis=1)

    return float(np.interp(ratio, of(SIDE_OF_SUMS), of(SIDE_OF_APERTURES))) if ratio > 1 else ratio


def rim(height: int, width: int) -> np.ndarray:
    """Return the outer eighth of a cutout on each side, rarely reached by its object, ``(H, W)`` bool."""
    out, margin = np.ones((height, width), bool), max(min(height, width) // 8, 1)
    out[margin:-margin, margin:-margin] = False
    return out


def rim_pixels(image: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return flux and weight of the valid pixels at the rims of cutouts, ``(N, H, W)``.

    If there are too few, all valid pixels are returned.
    """
    is_valid = weight > 0
    is_used = is_valid & rim(*image.shape[1:])
    is_used = is_used if is_used.sum() >= FEW_PIXELS else is_valid
    return image[is_used], weight[is_used]


def difference_noise(image: np.ndarray, is_valid: np.ndarray) -> tuple[float, int]:
    """Measure the noise of a cutout from second differences along the rows of its outer pixels.

    Returns the standard deviation of one pixel, nJy, and the number of differences used. The cutout is
    ``(H, W)``, with its object at the centre. Unlike the scatter of the pixels, the differences are hardly
    affected by large galaxies and neighbours, which are smooth over `LAG` pixels.

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
    differences = _differences(image, is_valid, is_outer)
    return clipped_statistics(differences)[1], int(differences.size)


def _differences(image: np.ndarray, is_valid: np.ndarray, is_wanted: np.ndarray | None = None) -> np.ndarray:
    """Return second differences along rows over `LAG` pixels, ``(N,)``, which have the noise of one pixel.

    The middle one of the three pixels is one of those wanted.
    """
    middle, left, right = np.s_[:, LAG:-LAG], np.s_[:, : -2 * LAG], np.s_[:, 2 * LAG :]
    is_used = is_valid[left] & is_valid[middle] & is_valid[right]
    if is_wanted is not None:
        is_used &= is_wanted[middle]
    return np.asarray((2 * image[middle] - image[left] - image[right])[is_used] / math.sqrt(6))


def _block_ratio(residual: np.ndarray, good: np.ndarray, sigma: float) -> float:
    """Return the noise of sums over 4×4 pixels relative to that of white noise."""
    side = SIDE_OF_SUMS
    height, width = (n // side * side for n in residual.shape)
    if height < 2 * side or width < 2 * side:
        return np.nan
    view = np.where(good, residual, np.nan)[:height, :width]
    sums = view.reshape(height // side, side, width // side, side).sum(axis=(1, 3)).ravel()
    _, spread = clipped_statistics(sums, clip=2.5)
    return spread / (sigma * side)


def brightest_flux(image: np.ndarray, sigma: float) -> tuple[float, list[str]]:
    """Return the flux above which pixels have no data, and a warning if any of a sample exceed it."""
    number = int((np.abs(image) > BRIGHTEST * sigma).sum())
    text = (
        f"WARNING: {number} of {image.size} sampled pixels are more than {BRIGHTEST:.0e} times the noise: "
        "treated as no data; is the file damaged, or its byte order wrong?"
    )
    return BRIGHTEST * sigma, [text] if number else []


def depth_of(sigma_njy: float, pixel_scale: float) -> float:
    """Return the 5σ depth in a circular aperture of 2″ diameter, AB, for white noise."""
    pixels = math.pi / pixel_scale**2
    return NJY_ZERO_POINT - 2.5 * math.log10(5 * sigma_njy * math.sqrt(pixels))


def sky_doubts(plane: Any, *, is_subtracted: bool = False) -> list[str]:
    """Warn of residual sky, and of weights that do not follow the noise.

    `plane` is a `deepfits.survey.planes.Plane`; with `is_subtracted`, its mean sky does not matter.
    """
    out, blocks = [], _measured_blocks(plane)
    parts = [blocks[blocks[:, 0] == part] for part in np.unique(blocks[:, 0])]
    # The lower quartile represents a part, since galaxies affect it little.
    quiet = [np.percentile(part[:, 2:4], 25, axis=0) for part in parts if len(part) >= FEW_BLOCKS]
    sky, sigma = np.transpose(quiet or [[plane.noise.level, plane.noise.sigma]])
    levels = sky / np.median(sigma)
    level, difference = max(levels.min(), 0.0) + min(levels.max(), 0.0), np.ptp(levels)
    remedy = "" if is_subtracted or plane.options.subtract_sky else "give subtract_sky, or "
    if not is_subtracted and abs(level) > MAX_LEVEL_SIGMAS:
        also = f", and differs by {difference:.1f} σ" * bool(difference > MAX_DIFFERENCE_SIGMAS)
        out.append(f"the sky lies at {level:.1f} σ of a pixel{also}; {remedy}subtract it first")
    elif difference > MAX_DIFFERENCE_SIGMAS:
        out.append(
            f"the sky differs by {difference:.1f} σ of a pixel between parts of the image; {remedy}"
            "subtract it first (photutils.Background2D, SExtractor)"
        )
    of_sky = blocks[blocks[:, 2] - np.median(sky) < MAX_LEVEL_SIGMAS * blocks[:, 3], 4]
    low, high = np.percentile(of_sky, (25, 95)) if len(of_sky) >= FEW_BLOCKS else (1.0, 1.0)
    if high > UNEVEN * low:
        out.append(
            f"the noise differs by a factor {high / low:.1f} between parts of the image, which the weights "
            "ignore; give some (.weight.fits, .rms.fits) that follow it"
        )
    out += line_doubts(plane)
    remedies = {"rms": "name the file .rms.fits", "variance": "name the file .var.fits"}
    return out + weight_doubts(blocks[:, 1], blocks[:, 3], remedies)


def line_doubts(plane: Any) -> list[str]:
    """Warn of bad columns and rows that nothing marks as such; of large images only some rows are inspected.

    They stand out in a quarter of their parts, and at least two: the trails of saturated stars are shorter.
    """
    height, width = plane.shape
    columns, rows = np.zeros(width, int), np.zeros(height, int)
    num_down, starts = 0, range(0, width - MESH // 2, LINE)
    for start, stop in sample_rows(height, 16, 599):
        image, weight = plane.rows(start, stop)
        snr = np.where(weight > 0, (image - plane.noise.level) * np.sqrt(weight), np.nan)
        for first in range(0, stop - start - MESH // 2, LINE):
            columns += odd_columns(snr[first : first + LINE])
            num_down += 1
        for first in starts:
            rows[start:stop] += odd_columns(snr[:, first : first + LINE].T)
    out = []
    for what, counted, parts in (("columns", columns, num_down), ("rows", rows, len(starts))):
        if (odd := counted >= max(parts / 4, 2)).any():
            which = listed((np.flatnonzero(odd) + 1).tolist())
            out.append(
                f"{what} {which} (counted from 1) differ from those beside by more than "
                f"{ODD_SIGMAS} σ of a pixel; if bad, mark them as having no data (NaN, weight 0, a mask)"
            )
    return out


def odd_columns(snr: np.ndarray) -> np.ndarray:
    """Return which columns of ``(H, W)`` stand out, one or two at a time, over half their length, ``(W,)``.

    Sources as narrow as that are shorter, and the light of longer ones spreads over more columns. Pixels
    without data are NaN.
    """
    is_finite = np.isfinite(snr)
    is_known = is_finite.mean(axis=0) > 0.5
    if is_known.sum() < LINE // 8:
        return np.zeros(snr.shape[1], bool)
    median = np.median if is_finite.all() else np.nanmedian  # much faster
    profile = median(snr[:, is_known], axis=0)
    excess, from_far = (np.abs(profile - ndimage.median_filter(profile, side)) for side in (5, 15))
    out = np.zeros(snr.shape[1], bool)
    out[is_known] = (excess > ODD_SIGMAS) & (excess > 0.7 * from_far)
    return out


def weight_doubts(stated: np.ndarray, spread: np.ndarray, remedies: Mapping[str, str]) -> list[str]:
    """Warn of weights that do not follow the noise; see `weight_trend` for the parameters.

    `remedies` gives advice if the weights are ``rms`` or ``variance``.
    """
    trend, power = weight_trend(stated, spread)
    if trend < -0.5:
        kind, role = ("errors", "rms") if power < -1.5 else ("variances", "variance")
        return [f"the noise is largest where the weights are: are they {kind}? {remedies[role]}"]
    if trend > 0.5 and power > 1.6:
        return [
            f"the inverse variance of the pixels scales as the weights to the power {power:.1f}: are they "
            "1/σ, and not 1/σ²? write their squares"
        ]
    return []


def _measured_blocks(plane: Any) -> np.ndarray:
    """Measure up to `MOST_BLOCKS` blocks of 32×32 pixels all over an image.

    Returns ``(N, 5)``: the part of the image that a block lies in (of up to 4×4), its median weight, its
    level, its noise, and that of differences, which sources hardly affect, over what the weight states.
    """
    side, (height, width) = 32, plane.shape
    down, across = (min(length // (2 * side), 4) for length in (height, width))
    blocks: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    for start, stop in sample_rows(height, 16, 599):
        image, weight = plane.rows(start, stop)
        for y in range(0, stop - start - side + 1, side):
            for x in range(0, width - side + 1, side):
                window = np.s_[y : y + side, x : x + side]
                is_valid = weight[window] > 0
                if is_valid.mean() > 0.8:
                    part = down * (start + y) // height * 4 + across * x // width
                    blocks.append((part, image[window], weight[window], is_valid))
    measured = []
    for part, block, block_weight, is_valid in [blocks[i] for i in evenly_spaced(len(blocks), MOST_BLOCKS)]:
        usual = float(np.median(block_weight[is_valid]))
        level, sigma = clipped_statistics(block[is_valid])
        of_differences = clipped_statistics(_differences(block, is_valid))[1]
        if sigma > 0 and of_differences > 0:
            measured.append((part, usual, level, sigma, of_differences * math.sqrt(usual)))
    return np.array(measured).reshape(-1, 5)


def weight_trend(stated: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Compare the `stated` weights of blocks with the inverse of the measured variance, ``(N,)`` each.

    Return the rank correlation, +1 for weights that are large where the noise is small, −1 for the opposite;
    and the exponent with which the inverse variance scales with the weights. Both are NaN if there are too
    few blocks, or the weights hardly vary.
    """
    if len(stated) < 12 or np.percentile(stated, 90) < 1.3 * np.percentile(stated, 10):
        return math.nan, math.nan
    measured = spread**-2
    first, second = (np.argsort(np.argsort(values)) for values in (stated, measured))
    power = np.polyfit(np.log(stated), np.log(measured), 1)[0]
    return float(np.corrcoef(first, second)[0, 1]), float(power)
