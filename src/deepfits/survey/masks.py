"""Masks: the names of their bits, and which pixels are bad.

Shapes: H, W pixels.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepfits.errors import InputError, nearest

# Mask planes whose pixels have no usable flux. DETECTED is not a defect; SAT and CR pixels are interpolated
# in exposures, and interpolated values are not data.
BAD_MASK_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "SUSPECT", "CROSSTALK", "UNMASKEDNAN")
MOSTLY_MASKED = 0.5  # masks that leave less than this fraction of the pixels are reported
# Rubin's names in MSKNnnnn cards, and their equivalents in MP_ cards (lsst.images, DP2).
_RENAMED = {"SATURATED": "SAT", "COSMIC_RAY": "CR", "DETECTION_EDGE": "EDGE", "UNMASKED_NAN": "UNMASKEDNAN"}


class _Pipeline(NamedTuple):
    """Masks of a pipeline: planes by bit, unless cards name them, and those without usable flux.

    The latter are names or bit numbers.
    """

    planes: str
    bad: str

    @property
    def bits(self) -> dict[str, int]:
        return {name: bit for bit, name in enumerate(self.planes.split())}


_WEBB = _Pipeline(
    "DO_NOT_USE SATURATED JUMP_DET DROPOUT OUTLIER PERSISTENCE AD_FLOOR UNDERSAMP UNRELIABLE_ERROR "
    "NON_SCIENCE DEAD HOT WARM LOW_QE RC TELEGRAPH NONLINEAR BAD_REF_PIXEL",
    "DO_NOT_USE",
)
# Exposures of ACS and WFC3. By their data handbooks, pixels that are only warm, and ghosts, are usable.
_HUBBLE = _Pipeline(
    "LOST FILLED BAD_PIXEL MASKED HOT UNSTABLE WARM BIAS FULL_WELL BAD_FLAT TRAP AD_SATURATED COSMIC_RAY "
    "COSMIC_RAY_REJECTED GHOST",
    "0 1 2 3 4 5 7 8 9 10 11 12 13",
)
# BADPIX of despyfits. In coadds the first bit marks what was interpolated (coadd_assemble).
_DES = _Pipeline(
    "BPM SATURATE INTERP BADAMP CRAY STAR TRAIL EDGEBLEED SSXTALK EDGE STREAK SUSPECT FIXED",
    "BPM SATURATE BADAMP CRAY TRAIL EDGEBLEED SSXTALK EDGE STREAK",
)
# De Jong et al. 2015, section 4.4. Halos and spikes of stars are usable: light on top of the sky's.
_KIDS = _Pipeline(
    "READOUT_SPIKE SATURATION_CORE DIFFRACTION_SPIKE HALO HALO_2 HALO_3 BAD_PIXEL MANUAL",
    "READOUT_SPIKE SATURATION_CORE BAD_PIXEL MANUAL",
)
# By a plane that only they have. In coadds of Rubin's and HSC's pipelines CR, CROSSTALK and EDGE are those of
# any exposure, which was left out there or interpolated, and not bad. Of Pan-STARRS, as its own card
# MASK.VALUE says; of SPHEREx all but references, sources and full samples; of IPAC's (PTF, ZTF) all but
# sources, halos and unused bits.
_BY_PLANE = {
    "SENSOR_EDGE": _Pipeline("", "BAD SAT NO_DATA SUSPECT UNMASKEDNAN"),
    "CONV.BAD": _Pipeline("", "DETECTOR FLAT DARK BLANK CTE SAT LOW CR CONV.BAD"),
    "NONFUNC": _Pipeline(
        "",
        "TRANSIENT OVERFLOW SUR_ERROR PHANTOM NONFUNC DICHROIC MISSING_DATA HOT COLD PHANMISS NONLINEAR "
        "PERSIST OUTLIER",
    ),
    "AIRCRAFT/SATELLITE TRACK": _Pipeline("", "0 2 3 4 5 6 7 8 9 10"),
}


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
    image_header: Mapping[str, Any] | None = None,
    option: str = "mask_polarity",
) -> MaskRule:
    """Decide which pixels of a mask are bad.

    In order of precedence, these are the pixels of planes given by the user; of planes that the mask's own
    cards name and that are bad in its pipeline, or usually; those of the polarity given by the user, which is
    the meaning of non-zero pixels, ``"bad"`` or ``"good"``; and those of the bad planes of the pipeline, if
    the cards name none.

    Planes are given by name or by bit number from 0. `where` is the image's file, whose name may tell the
    pipeline, as may its header; messages also use a sample of the mask's pixels, and the name of the option
    that sets the polarity. Raise `InputError` if a given plane does not exist, or the meaning of the mask's
    values is undefined.
    """
    planes = named_planes(header)
    if wrong := [k for k, v in planes.items() if not (isinstance(v, int) and 0 <= v < 63)]:
        raise InputError(f"{where}: MP_{wrong[0]} = {planes[wrong[0]]!r} is not a bit number")
    usual = [name for name in BAD_MASK_PLANES if name in planes]
    pipeline = _pipeline_of(planes, header, image_header or {}, where)
    known = planes or (pipeline.bits if pipeline is not None else {})
    names = [str(name) for name in bad_planes]
    if tuple(bad_planes) != BAD_MASK_PLANES and names:
        known = known or (_WEBB.bits if any(name in _WEBB.bits for name in names) else {})
        return _by_planes(names, known, where, sample)
    if pipeline is not None and (planes or polarity is None):
        return _by_planes(pipeline.bad.split(), known, where)
    if usual:
        return _by_planes(usual, planes, where)
    if polarity is not None:
        return MaskRule(nonzero_is_bad=polarity == "bad", words=f"non-zero mask pixels are {polarity}")
    raise InputError(
        f"{where}: the mask's planes are {', '.join(planes) or 'not named by its cards'}{_bits_set(sample)}; "
        f"name the bad ones (bad_planes), or give the meaning of non-zero pixels: {option} 'bad' or 'good'"
    )


def _pipeline_of(
    planes: Collection[str], header: Mapping[str, Any], image_header: Mapping[str, Any], where: str
) -> _Pipeline | None:
    """Return the pipeline that made a mask, by the names of its planes, else by cards or the file's name."""
    if planes:
        return next((pipeline for plane, pipeline in _BY_PLANE.items() if plane in planes), None)
    telescope = str(image_header.get("TELESCOP", "")).strip().upper()
    name, object_ = Path(where).name, str(image_header.get("OBJECT", ""))
    if "DES_EXT" in header:
        return _DES
    if object_.startswith("KIDS_") or name.startswith("KiDS_"):
        return _KIDS
    if name.startswith("EUC_MER_"):
        return _Pipeline("INVALID", "INVALID")
    if telescope == "HST" and header.get("EXTNAME") == "DQ":
        return _HUBBLE
    return _WEBB if telescope in ("JWST", "ROMAN") else None


