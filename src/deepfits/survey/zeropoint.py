"""AB zero points: how many nJy one count of an image is.

flux_njy = counts · 10^{(31.4 − zero point)/2.5}. The zero point comes from what the user gives, else from the
unit (``BUNIT``) and the header's zero point cards, which must not contradict each other; never from a guess.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from astropy import units
from astropy.io import fits

from deepfits.errors import InputError
from deepfits.survey.bands import band_name, band_of_header

HSC_COADD_ZERO_POINT = 27.0
# Of one count a second in intensity maps of GALEX, whose headers say none (Morrissey et al. 2007, section 4).
_GALEX = {"FUV": 18.82, "NUV": 20.08}
# Cards that hold the magnitude of one count of the image.
_PER_COUNT = ("MAGZERO", "SEXMGZPT", "ZP_AB", "ABZP", "AB_ZP", "ZPAB", "ABZERO", "MAG0", "ZPAPPROX")
# Cards that hold the magnitude of one count in some surveys, of one count a second in others.
_PER_COUNT_OR_RATE = (
    *("MAGZPT", "MAGZP", "MAG_ZP", "MAG_ZERO", "PHOTZP", "PHOT_ZP", "ZEROPNT", "ZEROPOIN", "ZPT", "ZP"),
    *("PHOTZPT", "MAGZEROP", "ZEROPT", "ZEROPOINT", "PHOTZERO"),
)
NAMES_OF_ZERO_POINTS = frozenset(
    key.replace("_", "").lower() for key in (*_PER_COUNT, *_PER_COUNT_OR_RATE) if len(key) > 3
)
"""The same cards as names of columns and attributes; ``zp`` is as often a redshift."""
# What pipelines write where they know no zero point.
_PLACEHOLDERS = (-1.0, 99.0, 99.99, 999.0, 9999.0, -99.0, -99.99, -999.0, -9999.0)
_ST_ZERO_POINT = -21.1
_MAGGIES = re.compile(
    r"(?<![A-Za-z])(?P<prefix>nano|micro|n|u|µ)?m(?:ag+(?:y|ys|ie|ies)|gy)(?![A-Za-z])", re.IGNORECASE
)
_JANSKY = re.compile(r"(?P<prefix>nano|micro|milli|[nuµμm]?)\s*(?:jy|jansky|janskys)(?![a-z])", re.IGNORECASE)
_PREFIXES = {"nano": "n", "micro": "u", "milli": "m", "µ": "u", "μ": "u"}
_MAGNITUDES = re.compile(r"(?<![a-z])(?:AB|ST|vega)?[ _]?mag(?:nitude)?s?(?![a-z])", re.IGNORECASE)
_PER_PIXEL = re.compile(
    r"\s*(?:(?:/|\bper\b)\s*pix(?:el)?s?|[ .*]pix(?:el)?s?\s*(?:\^|\*\*)?\s*\(?-1\)?)\s*$", re.IGNORECASE
)
_RATE = re.compile(
    r"(?:(?:/|\bper\b)\s*s(?:ec|econd)?|\bs(?:ec)?(?:\^|\*\*)?\s*[({]?-1[)}]?|\bcps)(?![a-z])", re.IGNORECASE
)
_COUNTS = re.compile(r"^(?:electrons?|e-?|counts?|cts?|dn|adu|photons?|cps)\b", re.IGNORECASE)
_VEGA = ("VISTA", "UKIRT", "2MASS", "WISE", "VIRCAM", "WFCAM")
# Cards that say which magnitudes a zero point is of.
_SYSTEMS = ("PHOTSYS", "MAGSYS", "ZPSYS", "MAG_SYS", "PHOT_SYS", "MAGTYPE", "ZPTYPE")
# Services that interpolate what a pixel holds, whatever its size, and sign in HISTORY or COMMENT.
_RESAMPLERS = {"hips2fits": "hips2fits", "skyview": "SkyView"}
PLAUSIBLE = (-2.5, 45.0)
# Zero points of one file agree if they differ by less: rounded cards, colour terms of PHOTFLAM.
AGREEMENT = 0.05
# The area of a pixel by its card and by the WCS may differ by so much, mag: distorted detectors state a mean.
AREA_AGREEMENT = 0.1


def zero_point_of_header(
    header: Mapping[str, Any], pixel_sr: float | None = None
) -> tuple[float, str] | None:
    """Find the AB zero point in the header of an image, with words that say where it came from; None without.

    Of surface brightnesses whose header does not state the area of a pixel it is that by the WCS, `pixel_sr`,
    steradian.

    Raises
    ------
    InputError
        The unit is none of a flux, a card holds no plausible number, or cards contradict each other.
    """
    unit = str(header.get("BUNIT", "")).strip()
    stated = [
        (value, f"unit {unit}") for value in [zero_point_of_unit(unit, header, pixel_sr)] if value is not None
    ]
    cards, unusable = _cards(header, unit)
    candidates = stated + cards
    if not candidates:
        if unusable:
            raise InputError(unusable[0])
        return None
    first, words = candidates[0]
    for other, its in candidates[1:]:
        if abs(other - first) > AGREEMENT:
            raise InputError(f"{words} means an AB zero point of {first:.2f}, but {its} one of {other:.2f}")
    return first, words


def given_doubts(header: Mapping[str, Any], zero_point: float, pixel_sr: float | None = None) -> list[str]:
    """Return a warning where the zero point that a user gives is another than the unit's."""
    unit = str(header.get("BUNIT", "")).strip()
    try:
        of_unit = zero_point_of_unit(unit, header, pixel_sr)
    except InputError:
        return []
    if of_unit is None or abs(of_unit - zero_point) <= AGREEMENT:
        return []
    return [f"zero_point {zero_point:g} is used as given, though BUNIT {unit!r} means {of_unit:.2f} a pixel"]


