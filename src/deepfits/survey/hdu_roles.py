"""Roles of the HDUs of a FITS file by their names: images of the sky, weights, masks, other maps."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from astropy.io import fits

from deepfits.errors import InputError
from deepfits.survey.bands import band_name, band_of_name, is_known_band
from deepfits.survey.fitsfile import image_hdus

# Words of masks that define the meaning of non-zero pixels.
_MEANINGS = {
    **dict.fromkeys(("BAD", "STAR", "BRIGHTSTAR", "HALO", "SAT", "SATURATION", "COSMIC"), "bad"),
    **dict.fromkeys(("GOOD", "VALID"), "good"),
}
MEANING_OF_MASK = {
    **{
        f"{what}{of}{end}": meaning
        for what, meaning in _MEANINGS.items()
        for of in ("", "PIX", "PIXEL", "PIXELS")
        for end in ("", "MASK", "MSK", "MAP")
        if of + end not in ("", "MAP")
    },
    **dict.fromkeys(("BPM", "BPMASK", "OOD", "OPD", "OSD", "OKD"), "bad"),  # OOD to OKD are NOIRLab's
}
_NAMES = {
    "mask": (
        *MEANING_OF_MASK,
        *("MASK", "MSK", "DQ", "FLAG", "FLAGS", "FLG", "MASKBITS", "DQMASK", "MDMSK"),
        *("MSKIMG", "QUALITY", "QUAL"),
    ),
    "variance": ("VARIANCE", "VAR", "STAT"),
    "ivar": ("IVAR", "INVVAR", "INVAR", "IVM", "INVVARIANCE"),
    "rms": (
        *("ERR", "ERROR", "ERRORS", "RMS", "SIG", "SIGMA", "STD", "STDEV", "STDDEV", "NOISE"),
        *("UNC", "UNCERT", "UNCERTAINTY", "MUNC", "REFUNC", "SKYSTD"),
    ),
    "weight": (
        *("WEIGHT", "WEIGHTS", "WHT", "WGT", "WT", "WEI", "CONF", "CONFIDENCE", "WMAP"),
        *("OOW", "OPW", "OSW", "OKW"),
    ),
}
# Words for each role, in names of HDUs, and of files if a file whose name lacks the word exists too.
ROLES = {role: (*names, *(f"{name}MAP" for name in names)) for role, names in _NAMES.items()}
# Words for other maps, in names of files and of HDUs; these are not images of the sky.
OTHER = (
    "depth", "galdepth", "nexp", "psfsize", "chi2", "model", "blobmodel", "resid", "exp", "expwt", "num",
    "ctx", "seg", "segm", "bkg", "background", "nimg", "psf", "cnt", "rrhr", "skybg", "intbgsub", "cov",
    "coverage", "mcov", "refcov", "nexpo", "exposure", "expmap", "hits", "residual", "bkgd", "bgmod",
    "nobkg", "segmap", "segmentation", "det", "detection", "chimean", "exptime", "texp", "depthmap", "sky",
    "snr", "nimage", "sum", "srcmask", "sourcemask", "objmask", "area", "footprint",
)  # fmt: skip
# Words for maps of exposure time or of numbers of exposures.
_EXPOSURES = {
    *("EXP", "EXPTIME", "TEXP", "EXPMAP", "EXPOSURE", "NEXP", "NEXPO", "NIMG", "NIMAGE", "HITS", "RRHR"),
    *(f"{start}{word}" for start in ("", "M") for word in ("COV", "COVERAGE")),
}
# Words for other maps in names of HDUs: also contexts, exposures, distortions, skies, parts of a variance.
_OTHER = {
    *map(str.upper, OTHER),
    *("CON", "NIM", "WCSDVARR", "D2IMARR", "POISSON", "RNOISE", "FLAT", "SN"),
    *("SEGMENTMAP", "BACK", "BKGMASK", "ZODI", "DETECTIONS", "CLUMPS", "OBJECTS"),
}
# Kinds of uncertainty in astropy's CCDData (UTYPE).
_UTYPES = {"stddevuncertainty": "RMS", "varianceuncertainty": "VAR", "inversevariance": "IVAR"}
# Kinds of error in ESO's standard (HDUCLAS3 where HDUCLAS2 is ERROR), and of plane (HDUCLAS2).
_CLASSES = {"MSE": "VAR", "RMSE": "RMS", "INVMSE": "IVAR", "ERROR": "ERR", "QUALITY": "MASK"}
# Words that do not tell one image from another.
_COMMON = ("SCI", "IMAGE", "IMG", "PRIMARY", "DATA", "MAP", "CUTOUT", "COMPRESSED", "INVERSE", "INV")
# Compounds that count as one word: bad_pixel_mask, bkg_sub, Rubin's n_image, Gnuastro's NO-SKY and SKY_STD.
_ONE_WORD = re.compile(
    r"(?<![A-Z])(?:n[-_. ]image|no[-_. ]sky|sky[-_. ]std|"
    r"(?:bkg|background|sky|psf)[-_. ](?:sub(?:tracted)?|removed|free|match(?:ed)?)|"
    r"(?:bad|good|valid|(?:bright[-_. ]?)?star|saturation)"
    r"(?:[-_. ]?pix(?:els?)?[-_. ]?(?:mask|msk|map)?|[-_. ](?:mask|msk)))(?![A-Z])",
    re.IGNORECASE,
)
# What the name of an image without its sky adds to that of the same image with it: SCI_BKSUB of CEERS.
_SUBTRACTED = re.compile(r"[-_. ]?(?:bk|bkg|background|sky)[-_. ]?sub(?:tracted)?$", re.IGNORECASE)
LEAST_AREA = 0.5  # minimum area of further images of the sky, relative to the first


def role_of(name: str) -> str | None:
    """Determine an HDU's role from its name: one of `ROLES`, ``other``, or None for an image.

    Examples
    --------
    >>> role_of("SCI"), role_of("WHT"), role_of("VAR_POISSON"), role_of("1-1.E.RMS"), role_of("INVERSE_VAR")
    (None, 'weight', 'other', 'rms', 'ivar')
    >>> role_of("SKY"), role_of("SCI_SKY_SUB"), role_of("INPUT-NO-SKY"), role_of("SKY_STD")
    ('other', None, None, 'rms')
    """
    words = words_of(name.upper())
    if any(w in _OTHER for w in words):
        return "other"
    role = next((role for role, names in ROLES.items() if any(w in names for w in words)), None)
    return "ivar" if role == "variance" and {"INVERSE", "INV"} & set(words) else role


def is_exposure_map(name: str) -> bool:
    """Return whether a file or HDU, by its name, holds exposure times or numbers of exposures."""
    return bool(_EXPOSURES & set(words_of(name.upper())))


def words_of(name: str) -> list[str]:
    """Split the name of a file or an HDU into words.

    Examples
    --------
    >>> words_of("tile_g_bad_pixel_mask"), words_of("SPLUS-s01_F660_swpweight")
    (['tile', 'g', 'badpixelmask'], ['SPLUS', 's01', 'F660', 'swp', 'weight'])
    """
    joined = _ONE_WORD.sub(lambda words: re.sub("[-_. ]", "", words[0]), name)
    # In S-PLUS and J-PLUS the weights of swp are called swpweight.
    return [word for word in re.split(r"[-_. ]+|(?<=[a-z])(?=weights?(?:$|[-_. ]))", joined) if word]


def meaning_of_mask(*names: str) -> str | None:
    """Return the meaning of non-zero pixels by a mask's names: ``bad``, ``good``, or None if undefined."""
    words = [word for name in names for word in words_of(name.upper())]
    return next((MEANING_OF_MASK[word] for word in words if word in MEANING_OF_MASK), None)


