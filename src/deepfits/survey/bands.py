"""Band names: from those in headers and file names to the short names used everywhere.

A band has a short name such as ``u`` or ``Ks``. Names of surveys and instruments are dropped (``HSC-G``,
``u.MP9302``, ``MegaCam-u``), so that u from one telescope can be combined with g r i z from another; two
kinds of u are distinguished by explicit names (``images=["u=...", "ustar=..."]``).
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from deepfits.errors import InputError, nearest

Value = TypeVar("Value")

# By wavelength. Other bands follow: those of space telescopes by wavelength, then the rest alphabetically.
ORDER = (
    *("FUV", "NUV", "U", "u", "ustar", "v", "B", "g", "G", "V", "r", "R", "i", "I", "z", "y"),
    *("Z", "Y", "J", "H", "K", "Ks", "VIS", "W1", "ch1", "ch2", "W2", "ch3", "ch4"),
)
_SPECIAL = {
    **dict.fromkeys(("us", "u*", "ustar", "megacam-us", "megacam_us"), "ustar"),
    # Suprime-Cam's names.
    **{"w-j-b": "B", "w-j-v": "V", "w-c-rc": "R", "w-c-ic": "I"},
    **{"b_high": "B", "v_high": "V"},  # FORS's
    **{f"{start}{letter}{end}": letter for start in ("", "w-s-") for letter in "griz" for end in ("+", "++")},
    **{f"{start}sloan{letter}": letter for start in ("", "wfc") for letter in "ugriz"},  # INT's
}
_OPTICAL = (
    "HSC|SDSS|MegaCam|Mega|CFHT|MegaPrime|DECam|LSST|Rubin|PS1|Pan-?STARRS|GPC1|WISHES|SkyMapper|KiDS|"
    "OmegaCAM|OCAM|VST|DES|JPCAM|JEDIS"
)
_NEAR_INFRARED = "VISTA|VIKING|VIRCAM|VHS|VIDEO|UKIDSS|WFCAM|UKIRT|WIRCam|UltraVISTA|UVISTA|NISP|NIR|2MASS"
_FROM_SPACE = "HST|ACS|WFC3|WFC|UVIS|IR|ACSWFC|WFC3UVIS|WFC3IR|JWST|NIRCam|NIRISS|MIRI"
_INSTRUMENTS = rf"(?:(?:{_OPTICAL})[-_ .]?)+"
_LETTER = re.compile(rf"^{_INSTRUMENTS}([ugrizy])[0-9]?(?:[ ._'].*)?$", re.IGNORECASE)
_OWN_Y = re.compile(r"^(?i:DES|DECam)[-_ .]?Y\b")  # others' Y is y
_NUMBERED = re.compile(r"^([ugrizyY])2?(?:'|[ ._](?:MP\d+|SDSS|DECam.*|\d+.*|Gunn.*|sdss.*))$")
# J-PLUS and J-PAS.
_JAVALAMBRE = re.compile(r"^([ugriz])(?:SDSS|JAVA|JPAS)$")
_INFRARED = re.compile(
    rf"^(?:(?:{_NEAR_INFRARED})[-_ .]?)?(Z|Y|J|H|Ks|K)(?:[ ._](?:WC)?\d+)?$", re.IGNORECASE
)
_ROMAN_F = "F(?:062|087|106|129|146|158|184|213)"
_ROMAN = f"{_ROMAN_F}|R062|Z087|Y106|J129|H158|K213|W146"
# Hubble's and Webb's: a wavelength and a width; Roman's: a wavelength.
_SPACE = re.compile(rf"^(F\d{{3,4}}(?:W2|W|M|N|X|LP)|{_ROMAN})$", re.IGNORECASE)
# Numbers of Hubble's own filters, which are wavelengths in nm; those of all others are in units of 10 nm.
_NANOMETRES = (218, 225, 275, 300, 336, 350, 390, 435, 438, 450, 475, 555, 600, 606, 625, 702, 775, 814, 850)
_FILTER_KEYS = (
    "LSST BUTLER DATAID BAND",  # before FILTER, which there is the physical filter: i_sim_1.4
    *("FILTER", "FILTNAM", "FILTNAME", "FILTER1", "FILTER2", "FILTER3", "FILTER4", "FILTER01", "FILTNAM1"),
    *("BAND", "FILTERS", "INSFLNAM", "WFFBAND", "ALFLTNM", "FAFLTNM", "FBFLTNM", "FLT_ID", "DWFILNAM"),
    *("ESO INS FILT1 NAME", "ESO INS FILT2 NAME", "FPA.FILTER", "FPA.FILTERID", "FILTBAND"),
    "LSST BUTLER DATAID PHYSICAL_FILTER",
)
# Bands whose cards BAND or CHNLNUM are numbers, by telescope or instrument.
_BY_NUMBER = {"WISE": "W1 W2 W3 W4", "GALEX": "NUV FUV", "MIPS": "MIPS24 MIPS70 MIPS160"}
# Keywords, followed by a number, of the bands of a cube's layers.
_LAYER_KEYS = ("BAND", "FILTER", "FILT")
_NO_FILTER = {
    *("", "CLEAR", "CLEARP", "CLEAR1L", "CLEAR2L", "CLEAR1S", "CLEAR2S", "NONE", "UNKNOWN", "OPEN", "EMPTY"),
    *("N/A", "NA", "NAN", "NULL", "N", "UNDEFINED", "UNDEF", "MULTI", "MULTIPLE", "MIXED", "VARIOUS", "ALL"),
    *("WHITE", "WHITELIGHT", "NO FILTER", "NOFILTER", "DETECTION", "CHI2", "ANY", "OTHER", "DEFAULT", "TBD"),
    *("FREE", "BLANK", "HOLE", "NOFILT", "NO_FILTER", "AIR"),
}
# Slots of wheels (open1-6 of GMOS), and glass that blocks second orders.
_EMPTY = re.compile(r"(?:OPEN|CLEAR|EMPTY)[-_ ]?\d+(?:[-_ ]\d+)?|[GOR]G\d{3}(?:_G\d{4})?")
# Words beside the letter: systems, telescopes and cameras whose letters are case-sensitive ...
_SYSTEMS = (
    "johnson", "john", "cousins", "cous", "bessell", "bessel", "bess", "gunn", "kpno", "ctio", "ptf",
    "mould", "des", "kids", "open", "clear", "harris", "filter", "band", "prime", "vista", "wircam",
    "megacam", "megaprime", "subaru", "suprimecam", "ps1", "panstarrs", "sdss", "sloan", "ztf", "decam",
    "lsst", "hsc", "cfht", "eso", "uvista", "ultravista", "cfis", "unions", "bass", "mzls", "90prime",
    "delve", "skymapper", "lsstcomcam", "lsstcam", "acs", "wfc", "wfc3", "uvis", "ir", "nircam", "niriss",
    "clear", "sim", "euclid", "legacysurvey", "ls", "special", "empty", "bb", "odi", "lbc", "csst", "wfst",
    "tng", "int", "paus", "jpas", "jplus", "splus", "jast", "nisp", "roman", "high", "mko", "wise", "unwise",
    "galex", "nearly", "rgo", "desi", "fan", "spec",
)  # fmt: skip
# ... and those whose letters mean u g r i z y in either case.
_LOWER_CASE = ("ps1", "panstarrs", "sdss", "sloan", "ztf", "hsc", "lsst")
_SERIAL = re.compile(r"^\d+(?:\.\d+)?$|^[cksG]\d{4}$|^(?:MP|WC|ESO)\d+$", re.IGNORECASE)
_SINGLE = re.compile(r"^(?:[ugvrizyUBGVRIZYJHK]|Ks|VIS|[NF]UV|W[1-4])$")
_SPELLINGS = {
    **{f"{letter}{end}": letter for letter in "ugrizy" for end in ("band", "-band", "_band", "prime", "p")},
    # The last three of Las Cumbres, BASS and MzLS.
    **{"r2": "r", "i2": "i", "i1": "i", "zs": "z", "bokr": "r", "zd": "z"},
    **{f"z{letter}": letter for letter in "gri"},  # ZTF's, in names of files
    **{f"w{n}": f"W{n}" for n in "1234"},
    **{"Rc": "R", "Ic": "I", "R2": "r", "I2": "i", "Kband": "K"},
    **dict.fromkeys(("KS", "K_S", "Kshort", "K-short", "K_short", "K_s"), "Ks"),
    **{f"{letter}band": letter for letter in "UBVRIJHKYZ"},
    **{"nd": "NUV", "fd": "FUV", "nuv": "NUV", "fuv": "FUV", "ks": "Ks", "vis": "VIS"},
}
# Names in the Filter Profile Service: Paranal/VISTA.Ks.
_PROFILE = re.compile(r"[\w-]+/([\w-]+)\.([\w+'-]+)")
_CHANNEL = re.compile(r"(?:spitzer[-_ .]?)?(?:irac[-_ .]?(?:ch|i)?|ch)([1-4])", re.IGNORECASE)  # of Spitzer
_NARROW = re.compile(r"^(?:[A-Za-z]+[-_ ])?((?:NB|IA|IB)F?\d{3,4})$", re.IGNORECASE)
# From narrow to wide: of two elements in the beam, the narrower one defines the passband.
_WIDTHS = ("N", "M", "W", "X", "LP", "W2", "")
# Words that may mean a band in a file's name, between separators.
_TOKEN = (
    rf"(?:{_ROMAN}|{_ROMAN_F.lower()}|[griz]p|"
    r"FUV|NUV|ustar|uS|[Kk]s|VIS|vis|[Ff]\d{3,4}(?:[Ww]2?|[MmNnXx]|LP|lp)|(?:NB|IA|IB)F?\d{3,4}|[nf]d(?=-int)|"
    r"(?i:irac[-_.]?(?:ch)?|ch)[1-4]|"
    r"[ugrizyUBVRIJHYZ]band|[ugrizy]prime|[ri]2|i1|[RI]c|[uUgrizyZYBVRIJHK]|"
    r"[ugriz](?:SDSS|JAVA|JPAS)|SDSS[ugriz])"
)
_NAME_TOKEN = re.compile(
    rf"(?:^|(?<=[-_. ]))(?:(?P<of>(?i:{_OPTICAL}|{_NEAR_INFRARED}|{_FROM_SPACE}))[-_])*"
    rf"(?P<band>{_TOKEN}|[GRIZY](?=2?[-_.])|G$|(?<=HSC[-_])[GRIZY]|[RI]2)"
    r"(?:\.(?:MP|WC)\d{4})?(?=$|[-_. ])"  # MegaPipe
)

UNSURE = ("r2", "i1", "i2", *(f"{letter}p" for letter in "griz"))
"""Words of file names that mean a band only if no header and no other word does."""

_LIKE_LOWER = tuple("UGRIZY")  # letters whose passband is close to that of the lower-case letter


def band_name(text: str) -> str:
    """Return the short name of a band from its name in a header or from a user.

    Examples
    --------
    >>> [band_name(t) for t in ("HSC-G", "HSC-I2", "u.MP9302", "MegaCam-u", "Ks", "uS", "r'")]
    ['g', 'i', 'u', 'u', 'Ks', 'ustar', 'r']
    >>> [band_name(t) for t in ("Cousins R", "SLOAN-g", "F606W;CLEAR2L", "gband", "HSC-NB816", "rSDSS")]
    ['R', 'g', 'F606W', 'g', 'NB816', 'r']
    >>> [band_name(t) for t in ("BB#R/162_ESO844", "r SDSS k1018", "SLOAN_G", "sdss_gp", "SkyMapper v", "zs")]
    ['R', 'r', 'g', 'g', 'v', 'z']
    >>> [band_name(t) for t in ("j", "h", "k")], [band_name(t) for t in ("IRAC_CH1", "Spitzer/IRAC.I2")]
    (['J', 'H', 'K'], ['ch1', 'ch2'])
    >>> [band_name(t) for t in ("HSC-Y", "DECam-Y", "DES Y", "Y DECam c0005 10095.0 1130.0")]
    ['y', 'Y', 'Y', 'Y']
    """
    text = str(text).strip()
    if match := _PROFILE.fullmatch(text):
        of_camera = band_name(f"{match[1]}-{match[2]}")
        return of_camera if is_known_band(of_camera) else band_name(match[2])
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if text in _SPELLINGS:
        return _SPELLINGS[text]
    if match := _CHANNEL.fullmatch(text):
        return f"ch{match[1]}"
    if match := _LETTER.match(text):
        return "Y" if _OWN_Y.match(text) else match[1].lower()
    if match := _NUMBERED.match(text) or _JAVALAMBRE.match(text):
        return match[1]
    if match := _SPACE.match(text):
        return match[1].upper()
    if (match := _INFRARED.match(text)) and (len(text) > 2 or text in (*"ZYJHKjhk", "Ks")):
        return {"ks": "Ks"}.get(match[1].lower(), match[1].upper())
    if match := _NARROW.match(text):
        return match[1].upper()
    if match := re.match(r"^(\S+) DECam\b", text):
        return match[1]
    if narrowest := _narrowest(re.split(r"[;,+/& ]+", text)):
        return narrowest
    words = [w for w in re.split(r"[-_ .,;:'+#/]+", text) if w]
    rest = [_SPELLINGS.get(w, w) for w in words if w.lower() not in _SYSTEMS and not _SERIAL.match(w)]
    if len(rest) == 1 and len(words) > 1 and _SPACE.match(rest[0]):
        return rest[0].upper()
    if len(rest) == 1 and len(words) > 1 and _SINGLE.match(rest[0]):
        is_lower = any(w.lower() in _LOWER_CASE for w in words) and rest[0] in "UGRIZY"
        return rest[0].lower() if is_lower else rest[0]
    return re.sub(r"[^A-Za-z0-9*+]+", "_", text).strip("_")


def _narrowest(elements: Iterable[str]) -> str | None:
    """Return the narrowest of several elements in the beam, among Hubble's and Webb's filters, or None."""
    filters = [e.upper() for e in elements if _SPACE.match(e)]
    return min(filters, key=lambda e: _WIDTHS.index(re.sub(r"^[A-Z]\d+", "", e)), default=None)


def is_known_band(band: str) -> bool:
    """Return whether a short name is one that surveys use."""
    return band in ORDER or bool(_SPACE.match(band) or _NARROW.match(band))


def is_instrument(text: str) -> bool:
    """Return whether text, such as a directory's name, names a survey, telescope or camera: HSC, NISP."""
    return bool(re.fullmatch(rf"(?i:{_OPTICAL}|{_NEAR_INFRARED}|{_FROM_SPACE})", text))