def zero_point_doubts(header: Mapping[str, Any], zero_point: float, words: str) -> list[str]:
    """Return warnings about a zero point found in a header, each with its remedy."""
    doubts = []
    unit = str(header.get("BUNIT", "")).strip()
    is_stated = "unit" not in words
    if is_stated and (card := _states_vega(header, words)):
        doubts.append(
            f"{words} = {zero_point:.2f} is in Vega magnitudes, by {card}; give the AB one (zero_point)"
        )
    elif (is_stated or _MAGGIES.search(unit)) and is_vega(header):
        doubts.append(
            f"zero points of this survey ({words} = {zero_point:.2f}) are in Vega magnitudes as a rule; give "
            "the AB one (zero_point), or write PHOTSYS = 'AB' into the header"
        )
    scale = _as_float(header.get("FLXSCALE"))
    if math.isfinite(scale) and abs(scale - 1) > 0.01 and "unit" not in words:
        doubts.append(
            f"FLXSCALE = {scale:g}, by which SWarp multiplies counts, is not applied; if {words} holds for "
            f"counts times that, give zero_point {zero_point - 2.5 * math.log10(abs(scale) or 1):.2f}"
        )
    seconds = exposure_of(header)
    if not unit and words.startswith(("PHOTFLAM", "PHOTFNU")) and seconds not in (None, 1.0):
        total = zero_point + 2.5 * math.log10(seconds)
        doubts.append(
            f"the header has no BUNIT: taken for counts a second, as {words} are; if the image holds counts "
            f"of {seconds:g} s, give zero_point {total:.2f}"
        )
    if (
        words in _PER_COUNT_OR_RATE
        and not (words == "PHOTZP" and "PRODCATG" in header)  # ESO's standard: of what a pixel holds
        and (_COUNTS.match(unit) or (not unit and (is_vega(header) or "CASUVERS" in header)))
        and not _RATE.search(unit)
        and seconds not in (None, 1.0)
    ):
        total, what = zero_point + 2.5 * math.log10(seconds), unit or "count"
        doubts.append(
            f"{words} = {zero_point:.2f} is taken for one {what} of the image; if it holds for one a second, "
            f"give the one for {seconds:g} s, zero_point {total:.2f}"
        )
    return doubts


def resampling_doubts(header: Mapping[str, Any]) -> list[str]:
    """Return a warning where a service has resampled an image and kept what a pixel holds, not the flux."""
    unit = str(header.get("BUNIT", ""))
    signed = " ".join(str(header.get(key, "")) for key in ("HISTORY", "COMMENT")).lower()
    by = next((name for word, name in _RESAMPLERS.items() if word in signed), None)
    if by is None or re.search("sr|arcsec", unit, re.IGNORECASE):  # surface brightness stays what it is
        return []
    return [
        f"resampled by {by}, which keeps the values of pixels and not fluxes: these are right only if the "
        "pixels are as large as the survey's; else take the survey's own images, or a zero_point less by "
        "2.5 log10 of the area of these pixels over that of the survey's"
    ]


