"""AB zero points, which convert the counts of an image to nJy.

flux_njy = counts · 10^{(31.4 − zero point)/2.5}. The zero point is given by the user, or else determined from
the unit (``BUNIT``) and the header's zero-point cards, which must not contradict each other; it is never
guessed.
"""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from astropy import units
from astropy.io import fits

from deepfits.errors import InputError, listed
from deepfits.survey.bands import band_of_header, by_band
from deepfits.survey.fitsfile import as_float

HSC_COADD_ZERO_POINT = 27.0
# Zero points of one count per second in GALEX intensity maps, whose headers have none (Morrissey et al. 2007,
# section 4).
_GALEX = {"FUV": 18.82, "NUV": 20.08}
# Keywords of the magnitude of one count of the image.
_PER_COUNT = ("MAGZERO", "SEXMGZPT", "ZP_AB", "ABZP", "AB_ZP", "ZPAB", "ABZERO", "MAG0", "ZPAPPROX")
# Keywords of the magnitude of one count in some surveys, of one count per second in others.
_PER_COUNT_OR_RATE = (
    *("MAGZPT", "MAGZP", "MAG_ZP", "MAG_ZERO", "PHOTZP", "PHOT_ZP", "ZEROPNT", "ZEROPOIN", "ZPT", "ZP"),
    *("PHOTZPT", "MAGZEROP", "ZEROPT", "ZEROPOINT", "PHOTZERO"),
)
_PER_SECOND = ("FPA.ZP",)  # keywords of the magnitude of one count per second: that of Pan-STARRS
# Keywords of the exposure time: the usual one, WFCAM's, Swift's and others', that of Hubble's archive.
_EXPOSURE_TIMES = ("EXPTIME", "EXP_TIME", "EXPOSURE", "TEXPTIME")
NAMES_OF_ZERO_POINTS = frozenset(
    key.replace("_", "").lower() for key in (*_PER_COUNT, *_PER_COUNT_OR_RATE) if len(key) > 3
)
"""The same keywords as names of columns and attributes; without ``zp``, which is often a redshift."""
# Values that pipelines write if the zero point is unknown.
_PLACEHOLDERS = (-1.0, 99.0, 99.99, 999.0, 9999.0, -99.0, -99.99, -999.0, -9999.0)
_ST_ZERO_POINT = -21.1
_PER_WAVELENGTH = units.erg / units.s / units.cm**2 / units.AA
_MAGGIES = re.compile(
    r"(?<![A-Za-z])(?P<prefix>nano|micro|n|u|µ)?m(?:ag+(?:y|ys|ie|ies)|gy)(?![A-Za-z])", re.IGNORECASE
)
_JANSKY = re.compile(
    r"(?P<prefix>nano|micro|milli|mu|[nuµμm]?)[-\s]*(?:jy|jansk(?:y|ys|ies))(?![a-z])", re.IGNORECASE
)
_PREFIXES = {"nano": "n", "micro": "u", "milli": "m", "mu": "u", "µ": "u", "μ": "u"}
# Words before a unit: "flux (nJy)", "Flux density/uJy", "calibrated nJy", "AB nanomaggies".
_QUANTITY = re.compile(
    r"(?:(?:calibrated|AB|flux(?: density)?|intensity|surface brightness|in)\b[\s:=]*)+/?\s*(?=.)",
    re.IGNORECASE,
)
_MAGNITUDES = re.compile(r"(?<![a-z])(?:AB|ST|vega)?[ _]?mag(?:nitude)?s?(?![a-z])", re.IGNORECASE)
_LOGARITHM = re.compile(
    r"(?<![a-z])(?:log(?:10)?|ln|dex|a(?:rc)?sinh|sqrt|luptitudes?)(?![a-z])", re.IGNORECASE
)
_PER_PIXEL = re.compile(
    r"\s*(?:(?:/|\bper\b)\s*(?:px|pix(?:el)?s?)|[ .*](?:px|pix(?:el)?s?)\s*(?:\^|\*\*)?\s*\(?-1\)?)\s*$",
    re.IGNORECASE,
)
_RATE = re.compile(  # also astropy's "electron / (pix s)"
    r"(?:(?:/|(?:\b|_)per(?:\b|_))\s*(?:\((?:pi?x\w* )?)?s(?:ec|econd)?|"
    r"\bs(?:ec)?(?:\^|\*\*)?\s*[({]?-1[)}]?|\bcps)"
    r"(?![a-z])",
    re.IGNORECASE,
)
# A zero point of one count per second, by the comment of its card: "[mag] 1 ADU/s", "for one second".
_ONE_SECOND = re.compile(rf"{_RATE.pattern}|\b(?:1|one)[ -]?s(?:ec(?:ond)?)?\b", re.IGNORECASE)
_ZERO_POINT = re.compile(r"zero[ _-]?p(?:oi)?n?t|(?:^|[_ ]|mag|image)_?zpt?(?![a-z])", re.IGNORECASE)
_COUNTS = re.compile(
    r"^(?:(?:photo-?|raw )?(?:electrons?|el(?:ec)?s?|e-?|counts?|cn?ts?|dns?|adus?|photons?)|cps|"
    r"(?:data|digital) numbers?|analog(?:ue)?[- ]to[- ]digital units?)(?![a-z0-9])",
    re.IGNORECASE,
)
# Surveys whose zero points are usually in Vega magnitudes, and AB minus Vega: González-Fernández et al. 2018,
# Hewett et al. 2006, Blanton & Roweis 2007, Jarrett et al. 2011.
_VISTA = {"Z": 0.502, "Y": 0.600, "J": 0.916, "H": 1.366, "Ks": 1.827}
_WFCAM = {"Z": 0.528, "Y": 0.634, "J": 0.938, "H": 1.379, "K": 1.900}
_VEGA = {
    **{"VISTA": _VISTA, "VIRCAM": _VISTA, "UKIRT": _WFCAM, "WFCAM": _WFCAM},
    **{"2MASS": {"J": 0.91, "H": 1.39, "K": 1.85, "Ks": 1.85}},
    **{"WISE": {"W1": 2.699, "W2": 3.339, "W3": 5.174, "W4": 6.620}},
}
# Keywords of the magnitude system of a zero point.
_SYSTEMS = ("PHOTSYS", "MAGSYS", "ZPSYS", "MAG_SYS", "PHOT_SYS", "MAGTYPE", "ZPTYPE")
# Services that interpolate pixel values without conserving flux; they are named in HISTORY or COMMENT.
_RESAMPLERS = {"hips2fits": "hips2fits", "skyview": "SkyView"}
# Pixel scales, arcsec, of surveys in nanomaggies, by the card SURVEY of the Legacy Surveys' viewer, which
# interpolates them to the requested scale (pixscale) in the same way. Its headers have no unit.
_VIEWER = "the Legacy Surveys' viewer"
_OF_VIEWER = {"LEGACYSURVEY": 0.262, "DECALS": 0.262, "SDSS": 0.396}
PLAUSIBLE = (-2.5, 45.0)
# Tolerance between the zero points of one file, mag: cards are rounded, and PHOTFLAM has colour terms.
AGREEMENT = 0.05
SLIP = 1.0  # difference between a given zero point and a card's that is likely to be a slip, mag
NOTABLE = 0.015  # smaller differences than this are not worth a warning, mag
# Tolerance between the pixel area of a card and of the WCS, mag: for distorted detectors the card is a mean.
AREA_AGREEMENT = 0.1