def band_of_header(header: Mapping[str, Any]) -> str | None:
    """Return the band named in a header's filter cards, or None.

    Examples
    --------
    >>> webb = {"TELESCOP": "JWST", "FILTER": "F444W", "PUPIL": "F405N"}
    >>> band_of_header(webb), band_of_header({"FILTER": "N/A"}), band_of_header({"FILTER": 2})
    ('F405N', None, None)
    >>> band_of_header({"FILTER1": "open1-6", "FILTER2": "g_G0301"}), band_of_header({"FILTER01": "W-S-R+"})
    ('g', 'r')
    """
    named = [str(header[key]).strip() for key in ("FILTER", "PUPIL", "FILTER1", "FILTER2") if key in header]
    if passband := _narrowest(named):
        return passband
    telescope = str(header.get("TELESCOP", "")).upper()
    for key in _FILTER_KEYS:
        value = header.get(key)
        if isinstance(value, str) and _names_a_filter(value):
            band = band_name(value)
            return band.lower() if band in _LIKE_LOWER and "T80" in telescope else band  # S-PLUS's r is R
    number, origin = header.get("CHNLNUM", header.get("BAND", 0)), f"{telescope} {header.get('INSTRUME')}"
    of_irac = "ch1 ch2 ch3 ch4" if "CHNLNUM" in header else ""
    names = next((names for name, names in _BY_NUMBER.items() if name in origin), of_irac)
    return dict(enumerate(names.split(), 1)).get(number)