def _states_vega(header: Mapping[str, Any], words: str) -> str:
    """Return which card says that a zero point is in Vega magnitudes; nothing where none does."""
    for key in _SYSTEMS:
        if "VEGA" in str(header.get(key, "")).upper():
            return f"{key} = {header[key]!r}"
    key = words.split(" ", 1)[0]
    comment = header.comments[key] if isinstance(header, fits.Header) and key in header else ""
    is_of_vega = re.search(r"\bvega", comment, re.IGNORECASE) and not re.search(r"\bAB\b", comment)
    return f"the comment of {key}" if is_of_vega else ""


def is_vega(header: Mapping[str, Any]) -> bool:
    """Return whether a file comes from a survey whose zero points are in Vega magnitudes as a rule."""
    says_ab = any("AB" in str(header.get(key, "")).upper() for key in _SYSTEMS)
    origin = " ".join(
        str(header.get(key, "")) for key in ("TELESCOP", "INSTRUME", "ORIGIN", "SURVEY")
    ).upper()
    is_wise = band_of_header(header) in ("W1", "W2", "W3", "W4")
    return not says_ab and (is_wise or any(name in origin for name in _VEGA))


def _cards(header: Mapping[str, Any], unit: str) -> tuple[list[tuple[float, str]], list[str]]:
    """Return the zero points that cards state, and what is wrong with those that are unusable."""
    found, unusable = [], []
    is_rate = bool(_RATE.search(unit))
    for key in (*_PER_COUNT, *_PER_COUNT_OR_RATE):
        if key not in header or (key == "PHOTZPT" and _as_float(header[key]) == _ST_ZERO_POINT):
            continue
        for stated in _every(header, key):
            value = _as_float(stated)
            if not PLAUSIBLE[0] <= value <= PLAUSIBLE[1] or value in _PLACEHOLDERS:
                unusable.append(f"{key} = {stated!r} is not a plausible AB zero point")
            else:
                found.append((value, key))
    if any(value != 0 for value, _ in found):
        found = [(value, key) for value, key in found if value != 0]  # 0 stands for unknown beside another
    if "FLUXMAG0" in header:
        value = 2.5 * math.log10(_positive(header["FLUXMAG0"], "FLUXMAG0"))
        found.append((_plausible(value, "FLUXMAG0"), "FLUXMAG0"))
    seconds = exposure_of(header)
    value, words = math.nan, ""
    if "PHOTFLAM" in header and "PHOTPLAM" in header and not _is_per_wavelength(unit):
        flam, pivot = _positive(header["PHOTFLAM"], "PHOTFLAM"), _positive(header["PHOTPLAM"], "PHOTPLAM")
        value = -2.5 * math.log10(flam) - 5 * math.log10(pivot) - 2.408
        words = "PHOTFLAM and PHOTPLAM"
    elif "PHOTFNU" in header and "PHOTFLAM" not in header:
        value, words = 8.9 - 2.5 * math.log10(_positive(header["PHOTFNU"], "PHOTFNU")), "PHOTFNU"
    if words:
        is_total = _COUNTS.match(unit) and not is_rate  # both are for counts a second
        if is_total and "EXPTIME" in header:
            value += 2.5 * math.log10(_positive(header["EXPTIME"], "EXPTIME"))
            words += f", of counts in EXPTIME {header['EXPTIME']} s"
        if is_total and "EXPTIME" not in header:
            unusable.append(f"{words} are for {unit} a second, and the header has no EXPTIME")
        else:
            found.append((_plausible(value, words.split(" ", 1)[0]), words))
    if "FPA.ZP" in header and "EXPTIME" in header:  # Pan-STARRS: for counts a second
        exposure = _positive(header["EXPTIME"], "EXPTIME")
        value = _plausible(_as_float(header["FPA.ZP"]), "FPA.ZP") + 2.5 * math.log10(exposure)
        found.append((value, f"FPA.ZP and EXPTIME {exposure:g} s"))
    if not found and (not unit or is_rate) and "GALEX" in str(header.get("TELESCOP", "")).upper():
        found = [(_GALEX[b], f"GALEX {b}, a count a second") for b in [band_of_header(header)] if b in _GALEX]
    if seconds is not None and len(found) > 1 and _COUNTS.match(unit):
        found = _of_the_unit(found, is_rate, seconds)
    return found, unusable


