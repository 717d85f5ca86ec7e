"""Values that mark pixels without data that weights do not flag: 0, or repeated values far from all others.

Far below all others a few pixels suffice, since no noise repeats a value there. Any other value that fills
whole blocks counts too, unless the counts are quantised. An image may have several, such as 0 beyond its edge
and -9999 in bad pixels.

Shapes: H, W pixels; any number of axes before them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

FILL_SHARE = 0.005  # minimum fraction of the pixels that hold a fill value
# Counts are quantised if more than this fraction of them share a value other than the fill value.
STEPPED_SHARE = 2e-3
ENOUGH = 200_000  # sample size that suffices to find such frequent values
HALF_STEP = 0.5001  # largest shift of a zero by dithering, in quantisation steps, with a margin for rounding
# Minimum number of pixels with a fill value far below all others, and minimum fraction of such pixels.
FEWEST, FEWEST_SHARE = 5, 0.2
BLOCK = 5  # side of the smallest blocks without data, pixels, where single zeros may be real values
# Share of zeros, of dithered counts those within half a step, up to which no block of them arises by chance.
MOST_NEAR_ZERO = 0.3
# Share of zeros midway between pixels with light, `APART` pixels from each, above which zeros are values even
# if all others are far from 0: dead pixels are fewer.
SPARSE, APART = 0.05, 10
# Value of a quadratic surface at a pixel by its eight neighbours.
_QUADRATIC = np.array([[-1, 2, -1], [2, 0, 2], [-1, 2, -1]], np.float32) / 4


@dataclass(kw_only=True)
class Fill:
    """A value that marks pixels without data, `in_blocks` only where single pixels may hold it by chance."""

    value: float  # as stored
    half_step: np.ndarray | None = None  # half the quantisation step of each row, if it was dithered
    within: float = 0.0  # largest deviation from it, if quantisation changed it
    in_blocks: bool = False
    block: int = BLOCK  # side of a block, odd

    @property
    def margin(self) -> int:
        """Number of rows before and after a strip that decide which of its pixels have no data."""
        return self.block - 1 if self.in_blocks else 0

    def holds(self, counts: np.ndarray, first: int = 0) -> np.ndarray:
        """Return which pixels of rows ``(..., H, W)``, starting at row `first` of the image, have no data."""
        if self.half_step is None:
            is_fill = np.abs(counts - self.value) <= self.within if self.within else counts == self.value
        else:
            reach = self.half_step[first : first + counts.shape[-2], None]
            is_fill = np.abs(counts - self.value) <= reach
        if self.in_blocks and is_fill.any():
            # Pad, so that blocks at the image's edge may continue beyond it.
            half, before = self.block // 2, counts.ndim - 2
            padded = np.pad(is_fill, [(0, 0)] * before + [(half, half)] * 2, mode="edge")
            size = (1,) * before + (self.block, self.block)
            inner = ndimage.minimum_filter(padded.view(np.uint8), size, mode="constant")
            kept = ndimage.maximum_filter(inner, size, mode="constant").view(bool)
            is_fill = kept[..., half:-half, half:-half]
        return np.asarray(is_fill)


HOLES = Fill(value=0.0, in_blocks=True)
"""Blocks of zeros, in images with so few zeros that no block arises by chance."""

ZEROS = Fill(value=0.0)  # single zeros, in images whose values are so fine that none is 0 by chance


def without_data(fills: Sequence[Fill], counts: np.ndarray, first: int = 0) -> np.ndarray:
    """Return which pixels hold any of these values, one at least; see `Fill.holds`."""
    return np.asarray(np.logical_or.reduce([fill.holds(counts, first) for fill in fills]))


def _are_continuous(counts: np.ndarray) -> bool:
    """Return whether most values of a sample do not repeat, and some are negative: not photon counts."""
    values = counts[np.isfinite(counts) & (counts != 0)][:ENOUGH]
    return bool(values.size and values.min() < 0 and len(np.unique(values)) > 0.5 * values.size)


def find_fill(counts: np.ndarray, steps: np.ndarray | None, dithered: Fill | None) -> list[Fill]:
    """Find the values that mark pixels without data.

    Among quantised counts (integers or compressed floats) a zero may be a real value, so there only zeros
    that fill blocks count; dithering moves these by up to half a step (`dithered`, if the counts are). The
    sample of pixels, ``(..., H, W)``, is NaN where they are known to have no data; `steps` are the
    quantisation steps of its rows, None for values that are not compressed.
    """
    is_known = np.isfinite(counts)
    number, zeros = int(is_known.sum()), int((counts == 0).sum())
    known = counts[is_known]
    is_plain = steps is None and zeros <= FILL_SHARE * number and _repeats_little(known)
    if is_plain and not (known < _floor(known)).any():
        return []
    tolerance = 0.0 if steps is None else 2 * float(np.percentile(steps, 90))
    is_zero = dithered.holds(counts) if dithered is not None else counts == 0
    others = counts[is_known & ~is_zero]
    if steps is None and zeros > FILL_SHARE * number and (block := _empty_block(counts, others)):
        return [Fill(value=0.0, in_blocks=True, block=block)]
    far: list[Fill] = []
    if steps is None and zeros and _floor(others) > 0:  # below a sky that was not subtracted
        far.append(Fill(value=0.0))
    while found := _far_value(others, tolerance, FILL_SHARE * number) or _low_value(others, tolerance):
        others = others[np.abs(others - found.value) > found.within]
        far.insert(0, found)
    first = dithered
    if dithered is None or is_zero.sum() <= FILL_SHARE * number:
        first = _find_near(counts, zeros, number, others if steps is None else None)
    if first is None or (far and first.in_blocks and first.holds(counts).sum() <= FILL_SHARE * number):
        return far
    return [first, *far]


def _empty_block(counts: np.ndarray, others: np.ndarray) -> int | None:
    """Return the side of blocks of zeros that do not arise by chance among photon counts.

    None for other images. In photon counts, as in GALEX's images, no value is negative, and zeros lie among
    the others, or are frequent midway between pixels with light.
    """
    if not others.size or others.min() < 0:
        return None
    left, middle, right = counts[..., : -2 * APART], counts[..., APART:-APART], counts[..., 2 * APART :]
    between = middle[(left > 0) & (right > 0)]
    empty = float((between == 0).mean()) if between.size else 0.0
    if not 0 < empty < 1 or (_floor(others) > 0 and empty < SPARSE):
        return None
    # Some of the light is that of sources, beside which zeros are more common: hence three times the number.
    pixels = 3 * math.log(counts.size) / -math.log(empty)
    return max(BLOCK + 2, 2 * (math.ceil(math.sqrt(pixels)) // 2) + 1)


def _find_near(counts: np.ndarray, zeros: int, number: int, others: np.ndarray | None) -> Fill | None:
    """Find a value not far from all others that marks pixels without data: 0, or one that fills blocks.

    Of a `number` of pixels some are zeros, and `others` neither 0 nor far from all others; the latter are
    None if values are quantised.
    """
    values, numbers = np.unique(counts[:0] if others is None else others, return_counts=True)
    max_count = int(numbers.max(initial=0))
    if zeros > FILL_SHARE * number:
        # Single zeros are values if other values are as common, as among integers.
        return Fill(value=0.0, in_blocks=max_count > STEPPED_SHARE * number or others is None)
    if not FILL_SHARE * number < max_count < number:
        return None
    # For example a border of zeros after sky subtraction. Saturated pixels do not form blocks.
    next_common = np.partition(numbers, -2)[-2] if numbers.size > 1 else 0
    is_stepped = next_common > STEPPED_SHARE * number
    return None if is_stepped else Fill(value=float(values[np.argmax(numbers)]), in_blocks=True)


def _far_value(values: np.ndarray, within: float, least: float) -> Fill | None:
    """Find a value, of more than `least` pixels, far from all others: -9999, 1e30, or that of saturation.

    In quantised floats it differs between tiles by less than `within`, because their steps differ.
    """
    every = max(values.size // ENOUGH, 1)
    values = values[::every]
    distinct, numbers = _count(values, within)
    repeated = distinct[(numbers > least / every) & (distinct != 0)]
    for value in repeated[[0, -1]].tolist() if repeated.size else ():
        is_fill = np.abs(values - value) <= within
        others = values[~is_fill].astype(float)
        if not others.size:
            continue
        middle, low, high = np.percentile(others, (50, 5, 95))
        is_far_below = middle - value > 10 * (middle - low) > 0  # 16σ, independent of sources
        if is_far_below or abs(value - middle) > 20 * (high - low) > 0:
            return Fill(value=float(np.median(values[is_fill])) if within else value, within=within)
    return None


def _count(values: np.ndarray, within: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values and their numbers; those that differ by less than `within` are one."""
    rounded = values if not within else np.rint(values / within) * within
    return np.unique(rounded, return_counts=True)