def _names_a_filter(value: str) -> bool:
    """Return whether a card's text names a filter, rather than "N/A", a position in the wheel, or nothing."""
    text = value.strip().upper()
    return text not in _NO_FILTER and not _EMPTY.fullmatch(text) and bool(re.search("[A-Z]", text))


def band_of_name(stem: str, known: Collection[str] = ()) -> tuple[str | None, str]:
    """Split a file's name into its band and the rest, which the files of one field share.

    If several words may be bands, the last one is used; with `known`, the last one among these. Words that
    may also be version numbers (``r2``), or often mean something else (Subaru's ``ip``), are a last resort.

    Examples
    --------
    >>> band_of_name("coadd-u"), band_of_name("Mega-u_9812_1c1"), band_of_name("notes")
    (('u', 'coadd'), ('u', '9812_1c1'), (None, 'notes'))
    >>> [band_of_name(f"cosmos_{name}")[0] for name in ("hsc_y", "uvista_y", "des_Y")]  # y, and others' Y
    ['y', 'Y', 'Y']
    >>> band_of_name("field_r2"), band_of_name("field_g_r2")
    (('r', 'field'), ('g', 'field-r2'))
    """
    words = sorted(_NAME_TOKEN.finditer(stem), key=lambda match: match["band"] not in UNSURE)
    for match in reversed(words):
        word, instrument = match["band"], match["of"] or ""
        is_letter = word.lower() in (*"ugrizyjhk", "ks")
        short = band_name(f"{instrument}-{word}" if instrument and is_letter else word)
        if not known or short in known:
            rest = re.sub(r"[-_. ]{2,}", "-", stem[: match.start()] + stem[match.end() :]).strip("-_. ")
            return short, rest
    return None, stem