def zero_point_of_header(
    header: Mapping[str, Any], pixel_sr: float | None = None
) -> tuple[float, str] | None:
    """Return the AB zero point in the header of an image and its source as text; None if there is none.

    For surface brightnesses without the area of a pixel in the header, it is `pixel_sr`, from the WCS, in
    steradian. Raise `InputError` for a unit that is no flux, implausible values, or contradicting cards.
    """
    unit = unit_of(header)
    stated = [
        (value, f"unit {unit}") for value in [zero_point_of_unit(unit, header, pixel_sr)] if value is not None
    ]
    cards, unusable = _cards(header, unit)
    candidates = stated + cards
    if not candidates:
        if unusable:
            raise InputError(unusable[0])
        of_viewer = None if unit else _zero_point_of_viewer(header, pixel_sr)
        return of_viewer and (of_viewer[0], f"nanomaggies of {of_viewer[2]:g} arcsec, as from {_VIEWER}")
    first, words = candidates[0]
    for other, other_words in candidates[1:]:
        if abs(other - first) > AGREEMENT:
            raise InputError(
                f"{words} implies an AB zero point of {first:.2f}, but {other_words} one of {other:.2f}"
            )
    return first, words


def possible_zero_points(header: fits.Header) -> str:
    """Return cards that may state a zero point, by name or comment, as text; '' if there are none.

    Examples
    --------
    >>> possible_zero_points(fits.Header([("IMAGEZPT", 26.8, "Image magnitude zeropoint")]))
    'IMAGEZPT = 26.8 (Image magnitude zeropoint)'
    """
    known = {*_PER_COUNT, *_PER_COUNT_OR_RATE, *_PER_SECOND}
    found = [
        f"{card.keyword} = {card.value}{f' ({card.comment})' * bool(card.comment)}"
        for card in header.cards
        if _ZERO_POINT.search(f"{card.keyword} {card.comment}")
        and card.keyword not in known
        and not isinstance(card.value, bool)
        and 10 < as_float(card.value) < PLAUSIBLE[1]
    ]
    return listed(found, 3)