def named_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the bits of mask planes by name, from the cards of several pipelines.

    ``MP_name`` has the bit's number. The others name a plane: MSKNnnnn, with its value in MSKMnnnn or else
    the bit nnnn (Rubin's newer files, SPHEREx); MSKNAMnn, with MSKVALnn (Pan-STARRS); MBIT_n, of bit n (the
    Legacy Surveys); and BITnn, of bit nn, in its comment (IPAC).
    """
    planes: dict[str, Any] = {}
    comments = getattr(header, "comments", {})
    for key, stated in header.items():
        if key.startswith("MP_"):
            planes[key[3:]] = stated
        elif match := re.fullmatch(r"(MSKN|MSKNAM|MBIT_|BIT)(\d+)", key):
            kind, number = match.groups()
            own = 1 << int(number)
            values = {"MSKN": header.get(f"MSKM{number}", own), "MSKNAM": header.get(f"MSKVAL{number}")}
            name = str(comments[key] if kind == "BIT" and comments else stated).strip()
            if isinstance(value := values.get(kind, own), int) and value > 0 and value.bit_count() == 1:
                planes |= dict.fromkeys((name, _RENAMED.get(name, name)), value.bit_length() - 1)
    return planes


def _by_planes(
    names: list[str], planes: Mapping[str, int], where: str, sample: np.ndarray | None = None
) -> MaskRule:
    """Return the rule for bad planes.

    For planes given by the user, `sample` has some pixels of the mask; planes set in none are reported.
    """
    found: dict[str, int] = {}
    absent = [name for name in names if name not in planes and not (name.isdigit() and int(name) < 63)]
    for name in [name for name in names if name not in absent]:
        bit = planes[name] if name in planes else int(name)
        plane_name = next((own for own, number in planes.items() if number == bit), None)
        found[name if name in planes else f"{name} ({plane_name})" if plane_name else f"bit {name}"] = bit
    # Masks of different bands may differ in the usual planes, but must have at least one of them.
    if absent and sample is not None and (not found or set(absent) - set(BAD_MASK_PLANES)):
        name = next((plane for plane in absent if plane not in BAD_MASK_PLANES), absent[0])
        raise InputError(f"{where}: no mask plane {name!r}; {nearest(name, planes or ['0', '1', '2'])}")
    words = f"mask planes taken as bad: {', '.join(found) or 'none'}"
    if sample is not None:
        values = whole_numbers(sample)
        unset = [label for label, bit in found.items() if not ((values >> bit) & 1).any()]
        words += f" ({', '.join(unset)} in none of {values.size} pixels inspected)" if unset else ""
    return MaskRule(bits=sum({1 << bit for bit in found.values()}), words=words)


def _bits_set(sample: np.ndarray) -> str:
    """Describe the fraction of pixels in which each bit is set: `` (set: bit 0 in 3%, bit 2 in 30%)``."""
    values = whole_numbers(sample)
    shares = {bit: 100 * float(((values >> bit) & 1).mean()) for bit in range(32)}
    texts = [f"bit {bit} in {share:.3g}%" for bit, share in shares.items() if share]
    return f" (set: {', '.join(texts[:12])})" if texts else ""