def bands_of_layers(header: Mapping[str, Any], number: int) -> tuple[str, ...]:
    """Return the bands of a cube's layers: ``BANDS`` (``grz``), or ``BAND0``, ``BAND1``, ....

    Empty unless there is one for each layer.

    Examples
    --------
    >>> bands_of_layers({"BANDS": "grz"}, 3), bands_of_layers({"BAND1": "HSC-G"}, 1)
    (('g', 'r', 'z'), ('g',))
    """
    stated = str(header.get("BANDS", "")).strip()
    listed = list(stated) if len(stated) == number else re.split(r"[,; ]+", stated)
    each = (
        [header.get(f"{key}{n + first}") for n in range(number)] for key in _LAYER_KEYS for first in (0, 1)
    )
    found = next((names for names in (listed, *each) if len(names) == number and all(names)), [])
    is_text = all(isinstance(name, str) for name in found)
    return tuple(band_name(str(name)) for name in found) if is_text else ()


def are_copies(cards: Sequence[str | None], names: Sequence[str | None]) -> bool:
    """Return whether filter cards of images in one file are copies of one band's, as other names show.

    Examples
    --------
    >>> are_copies(["g", "g"], ["g", "r"]), are_copies(["g", "r"], ["1", "2"])
    (True, False)
    """
    return len(set(cards)) < len(cards) and None not in names and len(set(names)) == len(names)


