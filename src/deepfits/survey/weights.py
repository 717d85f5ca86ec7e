"""Conversion of weights, variances, error maps and masks to inverse variances.

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

# Kinds of weights, in order of preference. "weight" is an inverse variance, possibly up to a factor.
WEIGHT_ROLES = ("ivar", "variance", "rms", "weight", "photon noise")
# Mask planes whose pixels have no usable flux. DETECTED is not a defect; SAT and CR pixels are interpolated
# in coadds, and interpolated values are not data.
BAD_MASK_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "SUSPECT", "CROSSTALK", "UNMASKEDNAN")
# Data-quality bits of the JWST and Roman pipelines, which are not named in their headers.
_JWST_BITS = {
    **{"DO_NOT_USE": 0, "SATURATED": 1, "JUMP_DET": 2, "DROPOUT": 3, "OUTLIER": 4, "PERSISTENCE": 5},
    **{"AD_FLOOR": 6, "UNDERSAMP": 7, "UNRELIABLE_ERROR": 8, "NON_SCIENCE": 9, "DEAD": 10, "HOT": 11},
    **{"WARM": 12, "LOW_QE": 13, "RC": 14, "TELEGRAPH": 15, "NONLINEAR": 16, "BAD_REF_PIXEL": 17},
}
_JWST_BAD = ("DO_NOT_USE",)
# Rubin's names in MSKNnnnn cards, and their equivalents in MP_ cards (lsst.images, DP2).
_RENAMED = {"SATURATED": "SAT", "COSMIC_RAY": "CR", "DETECTION_EDGE": "EDGE", "UNMASKED_NAN": "UNMASKEDNAN"}
# A repeated value that differs from all others by more than this ratio (1000 in noise) is not a weight but
# marks pixels without data. The noise of pixels with data varies by less than 10⁴, the root of LARGEST_RATIO.
SENTINEL_RATIO, LARGEST_RATIO = 1e6, 1e8
SENTINEL_SHARE = 0.001
# Masks that leave less than this fraction of the pixels are reported.
MOSTLY_MASKED = 0.5
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


def credible_range(weight: np.ndarray, expected: float | None = None) -> tuple[float, float]:
    """Return the range of credible weights; values beyond it mark pixels without data.

    Error maps often hold 1e10 or 1e-10 in such pixels. Such a value is repeated, and far from all others.

    Parameters
    ----------
    weight
        Inverse variances of a sample of pixels.
    expected
        Inverse variance of the measured noise, if known. It tells which of two values is that of pixels with
        data; without it the more common one is assumed to be.

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
        if is_data:  # a constant error map
            rest = rest[rest == values[common]]
            break
        rest = others
    middle = float(np.median(rest))
    # If there is such a value, others that are as far away also mark missing data.
    ratio = SENTINEL_RATIO if rest.size < used.size else LARGEST_RATIO
    return middle / ratio, middle * ratio


def usable_range(
    weight: np.ndarray, role: str, expected: float | None = None
) -> tuple[tuple[float, float], list[str]]:
    """Return the `credible_range` of weights of a role, and a remark if any of a sample lie beyond it."""
    low, high = credible_range(weight, expected)
    is_beyond = (weight > 0) & (weight < np.inf) & ~((weight > low) & (weight < high))
    text = f"{is_beyond.mean():.1%} of the pixels have a {role} far beyond all others: treated as no data"
    return (low, high), [text] if is_beyond.any() else []


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Rule for the bad pixels of a mask: any of `bits` is set or, without bits, non-zero (or zero) pixels.

    `words` describes the decision to the user.
    """

    bits: int | None = None
    nonzero_is_bad: bool = True
    words: str = ""

    def is_bad(self, mask: np.ndarray) -> np.ndarray:
        """Return which pixels are bad, bool of the same shape; this includes NaN."""
        if self.bits is None:
            is_bad = np.asarray((mask != 0) == self.nonzero_is_bad)
            return is_bad | ~np.isfinite(mask) if mask.dtype.kind == "f" else is_bad
        return np.asarray((whole_numbers(mask) & self.bits) != 0)


def whole_numbers(mask: np.ndarray) -> np.ndarray:
    """Return a mask as int64; NaN, which marks missing data in float masks, has all bits set."""
    if mask.dtype.kind != "f":
        return mask.astype(np.int64)
    return np.where(np.isfinite(mask), np.nan_to_num(mask), -1).astype(np.int64)


def mask_rule(
    header: Mapping[str, Any],
    sample: np.ndarray,
    *,
    bad_planes: Collection[str | int],
    where: str,
    polarity: str | None = None,
    telescope: str = "",
    option: str = "mask_polarity",
) -> MaskRule:
    """Decide which pixels of a mask are bad.

    In order of precedence, these are the pixels of planes given by the user; of the usual bad planes that the
    mask's own ``MP_`` or ``MSKN`` cards name; those of the polarity given by the user; and those of the bad
    bits of Webb's pipeline.

    Parameters
    ----------
    header
        Header of the mask.
    sample
        Some of its pixels, for messages.
    bad_planes
        Bad planes, by name or by bit number from 0.
    polarity
        Meaning of non-zero pixels, ``"bad"`` or ``"good"``.
    telescope
        Telescope of the image.
    where
        The file, for messages.
    option
        Name of the option that sets the polarity, for messages.

    Raises
    ------
    InputError
        A given plane does not exist, or the meaning of the mask's values is undefined.
    """
    planes = named_planes(header)
    declared = _declared_planes(header)
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
        f"{where}: {which}{_bits_set(sample)}; name the bad ones (bad_planes), or give the meaning of "
        f"non-zero pixels: {option} 'bad' or 'good'"
    )


def named_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the bits of mask planes by name, from ``MP_`` or ``MSKN`` cards."""
    return {str(k)[3:]: v for k, v in header.items() if str(k).startswith("MP_")} or _msk_planes(header)


