"""From weights, variances, error maps and masks to inverse variances: the one place that knows their kinds.

Shapes: H, W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepfits.errors import InputError, nearest

# The first of these that there is says the weights. "weight" is an inverse variance, maybe up to a factor.
WEIGHT_ROLES = ("ivar", "variance", "rms", "weight", "photon noise")
# Mask planes whose pixels have no usable flux. DETECTED is not a defect; SAT and CR pixels are interpolated
# in the coadds, and what was interpolated is not data.
BAD_MASK_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "SUSPECT", "CROSSTALK", "UNMASKEDNAN")
# Bits of the data quality of Webb's and Roman's pipelines, which their headers do not name.
_JWST_BITS = {
    **{"DO_NOT_USE": 0, "SATURATED": 1, "JUMP_DET": 2, "DROPOUT": 3, "OUTLIER": 4, "PERSISTENCE": 5},
    **{"AD_FLOOR": 6, "UNDERSAMP": 7, "UNRELIABLE_ERROR": 8, "NON_SCIENCE": 9, "DEAD": 10, "HOT": 11},
    **{"WARM": 12, "LOW_QE": 13, "RC": 14, "TELEGRAPH": 15, "NONLINEAR": 16, "BAD_REF_PIXEL": 17},
}
_JWST_BAD = ("DO_NOT_USE",)
# Rubin's names in cards MSKNnnnn, and what they are in MP_ cards (lsst.images, DP2).
_RENAMED = {"SATURATED": "SAT", "COSMIC_RAY": "CR", "DETECTION_EDGE": "EDGE", "UNMASKED_NAN": "UNMASKEDNAN"}
# A value that repeats and lies so far from all others is no weight but a sign for "no data": noise of a
# thousand times that of the others. The noise of single pixels that have data differs by less than 10⁴.
SENTINEL_RATIO, LARGEST_RATIO = 1e6, 1e8
SENTINEL_SHARE = 0.001
# A mask that leaves less than this is said to the user.
MOSTLY_MASKED = 0.5
_SMALLEST, _LARGEST = 1e-30, 1e30


def inverse_variance(values: np.ndarray, role: str, per_square: float | np.ndarray = 1.0) -> np.ndarray:
    """Convert a plane of weights, as they are stored, to inverse variances, float32 of the same shape.

    The role is one of `WEIGHT_ROLES`; photon noise comes as a variance. The result is multiplied with
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


def credible_range(weight: np.ndarray, expected: float | None = None) -> tuple[float, float]:
    """Return the limits beyond which a weight is no weight but a sign for pixels without data.

    Error maps often hold 1e10 or 1e-10 there. Such a value stands in many pixels, and far from all others.
    `weight` are inverse variances of a sample of pixels, `expected` that of the measured noise, where it is
    known: it tells which of two values is the one of pixels with data; else the commoner one is.

    Examples
    --------
    >>> low, high = credible_range(np.array([1.0, 2.0, 1.5, *[1e-20] * 9]))
    >>> 1e-20 < low < 1.0 < high < np.inf
    True
    """
    used = weight[(weight > 0) & (weight < np.inf)]
    if not used.size:
        return 0.0, np.inf
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
        if expected is not None:
            is_data = abs(math.log(value / expected)) < abs(math.log(other / expected))
        else:
            is_data = len(values) == 2
        if is_data:  # of an error map that is the same everywhere
            rest = rest[rest == values[common]]
            break
        rest = others
    middle = float(np.median(rest))
    # Where there is such a value, what lies as far away is one too.
    ratio = SENTINEL_RATIO if rest.size < used.size else LARGEST_RATIO
    return middle / ratio, middle * ratio


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Which pixels of a mask are bad: those with any of some bits, or, without bits, non-zero ones or zeros.

    The words say what was decided.
    """

    bits: int | None = None
    nonzero_is_bad: bool = True
    words: str = ""

    def is_bad(self, mask: np.ndarray) -> np.ndarray:
        """Return which pixels are bad, bool of the same shape; those that are no number are."""
        if self.bits is None:
            is_bad = np.asarray((mask != 0) == self.nonzero_is_bad)
            return is_bad | ~np.isfinite(mask) if mask.dtype.kind == "f" else is_bad
        return np.asarray((whole_numbers(mask) & self.bits) != 0)


def whole_numbers(mask: np.ndarray) -> np.ndarray:
    """Return a mask as int64; NaN, which masks in floats have for no data, has every bit."""
    if mask.dtype.kind != "f":
        return mask.astype(np.int64)
    return np.where(np.isfinite(mask), np.nan_to_num(mask), -1).astype(np.int64)


def mask_rule(
    header: Mapping[str, Any],
    sample: np.ndarray,
    *,
    bad_planes: Collection[str | int] = BAD_MASK_PLANES,
    polarity: str | None = None,
    telescope: str = "",
    where: str = "",
    option: str = "mask_polarity",
) -> MaskRule:
    """Decide which pixels of a mask are bad.

    Planes that the user names, by the mask's own ``MP_`` or ``MSKN`` cards or by number from 0, come first;
    then the usual bad ones of these; then what the user says of non-zero pixels, ``"bad"`` or ``"good"``;
    then the bits of Webb's pipeline. The header is the mask's, the telescope that of the image. Errors show
    some of its pixels, `sample`, and name the file, `where`, and the option that says the polarity.

    Raises
    ------
    InputError
        A plane that the mask has not, or nothing that tells what its values mean.
    """
    planes = named_planes(header)
    declared = _pan_starrs_planes(header)
    if wrong := [k for k, v in planes.items() if not (isinstance(v, int) and 0 <= v < 63)]:
        raise InputError(f"{where}: MP_{wrong[0]} = {planes[wrong[0]]!r} is not a bit number")
    has_own_names = any(name in planes for name in BAD_MASK_PLANES)
    is_webb = str(telescope).strip().upper() in ("JWST", "ROMAN")
    if not planes:
        planes = dict(_JWST_BITS) if is_webb else declared
    names = [str(name) for name in bad_planes]
    if tuple(bad_planes) != BAD_MASK_PLANES and names:
        known = planes or (_JWST_BITS if any(name in _JWST_BITS for name in names) else {})
        return _by_planes(names, known, where, sample)
    if has_own_names:
        return _by_planes([n for n in BAD_MASK_PLANES if n in planes], planes, where)
    if polarity is not None:
        return MaskRule(nonzero_is_bad=polarity == "bad", words=f"non-zero mask pixels are {polarity}")
    if is_webb:
        return _by_planes(list(_JWST_BAD), planes, where)
    which = (
        f"the mask's planes are {', '.join(planes)}"
        if planes
        else "the mask has no cards that name its planes"
    )
    raise InputError(
        f"{where}: {which}{_bits_set(sample)}; name the bad ones (bad_planes), or say what "
        f"non-zero means: {option} 'bad' or 'good'"
    )


def named_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the planes of a mask that cards ``MP_`` or ``MSKN`` name, with their bits."""
    return {str(k)[3:]: v for k, v in header.items() if str(k).startswith("MP_")} or _msk_planes(header)


