"""AB zero points: how many nJy one count of an image is.

flux_njy = counts · 10^{(31.4 − zero point)/2.5}. The zero point comes from what the user gives, else from the
unit (``BUNIT``), else from the header's zero point cards; never from a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deepfits.errors import InputError

HSC_COADD_ZERO_POINT = 27.0
_ZERO_POINT_KEYS = (
    *("MAGZERO", "MAGZPT", "MAGZP", "MAG_ZP", "MAG_ZERO", "PHOTZP", "PHOT_ZP", "ZEROPNT", "ZEROPOIN"),
    *("ZP_AB", "ABZP", "ZPT", "ZP", "SEXMGZPT", "PHOTZPT", "MAGZEROP", "ZEROPT", "ZEROPOINT", "ZPAB"),
    *("AB_ZP", "ABZERO", "PHOTZERO", "MAG0"),
)
_UNITS = {
    "nanomaggy": 22.5, "nanomaggies": 22.5, "nmgy": 22.5, "nmaggies": 22.5, "nanomaggys": 22.5,
    "maggy": 0.0, "maggies": 0.0, "mgy": 0.0,
    "njy": 31.4, "ujy": 23.9, "microjy": 23.9, "µjy": 23.9, "mjy": 16.4, "jy": 8.9,
}  # fmt: skip
_TOTAL_COUNTS = ("electrons", "electron", "counts", "count", "dn", "adu", "e-")
_VEGA = ("VISTA", "UKIRT", "2MASS", "WISE", "VIRCAM", "WFCAM")
PLAUSIBLE = (-2.5, 45.0)


def zero_point_of_header(header: Mapping[str, Any]) -> tuple[float, str] | None:
    """Find the AB zero point in a header.

    Returns
    -------
    tuple or None
        The zero point and the words that say where it came from; None when the header has none.

    Raises
    ------
    InputError
        A zero point card holds no plausible number.
    """
    unit = str(header.get("BUNIT", "")).strip()
    if (value := _of_unit(unit, header)) is not None:
        return _number(value, f"unit {unit}"), f"unit {unit}"
    for key in _ZERO_POINT_KEYS:
        if key in header:
            return _number(header[key], key), key
    if "FLUXMAG0" in header:
        value = _positive(header["FLUXMAG0"], "FLUXMAG0")
        return _number(2.5 * math.log10(value), "FLUXMAG0"), "FLUXMAG0"
    if "PHOTFLAM" in header and "PHOTPLAM" in header:
        flam, pivot = _positive(header["PHOTFLAM"], "PHOTFLAM"), _positive(header["PHOTPLAM"], "PHOTPLAM")
        value = -2.5 * math.log10(flam) - 5 * math.log10(pivot) - 2.408
        words = "PHOTFLAM and PHOTPLAM"
        if unit.lower() in _TOTAL_COUNTS and "EXPTIME" in header:
            value += 2.5 * math.log10(
                _positive(header["EXPTIME"], "EXPTIME")
            )  # PHOTFLAM is for counts a second
            words += f", of counts in EXPTIME {header['EXPTIME']} s"
        return _number(value, "PHOTFLAM"), words
    if "FPA.ZP" in header and "EXPTIME" in header:  # Pan-STARRS: for counts a second
        exposure = _positive(header["EXPTIME"], "EXPTIME")
        value = _number(header["FPA.ZP"], "FPA.ZP") + 2.5 * math.log10(exposure)
        return value, f"FPA.ZP and EXPTIME {exposure:g} s"
    return None


def is_vega(header: Mapping[str, Any]) -> bool:
    """Say whether a file comes from a survey whose zero points are in Vega magnitudes as a rule."""
    says_ab = any("AB" in str(header.get(key, "")).upper() for key in ("PHOTSYS", "MAGSYS", "ZPSYS"))
    origin = " ".join(
        str(header.get(key, "")) for key in ("TELESCOP", "INSTRUME", "ORIGIN", "SURVEY")
    ).upper()
    return not says_ab and any(name in origin for name in _VEGA)


def _of_unit(unit: str, header: Mapping[str, Any]) -> float | None:
    """Return the zero point of a unit of flux; of surface brightness where the pixel's area is known."""
    from astropy import units

    lower = unit.lower()
    if lower in _UNITS and not unit.startswith("MJ"):
        return _UNITS[lower]
    try:
        parsed = units.Unit(unit)
        if parsed.is_equivalent(units.Jy):
            return 8.9 - 2.5 * math.log10(parsed.to(units.Jy))
        if parsed.is_equivalent(units.Jy / units.sr) and "PIXAR_SR" in header:
            area = _positive(header["PIXAR_SR"], "PIXAR_SR")
            return 8.9 - 2.5 * math.log10(parsed.to(units.Jy / units.sr) * area)
    except (ValueError, TypeError, units.UnitsError):
        return None  # a unit that astropy does not know says nothing
    return None


def _positive(value: Any, key: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise InputError(f"{key} = {value!r} is no positive number")
    return number


def _number(value: Any, key: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not PLAUSIBLE[0] <= number <= PLAUSIBLE[1]:
        raise InputError(f"{key} = {value!r} is no plausible AB zero point")
    return number


def parse_per_band(values: object, what: str) -> dict[str, float]:
    """Read a number for all bands or one for each.

    Parameters
    ----------
    values
        None, a number, a mapping of bands to numbers, or a list such as ``["27"]`` or ``["u=30", "g=27"]``.
        The key ``""`` of the result holds for every band that has none of its own.
    what
        The option's name, for errors.

    Examples
    --------
    >>> parse_per_band(["27", "u=30"], "zero_point")
    {'': 27.0, 'u': 30.0}
    """
    if values is None:
        return {}
    if isinstance(values, Mapping):
        items = [(str(k), v) for k, v in values.items()]
    else:
        parts = values if isinstance(values, (list, tuple)) else [values]
        split = [str(p).rpartition("=") for p in parts]
        items = [(key.strip(), value) for key, _, value in split]
    out = {}
    for key, value in items:
        try:
            out[key] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"{what}: {value!r} is no number; write for example 27 or u=30") from None
        if not math.isfinite(out[key]):
            raise InputError(f"{what}: {value!r} is not finite")
    return out