def _bit_of(value: object) -> int | None:
    """Return the number of the only bit that is set; None for anything else."""
    if isinstance(value, int) and value > 0 and value & (value - 1) == 0:
        return value.bit_length() - 1
    return None


def _declared_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the bits of mask planes by name, from cards of Pan-STARRS and the Legacy Surveys.

    These are MSKNAMnn with MSKVALnn, and MBIT_n with the number of the bit.
    """
    planes = {}
    for key, name in header.items():
        if match := re.fullmatch(r"MBIT_(\d{1,2})", str(key)):
            planes[str(name).strip()] = int(match[1])
        value = header.get(str(key).replace("MSKNAM", "MSKVAL")) if str(key).startswith("MSKNAM") else None
        if (bit := _bit_of(value)) is not None:
            planes[str(name).strip()] = bit
    return planes


def _msk_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the bits of mask planes by name, from the MSKNnnnn cards of Rubin's newer files and SPHEREx.

    The value is given by MSKMnnnn; without that card, nnnn is the bit.
    """
    planes: dict[str, int] = {}
    for key, name in header.items():
        if match := re.fullmatch(r"MSKN(\d{4})", str(key)):
            own, bit = str(name).strip(), _bit_of(header.get(f"MSKM{match[1]}", 1 << int(match[1])))
            if bit is not None:
                planes |= {own: bit, _RENAMED.get(own, own): bit}
    return planes


def _by_planes(
    names: list[str], planes: Mapping[str, int], where: str, sample: np.ndarray | None = None
) -> MaskRule:
    """Return the rule for bad planes.

    For planes given by the user, `sample` has some pixels of the mask; planes set in none are reported.
    """
    bits, labels, absent = 0, [], []
    for name in names:
        if name.isdigit() and int(name) < 63:
            bits |= 1 << int(name)
            labels.append(next((f"{name} ({k})" for k, v in planes.items() if v == int(name)), f"bit {name}"))
        elif name in planes:
            bits |= 1 << planes[name]
            labels.append(name)
        else:
            absent.append(name)
    # Masks of different bands may differ in the usual planes, but must have at least one of them.
    if absent and sample is not None and (not labels or set(absent) - set(BAD_MASK_PLANES)):
        name = next((plane for plane in absent if plane not in BAD_MASK_PLANES), absent[0])
        raise InputError(f"{where}: no mask plane {name!r}; {nearest(name, planes or ['0', '1', '2'])}")
    words = f"mask planes taken as bad: {', '.join(labels) or 'none'}"
    if sample is not None:
        values = whole_numbers(sample)
        bit_of = [int(name) if name.isdigit() else planes[name] for name in names if name not in absent]
        unset = [label for label, bit in zip(labels, bit_of, strict=True) if not ((values >> bit) & 1).any()]
        words += f" ({', '.join(unset)} in none of {values.size} pixels inspected)" if unset else ""
    return MaskRule(bits=bits, words=words)


def _bits_set(sample: np.ndarray) -> str:
    """Describe the fraction of pixels in which each bit is set: `` (set: bit 0 in 3%, bit 2 in 30%)``."""
    values = whole_numbers(sample)
    fractions = [(bit, float(((values >> bit) & 1).mean())) for bit in range(32)]
    texts = [
        f"bit {bit} in {fraction:.2g}" if fraction < 0.001 else f"bit {bit} in {fraction:.1%}"
        for bit, fraction in fractions
        if fraction
    ]
    return f" (set: {', '.join(texts[:12])})" if texts else ""