def given_doubts(header: Mapping[str, Any], zero_point: float, pixel_sr: float | None = None) -> list[str]:
    """Return a warning if the user's zero point differs from the header's, or the unit is not a flux.

    A card's may be wrong by some tenths of a magnitude, the usual reason to give another, and by more where
    there are doubts about it.
    """
    unit = unit_of(header)
    try:
        if not _COUNTS.match(unit) and (kind := _not_linear(unit)):
            return [f"BUNIT {unit!r}: {kind}, not fluxes; convert the image first, unless BUNIT is wrong"]
        expected = zero_point_of_unit(unit, header, pixel_sr)
        stated = zero_point_of_header(header, pixel_sr) if expected is None else None
    except InputError:
        return []
    if expected is not None and abs(expected - zero_point) > AGREEMENT:
        source = f"BUNIT {unit!r} implies {expected:.2f} per pixel"
    elif stated and abs(stated[0] - zero_point) > SLIP and not _header_doubts(header, *stated, pixel_sr):
        source = f"{stated[1]} in the header implies {stated[0]:.2f}"
    else:
        return []
    return [f"zero_point {zero_point:g} is used as given, though {source}"]


def zero_point_doubts(
    header: Mapping[str, Any], zero_point: float, words: str, pixel_sr: float | None = None
) -> list[str]:
    """Return warnings about a zero point, each with its remedy.

    `words` is its source in the header, empty if the user gave it, and `pixel_sr` the area of a pixel by the
    WCS, in steradian.
    """
    stated = _header_doubts(header, zero_point, words, pixel_sr) if words else []
    given = [] if words else given_doubts(header, zero_point, pixel_sr)
    return stated + given + _resampling_doubts(header, zero_point, pixel_sr)


def _header_doubts(
    header: Mapping[str, Any], zero_point: float, words: str, pixel_sr: float | None
) -> list[str]:
    """Return warnings about a zero point found in a header."""
    problems = []
    unit = unit_of(header)
    is_stated = "unit" not in words
    if is_stated and (card := _states_vega(header, words)):
        problems.append(
            f"{words} = {zero_point:.2f} is in Vega magnitudes, by {card}; give the AB one "
            f"({_in_ab(header, zero_point)})"
        )
    elif (is_stated or _MAGGIES.search(unit)) and is_vega(header):
        problems.append(
            f"zero points of this survey ({words} = {zero_point:.2f}) are usually in Vega magnitudes; give "
            f"the AB one ({_in_ab(header, zero_point)}), or write PHOTSYS = 'AB' into the header"
        )
    scale = as_float(header.get("FLXSCALE"))
    if math.isfinite(scale) and abs(scale - 1) > 0.01 and "unit" not in words:
        problems.append(
            f"FLXSCALE = {scale:g}, by which SWarp multiplies counts, is not applied; if {words} is for "
            f"counts times FLXSCALE, give zero_point {zero_point - 2.5 * math.log10(abs(scale) or 1):.2f}"
        )
    others = _cards(header, unit)[0]
    if words.startswith("unit") and pixel_sr is not None:
        without_area = {key: header[key] for key in ("PHOTPLAM",) if key in header}
        by_wcs = zero_point_of_unit(unit, without_area, pixel_sr)
        others += [(value, "the area of a pixel by the WCS") for value in [by_wcs] if value is not None]
    problems += [
        f"{words} implies a zero point of {zero_point:.3f}, which is used, but {source} one of {other:.3f}; "
        "if that is right, give it (zero_point)"
        for other, source in others
        if abs(other - zero_point) > NOTABLE
    ]
    seconds = exposure_of(header)
    is_known = _COUNTS.match(unit) or _RATE.search(unit)
    if not is_known and words.startswith(("PHOTFLAM", "PHOTFNU")) and seconds not in (None, 1.0):
        total = zero_point + 2.5 * math.log10(seconds)
        what = f"BUNIT {unit!r} is not a known unit" if unit else "the header has no BUNIT"
        problems.append(
            f"{what}: assumed to be counts per second, as for {words}; if the image holds counts in "
            f"{seconds:g} s, give zero_point {total:.2f}"
        )
    if is_vega(header) or _COUNTS.match(unit) or _ONE_SECOND.search(_comment(header, words)):
        problems += rate_doubts(header, zero_point, words)
    return problems


