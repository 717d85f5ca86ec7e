"""AB zero points: how many nJy one count of an image is.

flux_njy = counts · 10^{(31.4 − zero point)/2.5}. The zero point comes from what the user gives, else from the
unit (``BUNIT``), else from the header's zero point cards; never from a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deepfits.errors import InputError

ZERO_POINT_NJY = 31.4
HSC_COADD_ZERO_POINT = 27.0
_ZERO_POINT_KEYS = (
    *("MAGZERO", "MAGZPT", "MAGZP", "MAG_ZP", "MAG_ZERO", "PHOTZP", "PHOT_ZP", "ZEROPNT", "ZEROPOIN"),
    *("ZP_AB", "ABZP", "ZPT", "ZP", "SEXMGZPT", "PHOTZPT"),
)
_UNITS = {
    "nanomaggy": 22.5, "nanomaggies": 22.5, "nmgy": 22.5, "nmaggies": 22.5, "nanomaggys": 22.5,
    "maggy": 0.0, "maggies": 0.0, "mgy": 0.0,
    "njy": 31.4, "ujy": 23.9, "microjy": 23.9, "µjy": 23.9, "mjy": 16.4, "jy": 8.9,
}  # fmt: skip
PLAUSIBLE = (-2.5, 45.0)


def njy_per_count(zero_point: float) -> float:
    """Return how many nJy one count is.

    Examples
    --------
    >>> njy_per_count(31.4), round(njy_per_count(27.0), 3)
    (1.0, 57.544)
    """
    return 10 ** ((ZERO_POINT_NJY - zero_point) / 2.5)


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
    if unit.lower() in _UNITS:
        return _UNITS[unit.lower()], f"unit {unit}"
    for key in _ZERO_POINT_KEYS:
        if key in header:
            return _number(header[key], key), key
    if "FLUXMAG0" in header:
        value = _positive(header["FLUXMAG0"], "FLUXMAG0")
        return _number(2.5 * math.log10(value), "FLUXMAG0"), "FLUXMAG0"
    if "PHOTFLAM" in header and "PHOTPLAM" in header:
        flam, pivot = _positive(header["PHOTFLAM"], "PHOTFLAM"), _positive(header["PHOTPLAM"], "PHOTPLAM")
        value = -2.5 * math.log10(flam) - 5 * math.log10(pivot) - 2.408
        return _number(value, "PHOTFLAM"), "PHOTFLAM and PHOTPLAM"
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
