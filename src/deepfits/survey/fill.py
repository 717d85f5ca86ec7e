"""Values that stand for no data where no weight says so: 0, or a value far from all others that repeats.

So does any other that fills blocks, where the counts do not come in steps.

Shapes: H, W pixels; any number of axes before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Such values are in more than this share of the pixels.
FILL_SHARE = 0.005
# Counts come in steps where one value more than that is in more than this share of them.
STEPPED_SHARE = 2e-3
# Values among which one that repeats so often is found.
ENOUGH = 200_000
# By so much of a step dithering moves a zero at most, and rounding a little more.
HALF_STEP = 0.5001
# Where single zeros may be values, blocks of so many pixels a side are none.
BLOCK = 5


@dataclass(kw_only=True)
class Fill:
    """A value that stands for no data.

    Attributes
    ----------
    value
        As it is stored.
    half_step
        Half of the quantisation's step by row of the image, where the value was dithered; None for exact.
    within
        Of a value that quantisation has moved: how far at most.
    in_blocks
        Single pixels may hold the value by chance: only blocks of `BLOCK` pixels a side have no data.
    """

    value: float
    half_step: np.ndarray | None = None
    within: float = 0.0
    in_blocks: bool = False

    def holds(self, counts: np.ndarray, first: int = 0) -> np.ndarray:
        """Return which pixels of some rows, ``(..., H, W)`` from `first` on, have no data."""
        if self.half_step is None:
            is_fill = np.abs(counts - self.value) <= self.within if self.within else counts == self.value
        else:
            reach = self.half_step[first : first + counts.shape[-2], None]
            is_fill = np.abs(counts - self.value) <= reach
        if self.in_blocks and is_fill.any():
            # The image's edge is not a limit of a block.
            half, before = BLOCK // 2, counts.ndim - 2
            padded = np.pad(is_fill, [(0, 0)] * before + [(half, half)] * 2, mode="edge")
            kept = ndimage.binary_opening(padded, np.ones((1,) * before + (BLOCK, BLOCK), bool))
            is_fill = kept[..., half:-half, half:-half]
        return np.asarray(is_fill)


HOLES = Fill(value=0.0, in_blocks=True)
"""Where hardly any value is 0, so that no block of zeros is there by chance."""


def zeros_are_rare(counts: np.ndarray) -> bool:
    """Return whether hardly any value of a sample is exactly 0: elsewhere, blocks of zeros are `HOLES`."""
    return bool((counts == 0).mean() <= FILL_SHARE)


def find_fill(counts: np.ndarray, steps: np.ndarray | None = None, is_dithered: bool = False) -> Fill | None:
    """Find the value that stands for no data; None when there is none.

    Zeros are values where the counts come in steps, as integers and quantised floats do: then those alone
    count that fill blocks. Dithering moves zeros by up to half a step. `counts` are some pixels, NaN where
    something else says that there is no data; `steps` those of the quantisation, by row.
    """
    finite = counts[np.isfinite(counts)]
    if not finite.size:
        return None
    if steps is not None and is_dithered:
        moved = Fill(value=0.0, half_step=HALF_STEP * steps, in_blocks=True)
        if moved.holds(counts).mean() > FILL_SHARE:
            return moved
    zeros = float((finite == 0).mean())
    if steps is None and zeros <= FILL_SHARE and _repeats_little(finite):
        return None
    values, numbers = np.unique(finite[finite != 0] if steps is None else finite[:0], return_counts=True)
    most = float(numbers.max(initial=0))
    zero = None
    if zeros > FILL_SHARE:
        zero = Fill(value=0.0, in_blocks=most > STEPPED_SHARE * finite.size or steps is not None)
        if not zero.in_blocks or zero.holds(counts).mean() > FILL_SHARE:
            return zero
    moved_by = 0.0 if steps is None else 2 * float(np.percentile(steps, 90))
    if (far := _far_value(finite[:: max(finite.size // ENOUGH, 1)], moved_by)) is not None:
        return far
    if zero is not None or steps is not None or not FILL_SHARE * finite.size < most < finite.size:
        return zero
    # A border whose zeros a sky was subtracted from; values cut off at a limit stand alone.
    next_common = np.partition(numbers, -2)[-2] if numbers.size > 1 else 0
    is_stepped = next_common > STEPPED_SHARE * finite.size
    return None if is_stepped else Fill(value=float(values[np.argmax(numbers)]), in_blocks=True)


def _far_value(values: np.ndarray, within: float) -> Fill | None:
    """Find a value far from all others that repeats: -9999, 1e30, what saturated pixels are cut off at.

    Of quantised floats, each tile's steps put it elsewhere, by less than `within`.
    """
    near = values if not within else np.rint(values / within) * within
    different, numbers = np.unique(near, return_counts=True)
    repeated = different[(numbers > FILL_SHARE * values.size) & (different != 0)]
    for value in repeated[[0, -1]].tolist() if repeated.size else ():
        is_it = np.abs(values - value) <= within
        others = values[~is_it].astype(float)
        if not others.size:
            continue
        middle, low, high = np.percentile(others, (50, 5, 95))
        is_far_below = middle - value > 10 * (middle - low) > 0  # 16σ, whatever the sources
        if is_far_below or abs(value - middle) > 20 * (high - low) > 0:
            return Fill(value=float(np.median(values[is_it])) if within else value, within=within)
    return None


def far_below(values: np.ndarray) -> Fill | None:
    """Find a negative value that stands for no data in a single cutout, as its zero point makes it."""
    finite = values[np.isfinite(values)]
    found = None if _repeats_little(finite) else _far_value(finite, 0.0)
    return found if found is not None and found.value < 0 else None


def _repeats_little(values: np.ndarray) -> bool:
    """Return whether no value is in more than `FILL_SHARE`, by 16 of its bits; False where they do not tell.

    Equal values have equal bits, and the last bits of noise are anything: counting is faster than sorting.
    """
    if not values.size or values.itemsize < 4:
        return False
    last = np.ascontiguousarray(values).view(np.uint16)[:: values.itemsize // 2]
    return int(np.bincount(last).max()) <= FILL_SHARE * values.size


def find_fill_beside_weights(
    counts: np.ndarray, weight: np.ndarray, steps: np.ndarray | None = None, is_dithered: bool = False
) -> tuple[Fill | None, float]:
    """Find the value that stands for no data where the weights say that there is some, and its share.

    Zeros count where they fill blocks and are rare elsewhere: in sparse counts of photons they are values.
    Counts and weights are ``(..., H, W)``, `steps` those of a quantisation, by row.
    """
    used = np.where(weight > 0, counts, np.nan)
    fill = find_fill(used, steps, is_dithered)
    if fill is None:
        return None, 0.0
    fill.in_blocks |= fill.value == 0
    marked = fill.holds(counts) & np.isfinite(used)
    single = int((used == fill.value).sum() - marked.sum())
    if not marked.any() or (fill.in_blocks and single > marked.sum()):
        return None, 0.0
    return fill, float(marked.mean())