def is_ccd_data(hdus: Iterable[Any]) -> bool:
    """Return whether astropy's CCDData wrote a file, by the kind of its errors: its masks are 1 if bad."""
    return any(str(hdu.header.get("UTYPE", "")).strip().lower() in _UTYPES for hdu in hdus)


def name_of(hdu: Any) -> str:
    """Return an HDU's name, or for unnamed HDUs the role in other cards (HSC, viewer of the Legacy Surveys).

    UTYPE of astropy's uncertainties, and HDUCLAS2 and 3 of ESO's planes, are translated to names of roles.
    """
    return name_in(hdu.header, str(hdu.name))


def name_in(header: Mapping[str, Any], name: str) -> str:
    """Return what `name_of` does, given the header and EXTNAME of an HDU."""
    if (kind := _UTYPES.get(str(header.get("UTYPE", "")).strip().lower())) is not None:
        return kind
    plane, kind_of_error = (str(header.get(f"HDUCLAS{n}", "")).strip().upper() for n in (2, 3))
    if name in ("", "PRIMARY", "COMPRESSED_IMAGE"):
        stated = (str(header.get(key, "")) for key in ("EXTTYPE", "IMTYPE", "IMAGETYP"))
        name = next((text for text in stated if role_of(text) in ROLES), name)
    if plane == "ERROR" and kind_of_error in _CLASSES:
        return _CLASSES[kind_of_error]
    return _CLASSES.get(plane, name) if role_of(name) is None else name


def role_of_hdu(hdu: Any) -> str | None:
    """Return an HDU's role by `name_of`; see `role_of`."""
    return role_of(name_of(hdu))


def image_words(name: str) -> list[str]:
    """Return the words of a name that identify the image: ``["G"]`` for ``WHT_G``."""
    roles = {word for names in ROLES.values() for word in names}
    return [word for word in words_of(name.upper()) if word not in _COMMON and word not in roles]