def _pan_starrs_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the planes that Pan-STARRS names in cards MSKNAMnn and MSKVALnn, of one bit each."""
    found = {}
    for key, name in header.items():
        value = header.get(str(key).replace("MSKNAM", "MSKVAL")) if str(key).startswith("MSKNAM") else None
        if isinstance(value, int) and value > 0 and value & (value - 1) == 0:
            found[str(name).strip()] = value.bit_length() - 1
    return found


def _msk_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the planes that Rubin's newer files and SPHEREx's name in cards MSKNnnnn.

    The value is in MSKMnnnn; where that lacks, nnnn is the bit.
    """
    found: dict[str, int] = {}
    for key, name in header.items():
        if match := re.fullmatch(r"MSKN(\d{4})", str(key)):
            value = header.get(f"MSKM{match[1]}", 1 << int(match[1]))
            if isinstance(value, int) and value > 0 and value & (value - 1) == 0:
                bit, own = value.bit_length() - 1, str(name).strip()
                found |= {own: bit, _RENAMED.get(own, own): bit}
    return found


def _by_planes(
    names: list[str], planes: Mapping[str, int], where: str, asked_for: np.ndarray | None = None
) -> MaskRule:
    """Take planes as bad; of those that the user names, say which mark none of some pixels."""
    bits, said, absent = 0, [], []
    for name in names:
        if name.isdigit() and int(name) < 63:
            bits |= 1 << int(name)
            said.append(next((f"{name} ({k})" for k, v in planes.items() if v == int(name)), f"bit {name}"))
        elif name in planes:
            bits |= 1 << planes[name]
            said.append(name)
        else:
            absent.append(name)
    # Masks of several bands may differ in the usual planes; one at least must be there.
    if absent and asked_for is not None and (not said or set(absent) - set(BAD_MASK_PLANES)):
        name = next((plane for plane in absent if plane not in BAD_MASK_PLANES), absent[0])
        raise InputError(f"{where}: no mask plane {name!r}; {nearest(name, planes or ['0', '1', '2'])}")
    words = f"mask planes taken as bad: {', '.join(said) or 'none'}"
    if asked_for is not None:
        values = whole_numbers(asked_for)
        bit_of = [int(name) if name.isdigit() else planes[name] for name in names if name not in absent]
        unset = [name for name, bit in zip(said, bit_of, strict=True) if not ((values >> bit) & 1).any()]
        words += f" ({', '.join(unset)} in none of {values.size} pixels looked at)" if unset else ""
    return MaskRule(bits=bits, words=words)


def _bits_set(sample: np.ndarray) -> str:
    """Return which bits are set in how many pixels: `` (set: bit 0 in 3%, bit 2 in 30%)``."""
    values = whole_numbers(sample)
    shares = [(bit, float(((values >> bit) & 1).mean())) for bit in range(32)]
    said = [
        f"bit {bit} in {share:.2g}" if share < 0.001 else f"bit {bit} in {share:.1%}"
        for bit, share in shares
        if share
    ]
    return f" (set: {', '.join(said[:12])})" if said else ""