def _every(header: Mapping[str, Any], key: str) -> list[Any]:
    """Return all values of a card that a header has several times, of which astropy shows the first."""
    if not isinstance(header, fits.Header):
        return [header[key]]
    return [header[key, number] for number in range(header.count(key))]


def _of_the_unit(found: list[tuple[float, str]], is_rate: bool, seconds: float) -> list[tuple[float, str]]:
    """Keep the zero points of counts, or of counts a second, where a header has both."""
    step = 2.5 * math.log10(seconds)
    values = [value for value, _ in found]
    low, high = min(values), max(values)
    if abs(step) <= AGREEMENT or abs(high - low - abs(step)) > AGREEMENT:
        return found
    wanted = low if is_rate == (step > 0) else high
    return [(value, key) for value, key in found if abs(value - wanted) <= AGREEMENT]


def exposure_of(header: Mapping[str, Any]) -> float | None:
    """Return the seconds of ``EXPTIME`` (``EXP_TIME`` of WFCAM); None where there are none."""
    seconds = _as_float(header.get("EXPTIME", header.get("EXP_TIME")))
    return seconds if 0 < seconds < math.inf else None


def zero_point_of_unit(unit: str, header: Mapping[str, Any], pixel_sr: float | None = None) -> float | None:
    """Return the zero point of a unit of flux density; None for counts and for what is not a unit.

    Surface brightness becomes flux through the area of a pixel (``PIXAR_SR``, ``PIXAR_A2``, else the WCS's),
    flux per wavelength through the pivot wavelength (``PHOTPLAM``, Å).

    Raises
    ------
    InputError
        A unit that is not a flux density, or one whose conversion needs what the header does not say.
    """
    text = re.sub(r"\b10\s*(?:\^|\*\*)\s*\(?([+-]?\d+)\)?(?:\s*\*)?", r"1e\1", _PER_PIXEL.sub("", unit))
    of_jansky = 0.0 if _MAGGIES.search(text) else 8.9  # the zero point of a jansky, or of a maggy
    text = _MAGGIES.sub(r"\g<prefix>Jy", text)
    if not text or _COUNTS.match(text):
        return None
    parsed = _parsed(text)
    if isinstance(parsed, units.function.FunctionUnitBase) or _MAGNITUDES.search(text):
        raise InputError(f"BUNIT {unit!r}: magnitudes, not fluxes; convert the image first")
    if parsed is None:
        return None
    jansky, steradian = units.Jy, units.Jy / units.sr
    if parsed.is_equivalent(jansky):
        value = float(of_jansky - 2.5 * math.log10(parsed.to(jansky)))
        return _plausible(value, f"unit {unit}") if "jy" in text.lower() else value
    if parsed.is_equivalent(steradian):
        of_steradian = float(of_jansky - 2.5 * math.log10(parsed.to(steradian)))
        return _of_a_pixel(of_steradian, unit, header, pixel_sr)
    if parsed.is_equivalent(_per_wavelength()):
        if "PHOTPLAM" not in header:
            raise InputError(
                f"BUNIT {unit!r} is a flux per wavelength, which needs the pivot wavelength (PHOTPLAM, Å)"
            )
        pivot = _positive(header["PHOTPLAM"], "PHOTPLAM") * units.AA
        flux = (1 * parsed).to(jansky, equivalencies=units.spectral_density(pivot))
        return float(8.9 - 2.5 * math.log10(flux.value))
    if parsed.is_equivalent(units.Jy / units.beam):
        raise InputError(
            f"BUNIT {unit!r} is not a flux per pixel; divide by the pixels in a beam (BMAJ, BMIN) first"
        )
    if _is_dimensionless(parsed):
        return None
    raise InputError(f"BUNIT {unit!r} is not a unit of a flux density per pixel")


