"""Conversion of weights, variances and error maps to inverse variances.

Shapes: H, W pixels.
"""

import math

import numpy as np

# Kinds of weights, in order of preference. "weight" is an inverse variance, possibly up to a factor.
WEIGHT_ROLES = ("ivar", "variance", "rms", "weight", "photon noise")
# A repeated value that differs from all others by more than this ratio (1000 in noise) is not a weight but
# marks pixels without data. The noise of pixels with data varies by less than 10⁴, the root of LARGEST_RATIO.
SENTINEL_RATIO, LARGEST_RATIO = 1e6, 1e8
SENTINEL_SHARE = 0.001
_SMALLEST, _LARGEST = 1e-30, 1e30


def inverse_variance(values: np.ndarray, role: str, per_square: float | np.ndarray = 1.0) -> np.ndarray:
    """Convert a plane of weights, as stored, to inverse variances, float32 of the same shape.

    The role is one of `WEIGHT_ROLES`; photon noise is stored as a variance. The result is multiplied by
    `per_square`, counts² per nJy², a number or an array that broadcasts. It is not positive or not finite
    where there is no data.

    Examples
    --------
    >>> inverse_variance(np.array([2.0, -2.0, 0.0]), "rms").tolist()
    [0.25, -0.25, inf]
    """
    is_usual = np.all((np.asarray(per_square) > _SMALLEST) & (np.asarray(per_square) < _LARGEST))
    is_wide = values.dtype.itemsize > 4 or not is_usual
    weight = values.astype(np.float64 if is_wide else np.float32)
    with np.errstate(all="ignore"):
        if role == "rms":
            np.multiply(weight, np.abs(weight), out=weight)
        if role in ("variance", "rms", "photon noise"):
            np.divide(1, weight, out=weight)
        if np.any(np.asarray(per_square) != 1):
            np.multiply(weight, np.asarray(per_square, weight.dtype), out=weight)
        return weight.astype(np.float32, copy=False)


def usable_range(
    weight: np.ndarray, role: str, expected: float | None = None
) -> tuple[tuple[float, float], list[str]]:
    """Return the range of credible weights of a role; values beyond it mark pixels without data.

    Error maps often hold 1e10 or 1e-10 in such pixels. Such a value is repeated, and far from all others. The
    inverse variance `expected` by the measured noise tells which of two values is that of pixels with data;
    without it the more common one is assumed to be. Also return a remark if any of the sample lie beyond.

    Examples
    --------
    >>> (low, high), remarks = usable_range(np.array([1.0, 2.0, 1.5, *[1e-20] * 9]), "ivar")
    >>> 1e-20 < low < 1.0 < high < np.inf, remarks
    (True, ['75.0% of the pixels have a ivar far beyond all others: treated as no data'])
    """
    used = weight[(weight > 0) & (weight < np.inf)]
    if not used.size:
        return (0.0, np.inf), []
    rest = used
    while rest.size:
        values, counts = np.unique(rest, return_counts=True)
        common = int(np.argmax(counts))
        others = rest[rest != values[common]]
        if not others.size or counts[common] < max(SENTINEL_SHARE * used.size, 2):
            break
        value, other = float(values[common]), float(np.median(others))
        if 1 / SENTINEL_RATIO < value / other < SENTINEL_RATIO:
            break
        is_data = len(values) == 2
        if expected is not None:
            is_data = abs(math.log(value / expected)) < abs(math.log(other / expected))
        if is_data:  # a constant error map
            rest = rest[rest == values[common]]
            break
        rest = others
    middle = float(np.median(rest))
    # If there is such a value, others that are as far away also mark missing data.
    ratio = SENTINEL_RATIO if rest.size < used.size else LARGEST_RATIO
    is_beyond = ~((used > middle / ratio) & (used < middle * ratio))
    share = f"{is_beyond.sum() / weight.size:.1%} of the pixels have a {role} far beyond all others"
    return (middle / ratio, middle * ratio), [f"{share}: treated as no data"] if is_beyond.any() else []