def settled_bands(cards: Sequence[str | None], names: Sequence[str | None]) -> list[str | None]:
    """Return the bands of images in one file: those of their filter cards, unless these are copies, or names.

    Examples
    --------
    >>> settled_bands(["g", "g"], ["g", "r"]), settled_bands(["g", None], [None, "r"])
    (['g', 'r'], ['g', 'r'])
    """
    if are_copies(cards, names):
        return list(names)
    return [card or name for card, name in zip(cards, names, strict=True)]


def require_bands(given: Iterable[str], available: Collection[str], option: str) -> None:
    """Check that values are given only for existing bands; the key ``""`` stands for all bands."""
    if strange := [band for band in given if band and band not in available]:
        raise InputError(
            f"{option}={strange[0]}: there is no band {strange[0]!r}; {nearest(strange[0], available)}"
        )


def given_for(band: str, values: Mapping[str, Value]) -> Value | None:
    """Return the value given for a band, or for all bands (key ``""``); None if there is neither."""
    return values.get(band, values.get(""))


def by_band(values: object) -> dict[str, Any]:
    """Return values by band from one for all bands (key ``""``), a mapping, text, or a list of texts.

    Text may hold several pairs, separated by commas.

    Examples
    --------
    >>> by_band(["27", "HSC-G=30"]), by_band("g=27,r=26"), by_band({"g": 0.8}), by_band(0.7)
    ({'': '27', 'g': '30'}, {'g': '27', 'r': '26'}, {'g': 0.8}, {'': 0.7})
    """
    if values is None:
        return {}
    if isinstance(values, Mapping):
        return {band_name(name) if name else "": value for name, value in values.items()}
    out = {}
    for entry in values if isinstance(values, (list, tuple)) else [values]:
        for part in pairs_in(entry) if isinstance(entry, str) else [entry]:
            band, equals, value = str(part).partition("=")
            out[band_name(band) if equals else ""] = value if equals else part
    return out


