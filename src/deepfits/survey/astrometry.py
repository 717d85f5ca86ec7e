"""Reading the celestial WCS of a header, including non-standard ones, with warnings about its problems.

Pixels are mapped between images through sky coordinates, never through the world coordinates of their WCS,
which may be in different frames or in a different order.
"""

import re
import warnings
from string import ascii_uppercase
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from deepfits.survey.fitsfile import quiet, quiet_log
from deepfits.tables import unit_vectors

# Warnings on harmless repairs by astropy, which change no position: dates, spelling of units and keywords.
_HARMLESS = re.compile(
    r"datfix|unitfix|obsfix|spcfix|celfix|RADECSYS|MJD|DATE|non-?standard|"
    r"more axes|Invalid parameter values: MJD|keyword name|VerifyWarning|HIERARCH|card is too long|"
    r"(?:PCi_ja|PROJPn) keyword is deprecated|"
    r"Verification reported errors|not FITS standard|Unfixable error|zero-based indexing",
    re.IGNORECASE,
)
_FRAMES = ("ICRS", "FK5", "FK4", "FK4-NO-E")
# Other names for them, and for the frame of Gaia's catalogue, which is the ICRS.
_NAMES_OF_FRAMES = {
    r"ICRS\W.*|ICRF\d?|GAIA\b.*": "ICRS",
    r"FK5[^-\dA-Z].*|J2000(?:\.0)?": "FK5",
    r"B1950(?:\.0)?": "FK4",
}
# Equinoxes of astrometric catalogues; any other value is often the date of the observation.
_EQUINOXES = (1950.0, 2000.0)
# Limits on the pixel scale, arcsec; without a scale, pixels would be 1°, and a wrong unit makes them tiny.
SMALLEST_PIXEL, LARGEST_PIXEL = 1e-3, 1000.0
# How elements of a matrix were written before 2002, and by CASA.
_OLD_MATRIX = re.compile(r"(CD|PC)(?:00([12])00([12])|0([12])_0([12]))")
# Keywords with a numerical value: positions, scales, angles and coefficients of distortions.
_NUMBER_CARD = re.compile(
    r"(?:CRVAL|CRPIX|CDELT|CROTA)[12]|(?:CD|PC)[12]_[12]|PV[12]_\d+|[AB]P?_\d+_\d+|LONPOLE|LATPOLE"
)
# Keywords with a default, and values that stand for none.
_WITH_DEFAULT = ("LONPOLE", "LATPOLE", "EQUINOX", "EPOCH", "RADESYS", "RADECSYS", "CUNIT1", "CUNIT2")
_NOTHING = re.compile(r"|nan|n/?a|none|null|undef(?:ined)?|unknown", re.IGNORECASE)
_EXPONENT_D = re.compile(r"^[^=/]*=\s*[+-]?[\d.]+[Dd][+-]?\d+\s*(?:/|$)")
_NEEDED = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
# Maximum relative difference between the sides of a pixel before a warning.
SQUARE = 0.02
_OF_SKY = re.compile(r"\s*(?:RA|DEC|GLON|GLAT)-", re.IGNORECASE)
_WCS_CARD = (
    r"(?:(?:CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)[12]|(?:CD|PC|PV)[12]_\d+|RADESYS|EQUINOX|LONPOLE|LATPOLE|"
    r"WCSAXES)"
)
_CTYPE = re.compile(r"(RA|DEC|GLON|GLAT)-+([A-Z]{3})(-SIP)?")
_DEGREES = re.compile(r"deg(?:r|rees?)?", re.IGNORECASE)
_SIP_CARD = re.compile(r"^(?:A|B|AP|BP)_(?:ORDER|DMAX|\d+_\d+)$")