def _parsed(text: str) -> Any:
    """Parse a unit as people write it; None for text that is none.

    Examples
    --------
    >>> str(_parsed("UJY")), str(_parsed("erg/s/cm2/A")), _parsed("flux of the source")
    ('uJy', 'erg / (Angstrom s cm2)', None)
    """
    upper = text.upper()
    if upper == text and upper.startswith("MJY") and not re.search("SR|ARCSEC", upper):
        raise InputError(f"BUNIT {text!r} may be mJy or MJy; write which into the header")
    text = re.sub("Mjy", "MJy", text)
    if not text.startswith("MJy") and not (upper == text and upper.startswith("MJY")):
        text = _JANSKY.sub(lambda m: _PREFIXES.get(m["prefix"].lower(), m["prefix"].lower()) + "Jy", text)
    elif upper == text:
        text = text.replace("MJY", "MJy")
    text = re.sub(r"(?<=[/ .*])A(?=$|[-^*/ .])", "Angstrom", text)
    text = re.sub(r"\bergs\b", "erg", text, flags=re.IGNORECASE)
    text = re.sub(
        r"(?<![A-Za-z])(ERG|SR|HZ|CM|S|SEC|ARCSEC)(?![A-Za-z])",
        lambda m: {"HZ": "Hz"}.get(m[0], m[0].lower()),
        text,
    )
    text = re.sub(r"\b(?:sec|second)\b", "s", text)
    text = re.sub(r"\b(?:ang|angstroms?|AA)\b", "Angstrom", text, flags=re.IGNORECASE)
    text = re.sub(r"\barc\s?sec(?:onds?)?\b", "arcsec", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = units.Unit(text)
        except (ValueError, TypeError):
            return None  # text that is not a unit says nothing
    return None if isinstance(parsed, units.StructuredUnit) else parsed  # text with a comma


def _per_wavelength() -> Any:
    return units.erg / units.s / units.cm**2 / units.AA


def _is_per_wavelength(unit: str) -> bool:
    parsed = _parsed(_PER_PIXEL.sub("", unit)) if unit and not _COUNTS.match(unit) else None
    return parsed is not None and parsed.is_equivalent(_per_wavelength())


def _is_dimensionless(parsed: Any) -> bool:
    """Return whether a unit is one of counts, a second or not, or of nothing."""
    counts = (units.adu, units.electron, units.ct, units.DN, units.ph, units.s)
    return all(base in counts for base in parsed.decompose().bases)


def _of_a_pixel(of_steradian: float, unit: str, header: Mapping[str, Any], pixel_sr: float | None) -> float:
    """Return the zero point of a surface brightness in a pixel from that in a steradian."""
    stated = None
    if "PIXAR_SR" in header:
        stated = _positive(header["PIXAR_SR"], "PIXAR_SR")
    elif "PIXAR_A2" in header:
        stated = _positive(header["PIXAR_A2"], "PIXAR_A2") * math.radians(1 / 3600) ** 2
    found = [of_steradian - 2.5 * math.log10(area) for area in (stated, pixel_sr) if area is not None]
    if not found:
        raise InputError(f"BUNIT {unit!r} needs the area of a pixel (PIXAR_SR, or a WCS)")
    if abs(found[0] - found[-1]) > AREA_AGREEMENT:
        raise InputError(
            f"BUNIT {unit!r}: PIXAR_SR or PIXAR_A2 says pixels of {stated:.4g} sr, a zero point of "
            f"{found[0]:.2f}, the WCS {pixel_sr:.4g} sr, one of {found[1]:.2f}, which is right if the image "
            "was resampled and is still a surface brightness"
        )
    return found[0]


def _as_float(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _positive(value: Any, key: str) -> float:
    number = _as_float(value)
    if not (number > 0 and math.isfinite(number)):
        raise InputError(f"{key} = {value!r} is not a positive number")
    return number


def _plausible(value: float, key: str) -> float:
    if not PLAUSIBLE[0] <= value <= PLAUSIBLE[1]:
        raise InputError(f"{key} = {value!r} is not a plausible AB zero point")
    return value


def parse_per_band(values: object, what: str) -> dict[str, float]:
    """Read a number for all bands or one for each; errors name the option, `what`.

    Values are None, a number, a mapping of bands to numbers, or a list such as ``["27"]`` or ``["u=30",
    "g=27"]``. The key ``""`` of the result holds for every band that has none of its own.

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
    for name, value in items:
        key = band_name(name) if name else ""
        try:
            out[key] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"{what}: {value!r} is not a number; write for example 27 or u=30") from None
        if not math.isfinite(out[key]):
            raise InputError(f"{what}: {value!r} is not finite")
    return out