def pairs_in(text: str) -> list[str]:
    """Split several ``band=value``, separated by commas, which may also be part of a value.

    Examples
    --------
    >>> pairs_in("g=4,5.fits,r=4,6.fits"), pairs_in("g=0.8"), pairs_in("calexp-HSC-G-9813-4,5.fits")
    (['g=4,5.fits', 'r=4,6.fits'], ['g=0.8'], ['calexp-HSC-G-9813-4,5.fits'])
    """
    return re.split(r",(?=[^,=/]+=)", text)


def passband(band: str) -> str:
    """Return the letter of a filter without survey and version, by which models identify bands.

    Examples
    --------
    >>> [passband(name) for name in ("HSC-I2", "u*", "MegaCam-uS", "g'", "zp", "NB816", "lsst_g", "Y", "uv")]
    ['i', 'u', 'u', 'g', 'z', 'NB816', 'g', 'y', 'uv']
    """
    short = band_name(band)
    return short.lower() if short in _LIKE_LOWER else "u" if short == "ustar" else short


def places_of(wanted: Iterable[str], available: Sequence[str]) -> tuple[int | None, ...]:
    """Return the index of each wanted band among others, by name, else by passband; None if missing.

    Examples
    --------
    >>> places_of("ugriz", ("HSC-G", "r", "i", "z", "y")), places_of("ur", ("ustar", "R", "u", "r"))
    ((None, 0, 1, 2, 3), (2, 3))
    """
    passbands = [passband(band) for band in available]
    by_name = {band: place for place, band in reversed(list(enumerate(available)))}
    by_passband = {band: place for place, band in reversed(list(enumerate(passbands)))}
    return tuple(by_name.get(band, by_passband.get(passband(band))) for band in wanted)


def sort_bands(bands: Iterable[str]) -> tuple[str, ...]:
    """Sort bands by wavelength, without duplicates.

    Examples
    --------
    >>> sort_bands(["F160W", "r", "F606W", "g"]), sort_bands(["F444W", "F090W", "F200W"])
    (('g', 'r', 'F606W', 'F160W'), ('F090W', 'F200W', 'F444W'))
    >>> sort_bands("griuvz")  # of SkyMapper
    ('u', 'v', 'g', 'r', 'i', 'z')
    """
    return tuple(sorted(set(bands), key=_rank))


def _rank(band: str) -> tuple[float, str]:
    if band in ORDER:
        return ORDER.index(band), band
    if _SPACE.match(band):
        number = int(re.sub(r"\D.*", "", band[1:]))
        return len(ORDER) + (number if number in _NANOMETRES else 10 * number) * 1e-6, band
    return len(ORDER) + 1, band