def _floor(values: np.ndarray) -> float:
    """Return the value 16σ below the median, which noise does not reach; -inf for constant values."""
    if not values.size:
        return -np.inf
    middle, low = (float(v) for v in np.percentile(values[:: max(values.size // ENOUGH, 1)], (50, 5)))
    return middle - 10 * (middle - low) if middle > low else -np.inf


def _low_value(values: np.ndarray, within: float) -> Fill | None:
    """Find a value far below all others that repeats, however few pixels hold it: dead ones, or -9999."""
    low = values[values < _floor(values)]
    if low.size < FEWEST:
        return None
    distinct, numbers = _count(low, within)
    if numbers.max() < max(FEWEST, FEWEST_SHARE * low.size):
        return None
    value = float(distinct[np.argmax(numbers)])
    if within:
        value = float(np.median(low[np.abs(low - value) <= within]))
    return Fill(value=value, within=within)


def far_below(values: np.ndarray) -> Fill | None:
    """Find a negative value that stands for no data in a single cutout, as its zero point makes it."""
    finite = values[np.isfinite(values)]
    found = None if _repeats_little(finite) else _far_value(finite, 0.0, FILL_SHARE * finite.size)
    return found if found is not None and found.value < 0 else None


def _repeats_little(values: np.ndarray) -> bool:
    """Return whether no value fills more than `FILL_SHARE`, judged by 16 of its bits; False if undecided.

    Equal values have equal bits, while the last bits of noise are random. Counting is faster than sorting.
    """
    if not values.size or values.itemsize < 4:
        return False
    last = np.ascontiguousarray(values).view(np.uint16)[:: values.itemsize // 2]
    return int(np.bincount(last).max()) <= FILL_SHARE * values.size


def find_marks(
    counts: np.ndarray,
    weight: np.ndarray | None = None,
    steps: np.ndarray | None = None,
    is_dithered: bool = False,
) -> tuple[list[Fill], list[str]]:
    """Find the values that mark pixels without data in a sample of an image, ``(..., H, W)``.

    Beside weights, only pixels of positive weight matter, and zeros count only if they fill blocks and are
    rare elsewhere, since in sparse photon counts they are real values. See `find_fill` for the other
    parameters. The values include `HOLES`, dithered or not, or `ZEROS` if zeros are rare; remarks on them are
    returned, too.
    """
    used = counts if weight is None else np.where(weight > 0, counts, np.nan)
    dithered = None
    if steps is not None and is_dithered:
        dithered = Fill(value=0.0, half_step=HALF_STEP * steps, in_blocks=True)
    fills, remarks = find_fill(used, steps, dithered), []
    if fills and (weight is not None or steps is None):
        first = fills[0]
        if weight is not None and first.value == 0:
            first.in_blocks |= not _floor(used[np.isfinite(used) & (used != 0)]) > 0
        marked = int(first.holds(used).sum())
        single = int((used == first.value).sum()) - marked
        if weight is not None:
            fills = fills[1:] if not marked or (first.in_blocks and single > marked) else fills
        else:
            common = np.unique(counts[counts != 0], return_counts=True)[1]
            if first.block > BLOCK:
                remarks.append(
                    "no negative values, and zeros among the others: photon counts, where a zero is a value "
                    f"unless it is in a block of {first.block} pixels a side"
                )
            elif first.value == 0 and single > 0.01 * counts.size + 1.5 * max(common, default=0):
                remarks.append(
                    f"WARNING: {single / counts.size:.0%} of the pixels are exactly 0, more than rounding of "
                    "the counts explains; if they have no data, give a weight or a mask"
                )
    share = float(without_data(fills, used).mean()) if fills else 0.0
    if share:
        words = (f"{fill.value:g}" + ", in blocks" * fill.in_blocks for fill in fills)
        part = f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"
        remarks.append(f"{part} of the pixels are exactly {', or '.join(words)}: treated as no data")
    rare = dithered or (ZEROS if _are_continuous(counts) else HOLES)
    zeros = replace(rare, in_blocks=False).holds(counts).mean()
    is_rare = zeros <= (FILL_SHARE if dithered is None else MOST_NEAR_ZERO)  # zeros elsewhere must be holes
    marks = fills if share else []
    return [*marks, *([rare] if is_rare and all(fill is not rare for fill in marks) else [])], remarks


def bridged(values: np.ndarray, is_bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate pixels without data by the pixels around them; return which of them are single ones.

    The estimate of these is exact for quadratic surfaces, that of others the mean; pixels with no data around
    them keep their values.
    """
    if not is_bad.any():
        return values, is_bad
    y, x = np.nonzero(is_bad & _is_around(~is_bad))
    number, total, quadratic = np.zeros(len(y), int), *np.zeros((2, len(y)), values.dtype)
    for index, factor in np.ndenumerate(_QUADRATIC):
        place = tuple(
            np.clip(at + offset - 1, 0, side - 1)
            for at, offset, side in zip((y, x), index, values.shape, strict=True)
        )
        value = np.where(is_bad[place], 0, values[place])
        number += ~is_bad[place]
        total += value
        quadratic += factor * value
    is_single = np.zeros_like(is_bad)
    is_single[y, x] = number == 8
    estimate = values.copy()
    estimate[y, x] = np.where(number == 8, quadratic, total / number)
    return estimate, is_single


def _is_around(mask: np.ndarray) -> np.ndarray:
    """Return the pixels that are in the mask, ``(H, W)`` bool, or touch one that is."""
    rows = mask.copy()
    rows[1:] |= mask[:-1]
    rows[:-1] |= mask[1:]
    out = rows.copy()
    out[:, 1:] |= rows[:, :-1]
    out[:, :-1] |= rows[:, 1:]
    return out