def band_of_plane(name: str) -> str | None:
    """Return the band in an HDU's name, ``g`` for ``SCI_G``; None if there is no word for it.

    As FITS writes names of HDUs in upper case, single letters U to Y mean the optical bands.
    """
    rest = [word for word in image_words(name) if role_of(word) is None]
    if not rest:
        return None
    if len(rest[-1]) == 1 and rest[-1] in "UGRIZY":
        return rest[-1].lower()
    return band_of_name("_".join(rest))[0] or band_name("_".join(rest))


def known_band_of_plane(name: str) -> str | None:
    """Return the band in an HDU's name as `band_of_plane` does, if surveys use it; else None.

    Examples
    --------
    >>> known_band_of_plane("PSF_G"), known_band_of_plane("CCD12")
    ('g', None)
    """
    band = band_of_plane(name)
    return band if band is not None and is_known_band(band) else None


def extras_of(hdus: fits.HDUList, image: Any, path: Path) -> dict[str, Any]:
    """Return the HDUs with weights and mask of one image of a file, by role.

    They have the image's version (Hubble's EXTVER). If there are several images, they are matched by name
    (``SCI_G`` and ``WHT_G``), otherwise by order if there are as many planes as images; a single plane
    applies to all images. Raise `InputError` if the match is ambiguous.
    """
    alike = [n for n in image_hdus(hdus) if hdus[n].ver == image.ver]
    numbers = alike if len(alike) > 1 else image_hdus(hdus)  # a unique version tells nothing
    own = number_of(hdus, image)
    images = [n for n in numbers if role_of_hdu(hdus[n]) is None]
    images = images if own in images else [own]
    out: dict[str, Any] = {}
    for role in ROLES:
        candidates = [n for n in numbers if n != own and role_of_hdu(hdus[n]) == role]
        namesakes = [n for n in candidates if image_words(name_of(hdus[n])) == image_words(name_of(image))]
        if len(images) > 1:
            candidates = [n for n in candidates if not image_words(name_of(hdus[n]))]
            if len(candidates) == len(images):
                candidates, namesakes = [candidates[images.index(own)]], []
            elif len(candidates) > 1 and not (namesakes and image_words(name_of(image))):
                raise InputError(
                    f"{path}: {len(images)} images and {len(candidates)} planes that may be the {role} of "
                    f"HDU {own}, in HDUs {', '.join(map(str, candidates))}; name them after the images "
                    "(SCI_G, WHT_G), or put each image with its own planes into a separate file"
                )
        if namesakes or candidates:
            out[role] = hdus[(namesakes or candidates)[0]]
    return out


def further_masks(hdus: fits.HDUList, mask: Any, file: fits.HDUList | None) -> list[Any]:
    """Return further HDUs with masks of an image, in addition to the HDU `mask`.

    One kind holds planes beyond the bits of the first HDU's integers; Rubin's newer files put these into a
    second HDU of the same name, with a version (EXTVER) that no image has. The other kind is masks with other
    names. `file` is the file of the mask, if that is not the image's.
    """
    images = [n for n in image_hdus(hdus) if role_of_hdu(hdus[n]) is None]
    versions, file = {hdus[n].ver for n in images}, hdus if file is None else file
    out = []
    for hdu in (file[n] for n in image_hdus(file)):
        name = name_of(hdu)
        if hdu is mask or hdu.shape != mask.shape or role_of(name) != "mask":
            continue
        is_more = hdu.ver not in {*versions, mask.ver}
        is_other = len(images) == 1 and image_words(name) == image_words(name_of(mask))
        if is_more if name == name_of(mask) else is_other:
            out.append(hdu)
    return out


def number_of(hdus: fits.HDUList, hdu: Any) -> int:
    """Return the index of an HDU in its file."""
    return next(i for i, other in enumerate(hdus) if other is hdu)


def _area(hdu: Any) -> int:
    return int(hdu.shape[-2]) * int(hdu.shape[-1])


def sky_images(hdus: fits.HDUList) -> list[int]:
    """Return the numbers of the HDUs that hold images of the sky.

    These are the first image without a role, and later ones of similar size that have a WCS: the CCDs of a
    camera, or bands. Small images without WCS beside one with a WCS are ignored as previews, and so is an
    image beside the same without its sky.
    """
    names = {n: name_of(hdus[n]) for n in image_hdus(hdus)}
    with_sky = {_SUBTRACTED.sub("", name) for name in names.values() if _SUBTRACTED.search(name)}
    plain = [n for n, name in names.items() if role_of(name) is None and name not in with_sky]
    largest = max((_area(hdus[n]) for n in plain if "CTYPE1" in hdus[n].header), default=0)
    plain = [n for n in plain if "CTYPE1" in hdus[n].header or _area(hdus[n]) >= LEAST_AREA * largest]
    if not plain:
        return []
    area = _area(hdus[plain[0]])
    return [plain[0]] + [
        n for n in plain[1:] if "CTYPE1" in hdus[n].header and _area(hdus[n]) >= LEAST_AREA * area
    ]