def rate_doubts(header: Mapping[str, Any], zero_point: float, words: str) -> list[str]:
    """Return a warning if a card's zero point may be for one count per second of an image in counts."""
    unit, seconds = unit_of(header), exposure_of(header)
    says_second = words in _PER_COUNT and _ONE_SECOND.search(_comment(header, words))
    is_of_eso = words == "PHOTZP" and "PRODCATG" in header  # ESO's standard: for pixel values
    if (
        not (words in _PER_COUNT_OR_RATE or says_second)
        or is_of_eso
        or seconds in (None, 1.0)
        or _RATE.search(unit)
    ):
        return []
    total = zero_point + 2.5 * math.log10(seconds)
    return [
        f"{words} = {zero_point:.2f} is assumed to be for one {unit or 'count'} of the image; if it is for "
        f"one per second, give that for {seconds:g} s, zero_point {total:.2f}"
    ]


def _zero_point_of_viewer(
    header: Mapping[str, Any], pixel_sr: float | None
) -> tuple[float, float, float] | None:
    """Return the zero point of an image from the Legacy Surveys' viewer, and its pixels' side now and before.

    Sides are in arcsec. None for other images.
    """
    native = _OF_VIEWER.get(str(header.get("SURVEY", "")).strip().upper())
    if native is None or pixel_sr is None or not {"BAND0", "BRICK_X0"} & set(header):
        return None
    side = math.degrees(math.sqrt(pixel_sr)) * 3600
    return 22.5 - 5 * math.log10(side / native), side, native


def _resampling_doubts(header: Mapping[str, Any], zero_point: float, pixel_sr: float | None) -> list[str]:
    """Return a warning if a service has resampled an image without conserving flux."""
    if (of_viewer := _zero_point_of_viewer(header, pixel_sr)) is not None:
        expected, side, native = of_viewer
        if abs(expected - 22.5) > NOTABLE and abs(expected - zero_point) > NOTABLE:
            return [
                f"resampled by {_VIEWER} from pixels of {native:g} to {side:.3g} arcsec, "
                f"which preserves pixel values, not fluxes; give zero_point {expected:.3f}"
            ]
    signed = " ".join(str(header.get(key, "")) for key in ("HISTORY", "COMMENT")).lower()
    by = next((name for word, name in _RESAMPLERS.items() if word in signed), None)
    is_brightness = re.search("sr|arcsec", unit_of(header), re.IGNORECASE)  # which is conserved
    if by is None or is_brightness:
        return []
    return [
        f"resampled by {by}, which preserves pixel values, not fluxes: these are correct only if the pixels "
        "are as large as the survey's; else use the survey's own images, or a zero_point reduced by "
        "2.5 log10 of the area of these pixels over that of the survey's"
    ]


def _states_vega(header: Mapping[str, Any], words: str) -> str:
    """Return the card that declares a zero point to be in Vega magnitudes; '' if none does."""
    for key in _SYSTEMS:
        if "VEGA" in str(header.get(key, "")).upper():
            return f"{key} = {header[key]!r}"
    key, comment = words.split(" ", 1)[0], _comment(header, words)
    is_of_vega = re.search(r"\bvega", comment, re.IGNORECASE) and not re.search(r"\bAB\b", comment)
    return f"the comment of {key}" if is_of_vega else ""


