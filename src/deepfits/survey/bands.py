"""Band names: from a header's or a file's own words to the short names used everywhere.

A band is a short name such as ``u`` or ``Ks``. Names of surveys and instruments around it are dropped
(``HSC-G``, ``u.MP9302``, ``MegaCam-u``), so that u from one telescope and g r i z from another stand in one
list; whoever needs two kinds of u apart names them (``images=["u=...", "ustar=..."]``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

# By wavelength; a band that is not listed comes after these, in alphabetical order.
ORDER = (
    *("FUV", "NUV", "U", "u", "ustar", "B", "g", "V", "r", "R", "i", "I", "z", "y"),
    *("Z", "Y", "J", "H", "K", "Ks", "VIS", "W1", "W2"),
)
_SPECIAL = {
    **dict.fromkeys(("us", "u*", "ustar", "megacam-us", "megacam_us"), "ustar"),
    # Suprime-Cam's own names.
    **{"w-j-b": "B", "w-j-v": "V", "w-c-rc": "R", "w-c-ic": "I"},
    **{"w-s-g+": "g", "w-s-r+": "r", "w-s-i+": "i", "w-s-z+": "z"},
}
_INSTRUMENTS = (
    r"(?:(?:HSC|SDSS|MegaCam|Mega|CFHT|MegaPrime|DECam|LSST|Rubin|PS1|Pan-?STARRS|GPC1|WISHES|SkyMapper|KiDS|"
    r"OmegaCAM|OCAM|VST|DES)[-_ .]?)+"
)
_LETTER = re.compile(rf"^{_INSTRUMENTS}([ugrizy])[0-9]?(?:[ ._'].*)?$", re.IGNORECASE)
_NUMBERED = re.compile(r"^([ugrizyY])(?:'|[ ._](?:MP\d+|SDSS|DECam.*|\d+.*|Gunn.*|sdss.*))$")
_INFRARED = re.compile(
    r"^(?:(?:VISTA|VIKING|VIRCAM|UKIDSS|WFCAM|WIRCam|UltraVISTA|NISP|NIR|2MASS)[-_ .]?)?"
    r"(Z|Y|J|H|Ks|K)(?:[ ._](?:WC)?\d+)?$",
    re.IGNORECASE,
)
# Hubble's and Webb's: a wavelength and a width.
_SPACE = re.compile(r"^(F\d{3,4}(?:W2|W|M|N|X|LP))$", re.IGNORECASE)
# Filters that only Hubble has, whose number is the wavelength in nm; of all others it is that in 10 nm.
_NANOMETRES = (218, 225, 275, 300, 336, 350, 390, 435, 438, 450, 475, 555, 600, 606, 625, 702, 775, 814, 850)
_FILTER_KEYS = (
    *("FILTER", "FILTNAM", "FILTER1", "FILTER2", "BAND", "FILTERS", "INSFLNAM"),
    *("ESO INS FILT1 NAME", "FPA.FILTER", "FPA.FILTERID"),
)
_NO_FILTER = {"", "CLEAR", "CLEAR1L", "CLEAR2L", "CLEAR1S", "CLEAR2S", "NONE", "UNKNOWN", "OPEN"}
# What may stand for a band in a file's name, between separators.
_TOKEN = r"(?:FUV|NUV|ustar|uS|Ks|VIS|[Ff]\d{3,4}(?:[Ww]2?|[MmNnXx]|LP|lp)|[uUgrizyYZBVRIJHK])"
_NAME_TOKEN = re.compile(
    r"(?:^|(?<=[-_. ]))(?:(?:HSC|MegaCam|Mega|SDSS|DECam|VISTA|KiDS)[-_])?"
    rf"(?P<band>{_TOKEN}|[GRIZY](?=2?[-_.])|[RI]2)"
    r"(?=$|[-_. ])"
)


def band_name(text: str) -> str:
    """Return the short name for what a header or a person calls a band.

    Examples
    --------
    >>> [band_name(t) for t in ("HSC-G", "HSC-I2", "u.MP9302", "MegaCam-u", "Ks", "uS", "r'")]
    ['g', 'i', 'u', 'u', 'Ks', 'ustar', 'r']
    """
    text = str(text).strip()
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if match := _LETTER.match(text):
        return match[1].lower()
    if match := _NUMBERED.match(text):
        return match[1]
    if match := _SPACE.match(text):
        return match[1].upper()
    if (match := _INFRARED.match(text)) and (len(text) > 2 or text in ("Z", "Y", "J", "H", "K", "Ks")):
        return {"ks": "Ks"}.get(match[1].lower(), match[1].upper())
    return re.sub(r"[^A-Za-z0-9*+]+", "_", text).strip("_")


def band_of_header(header: Mapping[str, Any]) -> str | None:
    """Return the band that a header's filter cards name, or None."""
    for key in _FILTER_KEYS:
        value = header.get(key)
        if isinstance(value, str) and value.strip().upper() not in _NO_FILTER:
            return band_name(value)
    if "WISE" in str(header.get("TELESCOP", "")).upper() and header.get("BAND") in (1, 2, 3, 4):
        return f"W{header['BAND']}"
    return f"IRAC{header['CHNLNUM']}" if header.get("CHNLNUM") in (1, 2, 3, 4) else None


def band_of_name(stem: str, known: Collection[str] = ()) -> tuple[str | None, str]:
    """Find the band in a file's name, and the name without it (what the files of one field share).

    Where several words may be bands, the last one is; with `known`, the last one of these.

    Examples
    --------
    >>> band_of_name("coadd-u"), band_of_name("Mega-u_9812_1c1"), band_of_name("notes")
    (('u', 'coadd'), ('u', '9812_1c1'), (None, 'notes'))
    """
    for match in reversed(list(_NAME_TOKEN.finditer(stem))):
        found = match["band"]
        has_instrument = len(match[0]) > len(found)
        short = band_name(f"HSC-{found}") if has_instrument and found[0] in "GRIZY" else band_name(found)
        if not known or short in known:
            rest = re.sub(r"[-_. ]{2,}", "-", stem[: match.start()] + stem[match.end() :]).strip("-_. ")
            return short, rest
    return None, stem


def sort_bands(bands: Iterable[str]) -> tuple[str, ...]:
    """Sort by wavelength.

    Examples
    --------
    >>> sort_bands(["F160W", "r", "F606W", "g"]), sort_bands(["F444W", "F090W", "F200W"])
    (('g', 'r', 'F606W', 'F160W'), ('F090W', 'F200W', 'F444W'))
    """
    return tuple(sorted(set(bands), key=_rank))


def _rank(band: str) -> tuple[float, str]:
    if band in ORDER:
        return ORDER.index(band), band
    if _SPACE.match(band):
        number = int(re.sub(r"\D.*", "", band[1:]))
        return len(ORDER) + (number if number in _NANOMETRES else 10 * number) * 1e-6, band
    return len(ORDER) + 1, band