def celestial_wcs(hdus: fits.HDUList, hdu: Any, header: fits.Header) -> tuple[WCS | None, list[str]]:
    """Return the celestial WCS of an image, and its problems (``WARNING: ...``); or None, and the reason.

    The file may hold lookup tables of the distortion in other HDUs. The header has cards that the image lacks
    from the primary header; it is used only if the image's own has no WCS.
    """
    cards = (hdu.header if "CTYPE1" in hdu.header else header).copy(strip=False)
    alternate = _take_alternate(cards)
    if "CTYPE1" not in cards or "CTYPE2" not in cards:
        return None, ["no WCS in the header"]
    with warnings.catch_warnings(record=True) as caught, quiet_log():
        warnings.simplefilter("always")
        try:
            _settle_numbers(cards)
            _settle_spelling(cards)
            remarks = alternate + _without_left_over_distortion(cards) + _settle_frame(cards)
            _settle_matrix(cards)
            wcs = WCS(cards, fobj=hdus, naxis=2)
            if not wcs.has_celestial:
                return None, ["the WCS in the header is not celestial"]
            height, width = hdu.shape[-2:]
            corners = wcs.pixel_to_world([0, width - 1], [0, height - 1]).icrs
            is_finite = np.isfinite(corners.ra.deg).all() and np.isfinite(corners.dec.deg).all()
            scale = pixel_scale_of(wcs)
        except Exception as error:  # astropy and wcslib raise many kinds on unusable cards
            return None, [f"the WCS in the header cannot be used ({_line(error)})"]
    if not is_finite:
        return None, ["the WCS in the header gives no sky positions for the image's corners"]
    if not SMALLEST_PIXEL < scale < LARGEST_PIXEL:
        return None, [f"the WCS in the header has pixels of {scale:.4g} arcsec"]
    messages = dict.fromkeys(_line(w.message) for w in caught)
    sides = np.linalg.norm(_pixel_on_sky(wcs), axis=1)
    if max(sides) > (1 + SQUARE) * min(sides):
        first, second = np.degrees(sides) * 3600
        remarks.append(
            f"WARNING: WCS: pixels are {first:.4g} by {second:.4g} arcsec, but treated as squares of the "
            "mean side; resample the images to square pixels with `deepfits stack`"
        )
    return wcs, remarks + [f"WARNING: WCS: {text}" for text in messages if not _HARMLESS.search(text)]


def _take_alternate(cards: fits.Header) -> list[str]:
    """Replace a primary WCS that is not celestial by a celestial alternate one (``CTYPE1A``).

    Under the primary one's names its cards are corrected too, which astropy's `key` would not allow.
    """
    keys = (key for key in ("", *ascii_uppercase) if _OF_SKY.match(str(cards.get(f"CTYPE1{key}", ""))))
    if not (key := next(keys, "")):
        return []
    found = {card: value for card, value in cards.items() if re.fullmatch(_WCS_CARD + key, card)}
    for card in [card for card in cards if re.fullmatch(f"{_WCS_CARD}{key}?", card)]:
        del cards[card]
    cards.update({card.removesuffix(key): value for card, value in found.items()})
    return [f"alternate WCS {key} is used: the primary one is not celestial"]


def _settle_numbers(cards: fits.Header) -> None:
    """Convert numbers given as text, and raise if one is missing or invalid, which wcslib reads as 0.

    Also if one is there twice, with different values, of which wcslib reads the last. Exponents written with
    D, which the standard allows, are rewritten: wcslib ignores them. Cards with a default that say nothing,
    such as ``LONPOLE = NaN``, are dropped.
    """
    for card in list(cards.cards):
        key, value = card.keyword, card.value
        if old := _OLD_MATRIX.fullmatch(key):
            cards.rename_keyword(key, key := "{}{}_{}".format(*filter(None, old.groups())), force=True)
        if key in _WITH_DEFAULT and (
            isinstance(value, fits.card.Undefined) or _NOTHING.fullmatch(str(value).strip())
        ):
            cards.remove(key)
        elif _NUMBER_CARD.fullmatch(key) and value != cards[key]:
            raise ValueError(f"{key} is both {cards[key]} and {value}")
        elif isinstance(value, float) and _EXPONENT_D.search(card.image):
            cards.remove(key)
            cards[key] = value
        elif _NUMBER_CARD.fullmatch(key) and not isinstance(value, (int, float)):
            try:
                cards[key] = float(str(value))
            except ValueError:
                raise ValueError(f"{key} = {str(value)!r}, where a number is needed") from None
    if missing := [key for key in _NEEDED if key not in cards]:
        raise ValueError(f"no {missing[0]}")