def _comment(header: Mapping[str, Any], words: str) -> str:
    """Return the comment of the card that a zero point is from."""
    key = words.split(" ", 1)[0]
    return str(header.comments[key]) if isinstance(header, fits.Header) and key in header else ""


def is_vega(header: Mapping[str, Any]) -> bool:
    """Return whether a file comes from a survey whose zero points are usually in Vega magnitudes."""
    says_ab = any("AB" in str(header.get(key, "")).upper() for key in _SYSTEMS)
    return not says_ab and _offsets_to_ab(header) is not None


def _offsets_to_ab(header: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Return AB minus Vega by band for a survey in Vega magnitudes, None for others."""
    cards = ("TELESCOP", "INSTRUME", "ORIGIN", "SURVEY")
    origin = " ".join(str(header.get(key, "")) for key in cards).upper()
    origin += " WISE" * (band_of_header(header) in _VEGA["WISE"])
    return next((offsets for name, offsets in _VEGA.items() if name in origin), None)


def _in_ab(header: Mapping[str, Any], zero_point: float) -> str:
    """Return advice on the AB zero point instead of one in Vega magnitudes."""
    offset = (_offsets_to_ab(header) or {}).get(band_of_header(header) or "")
    return "zero_point" if offset is None else f"zero_point, here {zero_point + offset:.2f}"


def _cards(header: Mapping[str, Any], unit: str) -> tuple[list[tuple[float, str]], list[str]]:
    """Return the zero points in cards, each with its source, and messages on unusable ones."""
    found, unusable = [], []
    is_rate, seconds = bool(_RATE.search(unit)), exposure_of(header)
    for key in (*_PER_COUNT, *_PER_COUNT_OR_RATE, *_PER_SECOND):
        if key not in header or (key == "PHOTZPT" and as_float(header[key]) == _ST_ZERO_POINT):
            continue
        is_of_total = not is_rate and _is_for_one_second(header, key, unit)
        of_total = seconds if is_of_total else None
        if is_of_total and seconds is None:
            unusable.append(f"{key} is for one {unit or 'count'} per second, but the header has no EXPTIME")
            continue
        for stated in _values_of_card(header, key):
            value = as_float(stated)
            if not PLAUSIBLE[0] <= value <= PLAUSIBLE[1] or value in _PLACEHOLDERS:
                unusable.append(f"{key} = {stated!r} is not a plausible AB zero point")
            elif of_total is not None:
                found.append((value + 2.5 * math.log10(of_total), f"{key} and an exposure of {of_total:g} s"))
            else:
                found.append((value, key))
    if any(value != 0 for value, _ in found):
        found = [(value, key) for value, key in found if value != 0]  # 0 means unknown if there are others
    if "FLUXMAG0" in header:
        value = 2.5 * math.log10(_positive(header["FLUXMAG0"], "FLUXMAG0"))
        found.append((_plausible(value, "FLUXMAG0"), "FLUXMAG0"))
    value, words = math.nan, ""
    if "PHOTFLAM" in header and "PHOTPLAM" in header and not _is_per_wavelength(unit):
        flam, pivot = _positive(header["PHOTFLAM"], "PHOTFLAM"), _positive(header["PHOTPLAM"], "PHOTPLAM")
        value = -2.5 * math.log10(flam) - 5 * math.log10(pivot) - 2.408
        words = "PHOTFLAM and PHOTPLAM"
    elif "PHOTFNU" in header and "PHOTFLAM" not in header:
        value, words = 8.9 - 2.5 * math.log10(_positive(header["PHOTFNU"], "PHOTFNU")), "PHOTFNU"
    if words:
        is_total = _COUNTS.match(unit) and not is_rate  # both keywords are for counts per second
        if is_total and seconds is not None:
            value += 2.5 * math.log10(seconds)
            words += f", of counts in {seconds:g} s"
        if is_total and seconds is None:
            unusable.append(f"{words} are for {unit} per second, but the header has no EXPTIME")
        else:
            found.append((_plausible(value, words.split(" ", 1)[0]), words))
    if not found and (not unit or is_rate) and "GALEX" in str(header.get("TELESCOP", "")).upper():
        found = [
            (_GALEX[b], f"GALEX {b}, counts per second") for b in [band_of_header(header)] if b in _GALEX
        ]
    if seconds is not None and len(found) > 1 and (not unit or _COUNTS.match(unit)):
        found = _matching_unit(found, unit, seconds)
    return found, unusable


def _is_for_one_second(header: Mapping[str, Any], key: str, unit: str) -> bool:
    """Return whether a card's zero point is for one count per second, although the image holds counts.

    This is so in Pan-STARRS, in what CASU's pipelines write (VISTA, WFCAM, VST ATLAS, Isaac Newton
    Telescope), and if the comment of the card says so.
    """
    is_of_casu = key == "MAGZPT" and ("CASUVERS" in header or "MAGZRR" in header)
    says_so = _COUNTS.match(unit) and _ONE_SECOND.search(_comment(header, key))
    return key in _PER_SECOND or is_of_casu or bool(says_so)


def _values_of_card(header: Mapping[str, Any], key: str) -> list[Any]:
    """Return all values of a repeated card, of which astropy returns only the first."""
    if not isinstance(header, fits.Header):
        return [header[key]]
    return [header[key, number] for number in range(header.count(key))]


def _matching_unit(found: list[tuple[float, str]], unit: str, seconds: float) -> list[tuple[float, str]]:
    """Keep the zero points for counts, or for counts per second, if a header has both.

    Without a unit, those are for the image's counts whose keyword has no other meaning (DECam's Community
    Pipeline writes MAGZERO, and MAGZPT per second).
    """
    step = 2.5 * math.log10(seconds)
    values = [value for value, _ in found]
    low, high = min(values), max(values)
    if abs(step) <= AGREEMENT or abs(high - low - abs(step)) > AGREEMENT:
        return found
    if not unit:
        return [entry for entry in found if entry[1] in _PER_COUNT] or found
    wanted = low if bool(_RATE.search(unit)) == (step > 0) else high
    return [(value, key) for value, key in found if abs(value - wanted) <= AGREEMENT]


def exposure_of(header: Mapping[str, Any]) -> float | None:
    """Return the exposure time, seconds, from the first of `_EXPOSURE_TIMES`; None if there is none."""
    seconds = as_float(next((header[key] for key in _EXPOSURE_TIMES if key in header), None))
    return seconds if 0 < seconds < math.inf else None


def unit_of(header: Mapping[str, Any]) -> str:
    """Return the unit of an image's pixels, ``BUNIT`` without the quantity's name; '' if there is none.

    Examples
    --------
    >>> [unit_of({"BUNIT": text}) for text in ("flux (nJy)", "Flux density/uJy", "DN s^(-1)", "flux")]
    ['nJy', 'uJy', 'DN s^(-1)', 'flux']
    """
    text = str(header.get("BUNIT", "")).strip()
    if quantity := _QUANTITY.match(text):
        text = text[quantity.end() :]
    return text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text


def zero_point_of_unit(unit: str, header: Mapping[str, Any], pixel_sr: float | None = None) -> float | None:
    """Return the zero point of a unit of flux density; None for counts and for text that is not a unit.

    Surface brightness is converted to flux with the area of a pixel (``PIXAR_SR``, ``PIXAR_A2``, else the
    WCS's), flux per wavelength with the pivot wavelength (``PHOTPLAM``, Å). Raise `InputError` if the unit is
    not a flux density, or its conversion requires a value that the header lacks.
    """
    text = re.sub(r"\b10\s*(?:\^|\*\*)\s*[({]?([+-]?\d+)[)}]?(?:\s*\*)?", r"1e\1", _PER_PIXEL.sub("", unit))
    zp_of_jansky = 0.0 if _MAGGIES.search(text) else 8.9  # "Jy" stands for maggies here if the unit has them
    text = _MAGGIES.sub(r"\g<prefix>Jy", text)
    if not text or _COUNTS.match(text):
        return None
    if kind := _not_linear(text):
        raise InputError(f"BUNIT {unit!r}: {kind}, not fluxes; convert the image first")
    parsed = _parsed(text)
    if parsed is None:
        return None
    jansky, steradian = units.Jy, units.Jy / units.sr
    if parsed.is_equivalent(jansky):
        value = float(zp_of_jansky - 2.5 * math.log10(parsed.to(jansky)))
        return _plausible(value, f"unit {unit}") if "jy" in text.lower() else value
    if parsed.is_equivalent(steradian):
        zp_per_sr = float(zp_of_jansky - 2.5 * math.log10(parsed.to(steradian)))
        return _zero_point_per_pixel(zp_per_sr, unit, header, pixel_sr)
    if parsed.is_equivalent(_PER_WAVELENGTH):
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
    """Parse a unit in common, non-standard notation; None for text that is not a unit.

    Examples
    --------
    >>> str(_parsed("UJY")), str(_parsed("erg/s/cm2/A")), _parsed("flux of the source")
    ('uJy', 'erg / (Angstrom s cm2)', None)
    """
    upper = text.upper()
    if "MJY" in text and not re.search("SR|ARCSEC", upper):
        raise InputError(f"BUNIT {text!r} may be mJy or MJy; correct it in the header")
    text = _JANSKY.sub(_spelled_jansky, text)
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
            return None  # text that is not a unit
    return None if isinstance(parsed, units.StructuredUnit) else parsed  # from text with a comma


def _spelled_jansky(found: re.Match[str]) -> str:
    """Spell a unit of jansky as astropy does: only a capital M means mega."""
    prefix = found["prefix"]
    return ("M" if prefix == "M" else _PREFIXES.get(prefix.lower(), prefix.lower())) + "Jy"


def _not_linear(unit: str) -> str:
    """Return what the values of a unit are that are not proportional to flux; '' for other units."""
    if _LOGARITHM.search(unit):
        return "logarithms or the like"
    is_function = isinstance(_parsed(unit), units.function.FunctionUnitBase)
    return "magnitudes" if is_function or _MAGNITUDES.search(unit) else ""


def _is_per_wavelength(unit: str) -> bool:
    parsed = _parsed(_PER_PIXEL.sub("", unit)) if unit and not _COUNTS.match(unit) else None
    return parsed is not None and parsed.is_equivalent(_PER_WAVELENGTH)


def _is_dimensionless(parsed: Any) -> bool:
    """Return whether a unit is dimensionless, counts, or counts per second."""
    counts = (units.adu, units.electron, units.ct, units.DN, units.ph, units.s)
    return all(base in counts for base in parsed.decompose().bases)


def _zero_point_per_pixel(
    zp_per_sr: float, unit: str, header: Mapping[str, Any], pixel_sr: float | None
) -> float:
    """Convert the zero point of a surface brightness from flux per steradian to flux per pixel."""
    stated = None
    if "PIXAR_SR" in header:
        stated = _positive(header["PIXAR_SR"], "PIXAR_SR")
    elif "PIXAR_A2" in header:
        stated = _positive(header["PIXAR_A2"], "PIXAR_A2") * math.radians(1 / 3600) ** 2
    found = [zp_per_sr - 2.5 * math.log10(area) for area in (stated, pixel_sr) if area is not None]
    if not found:
        raise InputError(f"BUNIT {unit!r} needs the area of a pixel (PIXAR_SR, or a WCS)")
    if abs(found[0] - found[-1]) > AREA_AGREEMENT:
        raise InputError(
            f"BUNIT {unit!r}: PIXAR_SR or PIXAR_A2 gives pixels of {stated:.4g} sr, a zero point of "
            f"{found[0]:.2f}; the WCS {pixel_sr:.4g} sr, one of {found[1]:.2f}, which is right if the image "
            "was resampled and is still a surface brightness"
        )
    return found[0]


def _positive(value: Any, key: str) -> float:
    number = as_float(value)
    if not (number > 0 and math.isfinite(number)):
        raise InputError(f"{key} = {value!r} is not a positive number")
    return number


def _plausible(value: float, key: str) -> float:
    if not PLAUSIBLE[0] <= value <= PLAUSIBLE[1]:
        raise InputError(f"{key} = {value!r} is not a plausible AB zero point")
    return value


def parse_per_band(values: object, what: str) -> dict[str, float]:
    """Parse numbers as `by_band` does; errors name the option, `what`."""
    out = {}
    for band, value in by_band(values).items():
        try:
            out[band] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"{what}: {value!r} is not a number; write for example 27 or u=30") from None
        if not math.isfinite(out[band]):
            raise InputError(f"{what}: {value!r} is not finite")
    return out