def _settle_spelling(cards: fits.Header) -> None:
    """Normalise CTYPE and CUNIT for wcslib: ``ra---tan``, ``DEC---TAN``, ``degrees``.

    Raise for IRAF's TNX and ZPX distortions (cards WATj_nnn), which it does not support.
    """
    for axis in (1, 2):
        kind = str(cards[f"CTYPE{axis}"]).strip().upper()
        if kind.endswith(("TNX", "ZPX")):
            raise ValueError(
                f"CTYPE {kind} is an IRAF distortion, which astropy does not support: resample with SWarp, "
                "or convert to TPV or SIP"
            )
        if match := _CTYPE.fullmatch(kind):
            kind = f"{match[1]:-<4}-{match[2]}{match[3] or ''}"
        cards[f"CTYPE{axis}"] = kind
        if _DEGREES.fullmatch(str(cards.get(f"CUNIT{axis}", "")).strip()):
            cards[f"CUNIT{axis}"] = "deg"


def _without_left_over_distortion(cards: fits.Header) -> list[str]:
    """Choose the distortion if a header has several, or lacks the coefficients of the one that it declares.

    SIP applies if both CTYPE end in -SIP (Shupe et al. 2005, section 2). A plain TAN has no PV2 cards: those
    are from SCAMP and mean TPV, but wcslib reads them as such only if they go beyond the linear terms.
    """
    sip = [key for key in cards if _SIP_CARD.match(key)]
    types = [str(cards[f"CTYPE{axis}"]).strip() for axis in (1, 2)]
    asks = all(text.endswith("-SIP") for text in types)
    scamp = [key for key in cards if re.fullmatch(r"PV[12]_\d+", key)]
    is_scamp = any((key.startswith("PV2_") or int(key[4:]) > 4) and cards[key] for key in scamp)
    if is_scamp and all(re.fullmatch(r"(?:RA-|DEC)-*TAN(?:-SIP)?", text) for text in types):
        if asks and sip:
            for key in scamp:
                del cards[key]
            return ["the header has both SIP and PV distortions: SIP is used, as CTYPE declares"]
        for axis, text in zip((1, 2), types, strict=True):
            cards[f"CTYPE{axis}"] = text.removesuffix("-SIP").replace("TAN", "TPV")
        asks, types = False, [str(cards[f"CTYPE{axis}"]).strip() for axis in (1, 2)]
    if any(text.endswith("-TPV") for text in types):
        for axis in (1, 2):  # the default of TPV; wcslib would use 0
            cards.setdefault(f"PV{axis}_1", 1.0)
    if asks and not any(key in cards for key in ("A_ORDER", "B_ORDER")):
        return [
            "WARNING: WCS: CTYPE declares a SIP distortion, but its coefficients (A_ORDER, ...) are missing; "
            "the image is treated as undistorted"
        ]
    if not sip or asks:
        return []
    for key in sip:
        del cards[key]
    return [
        "WARNING: WCS: SIP coefficients (A_ORDER, ...), but CTYPE without -SIP: assumed to be left over from "
        "before a resampling, and not used; if the pixels are distorted, write -SIP into both CTYPE"
    ]


def _settle_frame(cards: fits.Header) -> list[str]:
    """Normalise the frame for astropy; equatorial frames are dropped for Galactic coordinates.

    An EPOCH other than those of catalogues is assumed to be the date of the observation; an EQUINOX of 0 is
    ignored. FK5 of J2000 is read as ICRS: catalogues in the ICRS are what images so labelled are tied to, and
    the 0.02 arcsec between these frames would shift bands on one grid by part of a pixel.
    """
    kinds = {str(cards[f"CTYPE{axis}"]).split("-")[0].strip().upper() for axis in (1, 2)}
    if kinds == {"GLON", "GLAT"}:
        for key in ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH"):
            cards.remove(key, ignore_missing=True)
    elif kinds != {"RA", "DEC"}:
        raise ValueError(
            f"CTYPE {cards['CTYPE1']}, {cards['CTYPE2']}: equatorial or Galactic coordinates are needed"
        )
    for key in ("EQUINOX", "EPOCH"):
        if isinstance(cards.get(key), str):
            number = re.search(r"\d{4}(?:\.\d*)?", cards[key])
            if number is None:
                raise ValueError(f"{key} = {cards[key]!r}")
            cards[key] = float(number[0])
        if key in cards and not (isinstance(cards[key], (int, float)) and 1800 < cards[key] < 2200):
            del cards[key]
    remarks = []
    if (epoch := cards.get("EPOCH")) not in (None, *_EQUINOXES) and "EQUINOX" not in cards:
        del cards["EPOCH"]
        remarks.append(
            f"WARNING: WCS: EPOCH = {epoch:g} is assumed to be the date of the observation; if the "
            "coordinates are for that equinox, write EQUINOX"
        )
    for key in ("RADESYS", "RADECSYS"):
        if key in cards:
            name = str(cards[key]).strip().upper()
            found = (frame for text, frame in _NAMES_OF_FRAMES.items() if re.fullmatch(text, name))
            name = next(found, name)
            if name not in ("", *_FRAMES):
                raise ValueError(f"{key} = {cards[key]!r}, which is none of {', '.join(_FRAMES)}")
            cards[key] = name
    equinox = cards.get("EQUINOX", cards.get("EPOCH"))
    frame = cards.get("RADESYS", cards.get("RADECSYS"))
    if kinds == {"RA", "DEC"} and frame in (None, "", "FK5") and equinox in (None, 2000.0):
        for key in ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH"):
            cards.remove(key, ignore_missing=True)
        cards["RADESYS"] = "ICRS"
    if equinox not in (None, *_EQUINOXES) and frame != "ICRS":
        remarks.append(
            f"WARNING: WCS: coordinates are precessed from EQUINOX = {equinox:g}; if that is the date of the "
            "observation, and the WCS was solved with a catalogue, write 2000"
        )
    return remarks


def _settle_matrix(cards: fits.Header) -> None:
    """Keep only the CD matrix if a header has a PC matrix too; raise if CDELT, PC and CROTA contradict it.

    Either may be the old one: programs that solve the astrometry write CD, and astropy PC with CDELT of 1. PC
    without CDELT, a mere rotation, contradicts nothing.

    The rotation belongs to the latitude axis (Calabretta & Greisen 2002, section 6.1).
    """
    cd, pc = ([k for k in cards if re.fullmatch(rf"{name}[12]_[12]", k)] for name in ("CD", "PC"))
    if not cd and not pc and not ("CDELT1" in cards and "CDELT2" in cards):
        raise ValueError("neither CD nor CDELT gives the pixel scale")
    steps = np.array([float(cards.get(f"CDELT{i}", 1)) for i in (1, 2)])
    by_cd, by_pc = (
        np.array([[float(cards.get(f"{name}{i}_{j}", unit and i == j)) for j in (1, 2)] for i in (1, 2)])
        for name, unit in (("CD", 0), ("PC", 1))
    )
    by_pc *= steps[:, None]
    latitude = 1 if str(cards["CTYPE1"]).upper().startswith(("DEC", "GLAT")) else 2
    angle, other = (float(cards.get(f"CROTA{axis}", 0)) for axis in (latitude, 3 - latitude))
    if other and not (angle or cd or pc):
        raise ValueError(f"CROTA{3 - latitude} = {other:g} without CROTA{latitude}, which is used")
    sin, cos = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    if pc and not cd and angle and not _alike(by_pc, np.array([[cos, -sin], [sin, cos]]) * steps):
        raise ValueError(f"the PC matrix and CROTA{latitude} = {angle:g} contradict each other")
    if not (cd and pc):
        return
    for key in pc:
        del cards[key]
    is_rotation = np.allclose(steps, 1) and np.allclose(np.linalg.norm(by_pc, axis=1), 1)
    if not is_rotation and not _alike(by_cd, by_pc):
        raise ValueError(
            "the CD matrix and PC with CDELT contradict each other: remove what is from before the image was "
            "resampled or solved"
        )


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.allclose(first, second, rtol=1e-4, atol=1e-4 * np.abs(first).max()))


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"^ERROR \d+ in \w+\(\) at line \d+ of file \S+:\s*", "", text).rstrip(".")
    return text[:200] or type(error).__name__


def pixel_scale_of(wcs: WCS) -> float:
    """Return the mean side of a pixel at the centre of the image, arcseconds."""
    return float(np.degrees(np.linalg.norm(_pixel_on_sky(wcs), axis=1)).mean()) * 3600


def pixel_area_of(wcs: WCS) -> float:
    """Return the area of a pixel at the centre of the image, steradian."""
    return float(np.linalg.norm(np.cross(*_pixel_on_sky(wcs))))


def _pixel_on_sky(wcs: WCS) -> np.ndarray:
    """Return the displacements on the unit sphere, ``(2, 3)``, of one pixel along each axis, at the centre.

    The nominal scale holds only at the projection's reference point; in a plate carrée, for example, rows
    shrink by cos δ.
    """
    width, height = (wcs.pixel_shape or 2 * wcs.wcs.crpix - 1)[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    world = wcs.all_pix2world([x, x + 1, x], [y, y, y + 1], 0)
    places = unit_vectors(world[wcs.wcs.lng], world[wcs.wcs.lat])
    return places[1:] - places[0]


def middle_of(wcs: WCS, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the ICRS position, degrees, of the middle of an image, ``(H, W)``."""
    with quiet():
        sky = wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2).icrs
    return float(sky.ra.deg), float(sky.dec.deg)


def offsets(one: WCS, other: WCS, centre: np.ndarray, other_centre: np.ndarray, aside: float) -> np.ndarray:
    """Return the distances, pixels, of image `other` from `one` on the sky, ``(3,)``.

    They are measured at the centres, ``(x, y)``, and `aside` pixels from them along x and along y.
    """
    steps = np.array([[0, aside, 0], [0, 0, aside]])
    mapped = np.array(map_pixels(one, other, *(centre[:, None] + steps)))
    return np.asarray(np.hypot(*(mapped - other_centre[:, None] - steps)))


def map_pixels(one: WCS, other: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map pixels x, y of image `one` to those of `other` at the same sky positions; NaN if there are none."""
    if not np.size(x):  # astropy rejects empty arrays
        return np.asarray(x, float), np.asarray(y, float)
    with quiet():
        sky = one.pixel_to_world(x, y)
    return pixels_at(other, sky)


def pixels_at(wcs: WCS, sky: SkyCoord) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels x, y of an image at sky positions; NaN if it has none there.

    SIP and lookup-table distortions are inverted by iteration. Far from the image, where their polynomials
    are meaningless, this may end at a pixel of another position, even within the image.
    """
    with quiet():
        x, y = (np.array(values, float) for values in wcs.world_to_pixel(sky))
        if wcs.has_distortion:
            is_wrong = ~(wcs.pixel_to_world(x, y).separation(sky).arcsec < pixel_scale_of(wcs))
            x[is_wrong] = y[is_wrong] = np.nan
    return x, y
