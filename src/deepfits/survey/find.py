"""Finding the images of a survey: which file is which band of which field.

A *field* is a piece of sky with one image per band: an HSC patch, an SDSS frame, a coadd. Known layouts:

``plain``
    ``coadd-<band>.fits`` with ``coadd-<band>.weight.fits``; one field in a directory, or one in each of its
    subdirectories.
``hsc``
    ``calexp-<filter>-<tract>-<patch>.fits``: image, mask and variance in HDUs 1 to 3. Other files of the same
    tract and patch (``Mega-u_<tract>_<x>c<y>.fits``) join the field.
``sdss``
    ``frame-<band>-<run>-<camcol>-<field>.fits.bz2``.
``generic``
    Any FITS image whose header (``FILTER``) or name tells the band; files that differ in the band alone are
    one field.

Where none of this fits, the mapping is given: ``images=["u=one.fits", "g=two.fits[1]"]``.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from deepfits.errors import InputError
from deepfits.files import require_regular
from deepfits.survey.bands import (
    UNSURE,
    band_name,
    band_of_header,
    band_of_name,
    is_instrument,
    is_known_band,
    passband,
    sort_bands,
)
from deepfits.survey.fitsfile import has_image, is_fits_name, opened, peek_headers, stamp, stem_of
from deepfits.survey.hdu_roles import (
    OTHER,
    ROLES,
    band_of_plane,
    meaning_of_mask,
    name_of,
    role_of,
    sky_images,
    words_of,
)
from deepfits.survey.places import fields_of_one_place, groups_of_one_place, lie_in_one_place
from deepfits.survey.weights import WEIGHT_ROLES

log = logging.getLogger(__name__)
_SDSS = re.compile(r"^frame-(?P<band>[ugriz])-(?P<field>\d+-\d-\d+)$")
_HSC = re.compile(r"^calexp-(?P<band>[A-Za-z0-9-]+)-(?P<tract>\d+)-(?P<patch>\d+,\d+)$")
_UNIONS = re.compile(
    r"^(?:calexp-)?(?:CFIS(?:_LSB)?|PSS?[-.]DR\d|WISHES)[._](?P<tile>\d{1,3}[._]\d{1,3})(?=$|[._])"
)
_PATCH = re.compile(r"(?P<tract>\d{4,5})[-_](?P<x>\d{1,2})[,cx](?P<y>\d{1,2})")
_EUCLID = re.compile(
    r"^EUC_MER_(?:(?:BGSUB-)?MOSAIC|(?P<other>BGMOD|[A-Z]+-PSF))-(?P<band>[A-Za-z0-9-]+?)"
    r"(?:-(?P<kind>RMS|FLAG))?_TILE(?P<tile>\d+)"
)
# std and n are scatter and numbers of images, -u holds the outliers that -m has not.
_UNWISE = re.compile(r"^(?P<name>unwise-\w+-w[1-4])-(?P<kind>img|invvar|std|n)-(?P<end>[mu])$")
# What a word of a file's name says about its pixels, where a file of the same name without it is there too.
KINDS = {word.lower(): role for role, words in ROLES.items() for word in words} | dict.fromkeys(
    OTHER, "other"
)
# Ends what is said of a mask (maskbits of the Legacy Surveys) or weights of all bands of a field together.
SHARED = " of all bands"
# Images that are not whole, or of formats that are not read, by the endings of their names.
_NO_IMAGE = re.compile(
    r"\.(?:asdf|jp2|tiff?)$|\.(?:fits?|fts|fz)(?:\.\w+)?(?:~|\.(?:part|partial|filepart|(?:cr)?download|tmp|bak|old|orig))$",
    re.IGNORECASE,
)
# Of several files, as archives send them.
_BUNDLE = re.compile(r"\.(?:tar(?:\.\w+)?|tgz|zip)$", re.IGNORECASE)
_IMAGE_WORDS = (
    *(
        "image",
        "img",
        "sci",
        "drz",
        "drc",
        "ooi",
        "opi",
        "osi",
        "osj",
        "oki",
        "bgsub",
        "int",
        "maic",
        "refimg",
    ),
    *("sciimg", "mosaic", "map"),
)
# Packed in ways that are not read.
_UNREADABLE = re.compile(r"\.(?:fits?|fts)\.(?:Z|zst|zip|lz4|7z|tar|lzma|br)$", re.IGNORECASE)
# Telescope and camera in names of MAST's high-level products, of which the bands of a field have several.
_HLSP = re.compile(r"^(hlsp_[a-z0-9-]+)_(?:hst|jwst)_[a-z0-9-]+(?=_)")
# The empty place in the second wheel, in names of Webb's mosaics beside Hubble's.
_CLEAR = re.compile(r"[-_. ]?clearp?(?=$|[-_. ])", re.IGNORECASE)
_HELD = {"weight": "weights", "ivar": "weights", "variance": "variances", "rms": "errors", "mask": "a mask"}
# Pixels: a file that is called a PSF and has more is none, if its header says where on the sky it is.
LARGEST_PSF = 100
# Directories deeper than so many below the one given are not looked at.
DEEPEST = 12
_EXPLICIT = re.compile(r"^(?P<band>[A-Za-z][A-Za-z0-9_*+-]{0,15})=(?P<path>.+)$")
_HDU = re.compile(r"^(?P<path>.+)\[(?P<hdu>\d{1,3})\]$")


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where the image of one band of one field lies.

    Attributes
    ----------
    band, field
        Short names.
    path
        The FITS file.
    hdu
        Number of the HDU with the image; None for the first that holds one.
    companions
        Files beside it and what they hold: one with weights, which are ``weight`` (inverse variance, maybe up
        to a factor), ``ivar``, ``variance`` or ``rms``; and one with a ``mask``. Those that end in `SHARED`
        are of all bands.
    layout
        ``plain``, ``hsc``, ``sdss`` or ``generic``.
    """

    band: str
    field: str
    path: Path
    hdu: int | None = None
    companions: tuple[tuple[Path, str], ...] = ()
    layout: str = "generic"


@dataclass(frozen=True, kw_only=True)
class FieldSources:
    """The images of one field, by band, in order of wavelength."""

    name: str
    images: dict[str, ImageSource] = field(default_factory=dict)

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands there are."""
        return tuple(self.images)


def find_fields(images: str | Path | Iterable[str | Path]) -> list[FieldSources]:
    """Find the fields in a directory, a file, or a list of them.

    Parameters
    ----------
    images
        A directory (and those below it, to the first with FITS files on each way), a FITS file, or a list of
        these; in a list, ``band=path`` says what band a file is, and ``path[2]`` which HDU.

    Returns
    -------
    list of FieldSources
        Sorted by name.

    Raises
    ------
    InputError
        Nothing found, no band to be told, or two files for one band of a field.
    """
    return _group(_all_sources(images))


def _all_sources(images: str | Path | Iterable[str | Path]) -> list[ImageSource]:
    """Return all images, those of files with several bands by their HDUs."""
    found = [s for item in _as_list(images) for source in _sources_of(item) for s in _of_each_band(source)]
    if not found:
        raise InputError(f"{_as_list(images)[0]}: no FITS image there; check the path")
    return found


def _of_each_band(source: ImageSource) -> list[ImageSource]:
    """Return one source for each image of a file that holds one for each of several bands."""
    if source.hdu is not None or source.layout == "hsc":
        return [source]
    found = _bands_of_hdus(peek_headers(source.path))
    if len(found) < 2 or len(set(found.values())) < len(found):
        return [source]
    return [replace(source, band=band, hdu=number) for number, band in found.items()]


def _bands_of_hdus(headers: list[dict[str, Any]]) -> dict[int, str]:
    """Return the bands that HDUs with images of the sky say, by number."""
    out = {}
    for number, header in enumerate(headers):
        name = str(header.get("EXTNAME", ""))
        if has_image(header) and role_of(name) is None:
            named = band_of_plane(name) or ""
            if band := band_of_header(header) or (named if is_known_band(named) else None):
                out[number] = band
    return out


def find_exposures(
    images: str | Path | Iterable[str | Path], *, bands: Iterable[str] | None = None
) -> dict[str, list[ImageSource]]:
    """Find images for stacking: any number for each band, whatever field their names say.

    Returns
    -------
    dict
        By band, in order of wavelength; sorted by path.

    Raises
    ------
    InputError
        Nothing found, or a wanted band missing.
    """
    sources = [s for found in _all_sources(images) for s in _chips(found)]
    there = sort_bands(s.band for s in sources)
    wanted = tuple(band_name(b) for b in bands) if bands is not None else there
    if missing := [b for b in wanted if b not in there]:
        raise InputError(
            f"no exposure in band {missing[0]}; there are {', '.join(there)}. Add the files, or say "
            "which they are with band=path"
        )
    return {
        b: sorted((s for s in sources if s.band == b), key=lambda s: (str(s.path), s.hdu or 0))
        for b in wanted
    }


def _chips(source: ImageSource) -> list[ImageSource]:
    """Return one source for each image of the sky in a file: the CCDs of a camera."""
    if source.hdu is not None or source.layout == "hsc":
        return [source]
    with opened(source.path) as hdus:
        numbers = sky_images(hdus)
        names = {n: name_of(hdus[n]) for n in numbers}
    first, *others = numbers or [0]
    for number in others:
        if names[number] != names[first] and lie_in_one_place((source.path, first), (source.path, number)):
            raise InputError(
                f"{source.path}: HDUs {first} ({names[first]}) and {number} ({names[number]}) show one piece "
                f"of sky, and are no CCDs of a camera; name the image: {source.band}={source.path}[{first}]"
            )
    return [replace(source, hdu=n) for n in numbers] if len(numbers) > 1 else [source]


def _as_list(images: str | Path | Iterable[str | Path]) -> list[str | Path]:
    out = [images] if isinstance(images, (str, Path)) else list(images)
    if not out:
        raise InputError("no images given; name a directory or FITS files")
    return out


def _sources_of(item: str | Path) -> list[ImageSource]:
    text, band, hdu = str(item), None, None
    path = Path(text)
    if not path.exists():
        if match := _EXPLICIT.match(text):
            band, text = match["band"], match["path"]
        if match := _HDU.match(text):
            text, hdu = match["path"], int(match["hdu"])
        path = Path(text)
    if path.is_file() and _BUNDLE.search(path.name):
        raise InputError(f"{path}: a bundle of files; unpack it, and give the directory")
    if path.is_dir():
        if band is not None:
            raise InputError(f"{item}: band=path needs a file, not a directory")
        return _sources_in(path)
    require_regular(path)
    if path.suffix.lower() in (".h5", ".hdf5", ".hdf", ".npz", ".npy"):
        raise InputError(
            f"{path}: arrays, not an image; say what they hold in a TOML file (bands, zero_point, "
            "pixel_scale_arcsec, ...) and give that"
        )
    return [_source(path, band=band, hdu=hdu)]


def _sources_in(directory: Path) -> list[ImageSource]:
    found = _in_one_directory(directory, field_name=None)
    for leaf in _leaves(directory):
        parts = leaf.relative_to(directory).parts
        bands = [band if not rest else None for band, rest in map(band_of_name, parts)]
        folder = next((band for band in reversed(bands) if band), None)
        name = "-".join(
            part for part, band in zip(parts, bands, strict=True) if not band and not is_instrument(part)
        )
        found += _in_one_directory(leaf, field_name=name or None, folder=folder)
        for below in _subdirectories(leaf):
            if _holds_files(below):
                log.warning(
                    "WARNING: %s: FITS files two directories below %s are not used; name it", below, directory
                )
    return found


def _leaves(directory: Path, depth: int = 1) -> list[Path]:
    """Return the directories below one that hold FITS files, each the first on its way down.

    Archives lay trees: ``HSC-G/9813/4,5/calexp-*.fits``, ``coadd/150/1501p020/``.
    """
    out = []
    for sub in _subdirectories(directory):
        below = _leaves(sub, depth + 1) if depth < DEEPEST and not _holds_files(sub) else []
        if below and _kind_of_folder(sub) is not None:
            log.warning(
                "WARNING: %s: not used, it holds %s by its name; put them beside their images",
                *(sub, _HELD.get(str(_kind_of_folder(sub)), "no images")),
            )
            continue
        out += below or [sub]
    return out


def _holds_files(directory: Path) -> bool:
    return any(is_fits_name(p) for p in directory.iterdir())


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))


def fits_files(directory: Path) -> list[Path]:
    """Return the FITS files of a directory.

    Raises
    ------
    InputError
        One that cannot be read: a broken link, a FIFO, a file without permission, a format to be unpacked.
    """
    out = []
    for path in sorted(directory.iterdir()):
        if _UNREADABLE.search(path.name) and path.is_file():
            raise InputError(f"{path}: this kind of compression is not read; unpack it, or move it elsewhere")
        if _NO_IMAGE.search(path.name) and path.is_file():
            log.warning("WARNING: %s: not used: no whole FITS file by its name", path)
        if _BUNDLE.search(path.name) and path.is_file():
            log.warning("WARNING: %s: a bundle of files is not read; unpack it", path)
        if is_fits_name(path) and (path.is_symlink() or not path.is_dir()):
            require_regular(path)
            out.append(path)
    return [p for p in out if not p.is_dir()]


def _in_one_directory(
    directory: Path, field_name: str | None, folder: str | None = None
) -> list[ImageSource]:
    """Find the images in a directory, `folder` where its name is a band: a field then lies in several."""
    sources = []
    files = fits_files(directory)
    for path in files:
        if is_companion(path) or _is_no_image_of_a_band(path):
            continue
        if (kind := kind_of(path)) is not None:
            raise InputError(
                f"{path}: holds {_HELD.get(kind, 'no image')} by its name or its header, but the image that "
                f"it belongs to is not there; restore that{_perhaps(path, files)}, or move this file "
                "elsewhere; if it is an image itself, say its band: band=path"
            )
        sources.append(_source(path, folder=folder))
    kind = _kind_of_folder(directory)
    if sources and kind in ROLES and any(kind_of(path) == kind for path in files):
        raise InputError(
            f"{sources[0].path}: lies among {_HELD[str(kind)]}, but no image beside this directory has its "
            "name; restore that, or move this file elsewhere"
        )
    names = {s.field for s in sources}
    if len(names) == 1 and field_name is not None and names <= {"", "coadd", "image", "img"}:
        sources = [replace(s, field=field_name) for s in sources]
    elif field_name is not None:
        joined = [replace(s, field="-".join(filter(None, (field_name, s.field)))) for s in sources]
        sources = [s if s.layout in ("hsc", "sdss") else j for s, j in zip(sources, joined, strict=True)]
    unnamed = (directory.parent if folder else directory).resolve().name
    return [s if s.field else replace(s, field=unnamed) for s in sources]


def _perhaps(path: Path, files: list[Path]) -> str:
    """Return how to name weights or a mask that may be of an image whose name differs in a word."""
    key, kind = split_name(_stem(path))
    alike = (p for p in files if len(set(split_name(_stem(p))[0]) ^ set(key)) == 1 and kind_of(p) is None)
    image = next(alike, None)
    return "" if image is None else f", or, if it is {image.name}, call this file {_stem(image)}.{kind}.fits"


def split_name(stem: str) -> tuple[tuple[str, ...], str | None]:
    """Split a file's name into what it shares with its weights and mask, and what its pixels are.

    Examples
    --------
    >>> split_name("legacysurvey-1501p020-image-g"), split_name("legacysurvey-1501p020-invvar-g")
    ((('legacysurvey', '1501p020', 'g'), None), (('legacysurvey', '1501p020', 'g'), 'ivar'))
    >>> split_name("SPLUS-s01_F660_swpweight")
    (('SPLUS', 's01', 'F660', 'swp'), 'weight')
    >>> split_name("tile_g_inverse_variance"), split_name("tile_g_rms_map")
    ((('tile', 'g'), 'ivar'), (('tile', 'g'), 'rms'))
    """
    if match := _EUCLID.match(stem):
        found = match["kind"]
        kind = KINDS[found.lower()] if found else "other" if match["other"] else None
        return (match["band"], match["tile"]), kind
    if match := _UNWISE.match(stem):
        kind = {"img": None, "invvar": "ivar"}.get(match["kind"], "other") if match["end"] == "m" else "other"
        return (match["name"],), kind
    words = words_of(stem)
    places = [i for i, w in enumerate(words) if w.lower() in KINDS and len(words) > 1]
    kind = KINDS[words[places[-1]].lower()] if places else None
    if kind == "weight" and "skycell" in words:
        kind = "variance"  # what Pan-STARRS calls wt
    dropped: tuple[str, ...] = _IMAGE_WORDS
    if kind == "variance" and {"inv", "inverse"} & {w.lower() for w in words}:
        kind, dropped = "ivar", (*_IMAGE_WORDS, "inv", "inverse")
    kept = (w for i, w in enumerate(words) if i not in places[-1:] and w.lower() not in dropped)
    return tuple(kept), kind


def _split(stem: str) -> tuple[tuple[str, ...], str | None]:
    """Split a name; one that is nothing but ``weight`` is of ``image.fits``, or of all bands beside it."""
    return ((), KINDS[stem.lower()]) if stem.lower() in KINDS else split_name(stem)


def _stem(path: Path) -> str:
    """Return a file's name without its ending: of ESO's archive, the one that the survey gave it."""
    name = peek_headers(path)[0].get("ORIGFILE") if path.name.startswith("ADP.") else None
    return stem_of(name if isinstance(name, str) and name else path)


_Member = tuple[Path, str | None]
_Kinds = dict[Path, tuple[tuple[str, ...], str | None]]


@cache
def _kinds_in(directory: Path, stamp: tuple[int, ...]) -> _Kinds:
    """Return what the FITS files of a directory share with their weights, and what they hold.

    A word such as "psf" or "model", or one that a name begins with, says nothing where no image is beside the
    file: it is an image itself. What headers of ESO's products say (ASSON, PRODCATG) counts before names.
    `stamp` is the directory's.
    """
    names = [p for p in sorted(directory.iterdir()) if is_fits_name(p) and not p.is_dir()]
    kinds: _Kinds = {path: _split(_stem(path)) for path in names}
    words = {path: words_of(_stem(path)) for path in names}
    bare = {path: tuple(w for w in words[path] if w.lower() not in _IMAGE_WORDS) for path in names}
    images = {key for key, kind in kinds.values() if kind is None}
    for path, (key, kind) in kinds.items():
        if kind == "other" and key not in images and "psf" in bare[path] and not _is_psf(path):
            kinds[path] = bare[path], None
    images = {key for key, kind in kinds.values() if kind is None}
    for path, (key, kind) in kinds.items():
        if images and _is_psf(path):
            continue
        begins = kind is not None and len(words[path]) > 1
        begins = begins and not any(w.lower() in KINDS for w in words[path][1:])
        if key not in images and (kind == "other" or (begins and _kind_of_folder(directory) is None)):
            kinds[path] = bare[path], None
    stated, linked = {path: _phase3(path) for path in names}, set()
    by_stem = {stem_of(path): path for path in names} | {_stem(path): path for path in names}
    for path, (own, _) in stated.items():
        kinds[path] = kinds[path][0], own or kinds[path][1]
    for path, (_, links) in stated.items():
        for name, kind in links:
            if (other := by_stem.get(stem_of(name))) is not None:
                if other in linked:
                    log.warning("WARNING: %s: its %s, %s, is another image's: not used", path, kind, name)
                else:
                    kinds[other] = kinds[path][0], kind
                linked.add(other)
            elif not any(k == kind for p, (key, k) in kinds.items() if key == kinds[path][0]):
                log.warning("WARNING: %s: its %s, %s (ASSON), is not beside it: not used", path, kind, name)
    return kinds


def _is_psf(path: Path) -> bool:
    """Return whether a file holds a PSF by its name, as those that HSC's service sends beside cutouts.

    A large image with a WCS is one of the sky that was brought to another PSF (``subaru_B_psf.fits``).
    """
    words = words_of(_stem(path).lower())
    if "psf" not in words or len(words) == 1:
        return "psf" in words
    image = next((header for header in peek_headers(path) if has_image(header)), {})
    sides = [image.get(f"ZNAXIS{n}", image.get(f"NAXIS{n}", 0)) for n in (1, 2)]
    return not ("CTYPE1" in image and min(sides) >= LARGEST_PSF)


def _phase3(path: Path) -> tuple[str | None, list[tuple[str, str]]]:
    """Return what a file of ESO's says that it holds, and names and kinds of what belongs to it."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return None, []
    with path.open("rb") as handle:
        if b"PRODCATG" not in handle.read(1 << 16):
            return None, []
    header = next((h for h in peek_headers(path)[:2] if "PRODCATG" in h), {})
    own, links = str(header.get("PRODCATG")), []
    for number in range(1, 10):
        kind = role_of(str(header.get(f"ASSOC{number}", "")))
        if kind in ROLES:
            links.append((str(header.get(f"ASSON{number}")), str(kind)))
    return role_of(own) if own.startswith("ANCILLARY") else None, links


def says_what_it_holds(name: str) -> bool:
    """Return whether a directory's name says what its files hold, such as ``images`` or ``weights``."""
    return bool({name.lower(), name.lower().removesuffix("s")} & {*KINDS, *_IMAGE_WORDS})


def _kind_of_folder(directory: Path) -> str | None:
    """Return what the files of a directory hold by its name, such as ``weights`` or ``invvar``."""
    name = Path(os.path.abspath(directory)).name.lower()
    kind = KINDS.get(name, KINDS.get(name.removesuffix("s")))
    return None if name.startswith("exp") else kind  # exposures are images


@cache
def _folders_in(directory: Path, stamp: tuple[int, ...]) -> dict[Path, str | None]:
    """Return the directories in one, and what their files hold by their names."""
    with os.scandir(directory) as entries:
        folders = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return {folder: _kind_of_folder(folder) for folder in folders}


def sisters(directory: Path) -> dict[Path, str | None]:
    """Return the directories of weights beside or in one of images, or those of images for one of weights."""
    here = Path(os.path.abspath(directory))
    try:
        found = _folders_in(here.parent, stamp(here.parent))
    except OSError:  # not ours to read
        return {}
    is_image = _kind_of_folder(here) is None
    found = found | (
        _folders_in(here, stamp(here)) if is_image else {here.parent: _kind_of_folder(here.parent)}
    )
    return {f: kind for f, kind in found.items() if (kind is None) != is_image and os.access(f, os.R_OK)}


@cache
def _families_in(directory: Path, stamp: tuple[int, ...]) -> dict[tuple[str, ...], list[_Member]]:
    """Return the files of a directory that share a name, and what they hold."""
    out: dict[tuple[str, ...], list[_Member]] = defaultdict(list)
    for path, (key, kind) in _kinds_in(directory, stamp).items():
        out[key].append((path, kind))
    return dict(out)


def _family(path: Path) -> list[_Member]:
    """Return the files that share a name with this one, and what they hold; also in sister directories."""
    here = stamp(path.parent)
    key = _kinds_in(path.parent, here).get(path, split_name(_stem(path)))[0]
    found = list(_families_in(path.parent, here).get(key, ()))
    for folder, kind in sisters(path.parent).items():
        there = _families_in(folder, stamp(folder)).get(key, ())
        found += [(other, own or kind) for other, own in there]
    return found


def kind_of(path: Path) -> str | None:
    """Return what a file holds by its name, by its header or by its directory's name; None for an image."""
    kind = _kinds_in(path.parent, stamp(path.parent)).get(path, split_name(_stem(path)))[1]
    folder = _kind_of_folder(path.parent)
    is_beside = (
        kind is None
        and folder is not None
        and any(other.parent != path.parent and its is None for other, its in _family(path))
    )
    return folder if is_beside else kind


def is_companion(path: Path) -> bool:
    """Return whether a file holds weights or a mask for another one beside it."""
    return kind_of(path) is not None and any(kind is None for _, kind in _family(path))


def _is_no_image_of_a_band(path: Path) -> bool:
    """Return whether a file can be no image of one band: a table, or a map of all bands together."""
    headers = peek_headers(path)
    if not any(has_image(header) for header in headers):
        if not any(header.get("XTENSION") in ("BINTABLE", "TABLE") for header in headers):
            log.warning("%s: no image in this file; not used", path)
        elif any(str(header.get(f"TTYPE{n}")).upper() == "IMAGE" for header in headers for n in range(1, 9)):
            log.warning(
                "WARNING: %s: an image in a column of a table is not read; write it as an image", path
            )
        return True
    key, kind = _split(_stem(path))
    if kind_of(path) == "other" and _is_psf(path):
        log.warning("%s: a PSF; not used, unless you say whose: --psf BAND=%s", path, path.name)
        return True
    if kind is None or band_of_name(_stem(path))[0] is not None:
        return False
    kinds = _kinds_in(path.parent, stamp(path.parent))
    serves_all = any(_is_for_all(key, other) for its, (other, _) in kinds.items() if its != path)
    is_alone = all(its is not None for other, (_, its) in kinds.items() if other != path)
    if not serves_all and (kind != "other" or is_alone or any(map(band_of_header, headers))):
        return False
    what, use = "a map", "not used"
    if kind == "mask":
        says = meaning_of_mask(_stem(path)) is not None
        what = "a mask"
        use = "used" if says else "not used unless bad_planes or mask_polarity say what it means"
    elif kind in ROLES:
        what, use = str(_HELD[kind]), "used where a band has none of its own"
    log.warning("%s: %s of no single band; %s", path, what, use)
    return True


def _is_for_all(key: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether a name is that of another file without one word, the band."""
    return len(other) == len(key) + 1 and set(key) < set(other)


def companions_of(path: Path) -> tuple[tuple[Path, str], ...]:
    """Return the files with weights and mask of an image, and what they hold."""
    if kind_of(path) is not None:
        return ()
    found = [(other, kind) for other, kind in _family(path) if kind is not None and kind != "other"]
    weights = [kind for role in WEIGHT_ROLES for _, kind in found if kind == role]
    for kind in (*weights[:1], "mask"):
        alike = [p.name for p, its in found if its == kind]
        if len(alike) > 1:
            what = "mask" if kind == "mask" else "weight"
            raise InputError(f"{path}: two {what} files, {' and '.join(alike)}; keep one beside the image")
    for other, kind in [(p, kind) for p, kind in found if kind in weights[1:]]:
        log.warning("%s: not used: the %s of this image tells its weights", other, weights[0])
        found.remove((other, kind))
    for roles in (("mask",), WEIGHT_ROLES):
        if not any(kind in roles for _, kind in found):
            shared = [(p, kind) for p, kind in _of_all_bands(path) if kind in roles]
            shared.sort(key=lambda member: roles.index(member[1]))
            found += [(p, f"{kind}{SHARED}") for p, kind in shared[:1]]
    for other, _ in found:
        require_regular(other)
    return tuple(found)


def _of_all_bands(path: Path) -> list[tuple[Path, str]]:
    """Return the files of weights and masks that have the name of an image without its band."""
    kinds = _kinds_in(path.parent, stamp(path.parent))
    mine = kinds.get(path, split_name(_stem(path)))[0]
    return [
        (other, kind)
        for other, (key, kind) in kinds.items()
        if kind in ROLES
        and _is_for_all(key, mine)
        and band_of_name(_stem(other))[0] is None
        and not is_companion(other)
    ]


def _source(
    path: Path, *, band: str | None = None, hdu: int | None = None, folder: str | None = None
) -> ImageSource:
    stem = _stem(path)
    if match := _SDSS.match(stem):
        return ImageSource(
            band=band or match["band"],
            field=match["field"],
            path=path,
            hdu=0 if hdu is None else hdu,
            layout="sdss",
        )
    if match := _HSC.match(stem):
        return ImageSource(
            band=band or band_name(match["band"]),
            field=f"{match['tract']}-{match['patch']}",
            path=path,
            hdu=hdu,
            layout="hsc",
        )
    if (head := path.with_name(f"{stem}.head")).is_file():
        log.warning(
            "WARNING: %s: SCAMP's header beside the image is not read; write its cards into the image, or "
            "run SWarp",
            head,
        )
    plain = re.sub(r"IRAC[._](?=[1-4]\b)", "IRAC", _CLEAR.sub("", _HLSP.sub(r"\1", stem)))
    named, rest = band_of_name(plain)
    if match := _EUCLID.match(stem):
        named, rest = band_name(match["band"]), f"TILE{match['tile']}"
    patch = _PATCH.search(rest)
    is_named = band is not None
    band = band or _band_of(path, stem, named, folder)
    if patch:
        rest = f"{patch['tract']}-{patch['x']},{patch['y']}"
    elif is_named:
        rest = ""  # whoever names the bands names one field
    elif match := _UNIONS.match(stem):
        rest = match["tile"].replace("_", ".")  # each band has a survey of its own
    elif named != band and not _EUCLID.match(stem):
        plain = re.sub(rf"(?<![^-_. ])I(?={band[-1]}[-_. ])", "IRAC", plain) if "IRAC" in band else plain
        there, without = band_of_name(plain, {band})
        rest = without if there else _without_band(plain, band) if named is None else rest
    layout = "plain" if stem.startswith("coadd-") else "generic"
    return ImageSource(
        band=band, field=rest, path=path, hdu=hdu, companions=companions_of(path), layout=layout
    )


def _without_band(stem: str, band: str) -> str:
    """Return a name without the word that means a band: what the files of one field share.

    Examples
    --------
    >>> _without_band("STRIPE82-0001_F660_swp", "F660"), _without_band("6778_01500", "g")
    ('STRIPE82-0001-swp', '6778_01500')
    """
    words = list(re.finditer(r"[^-_. ]+", stem))
    word = next((w for w in reversed(words) if passband(w[0]) == passband(band)), None)
    if word is None:
        return stem
    return re.sub(r"[-_. ]{2,}", "-", stem[: word.start()] + stem[word.end() :]).strip("-_. ")


def _band_of(path: Path, stem: str, named: str | None, folder: str | None = None) -> str:
    """Return the band that header and name tell, else the folder's; that the first two differ is an error."""
    headers = peek_headers(path)
    images = [h for h in headers if has_image(h)]
    stated = next((b for b in map(band_of_header, [headers[0], *images]) if b), None)
    if stated is None and named is None:
        stated = next(iter(_bands_of_hdus(headers).values()), None)
    if stated is None and named is None and folder is not None:
        return folder
    if stated is None and named is None:
        if any(h.get("NAXIS") == 3 or h.get("ZNAXIS") == 3 for h in images):
            raise InputError(
                f"{path}: a cube, not an image; for cutouts with all bands in one file write a TOML file "
                "(docs/how-to/survey-files.md); else split it into one image for each band"
            )
        raise InputError(
            f"{path}: neither the header (FILTER) nor the name tells the band; say it: "
            f"images=['g={path.name}', ...]"
        )
    if stated is None or named is None:
        return str(stated or named)
    last = re.split(r"[-_. ]+", stem)[-1]
    is_last = band_of_name(last)[0] == named and is_known_band(named) and last not in UNSURE
    if is_last and not _may_be_one_band(stated, named):
        raise InputError(
            f"{path}: the header says band {stated}, the name {named}; say which it is: "
            f"{stated}={path.name} or {named}={path.name}"
        )
    return stated


def _may_be_one_band(stated: str, named: str) -> bool:
    """Return whether two names may mean one band: K and Ks, u and ustar, R and r, W1 and w1."""
    one, other = stated.lower(), named.lower()
    return one.startswith(other) or other.startswith(one)


def _group(sources: list[ImageSource]) -> list[FieldSources]:
    groups: dict[str, dict[str, ImageSource]] = defaultdict(dict)
    for source in sources:
        name = source.field or source.path.resolve().parent.name
        there = groups[name].setdefault(source.band, source)
        if there is not source and there.path.resolve() != source.path.resolve():
            raise InputError(
                f"{source.path}: a second {source.band} image of field {name!r}, beside {there.path}; put "
                "fields into directories of their own, move the one that is not meant away, or stack "
                "exposures first with `deepfits stack`"
            )
    _warn_of_namesakes(sources)
    named = {name: {b: (s.path, s.hdu) for b, s in images.items()} for name, images in groups.items()}
    joined = fields_of_one_place(named)
    for first, *others in joined:
        for other in others:
            groups[first] |= {b: replace(s, field=first) for b, s in groups.pop(other).items()}
    _warn_of_maps(groups, [names[0] for names in joined])
    return [
        FieldSources(name=n, images={b: groups[n][b] for b in sort_bands(groups[n])}) for n in sorted(groups)
    ]


def _warn_of_maps(groups: Mapping[str, Mapping[str, ImageSource]], joined: list[str]) -> None:
    """Warn of fields of the same bands in one place, which may be weights of the others (xgsci, xgwht)."""
    first_of = {name: next(iter(groups[name].values())) for name in joined}
    for alike in groups_of_one_place({name: (s.path, s.hdu) for name, s in first_of.items()}):
        for first, second in pairwise(alike):
            if common := sorted(groups[first].keys() & groups[second].keys()):
                log.warning(
                    "WARNING: %s and %s show one piece of sky in one band: if one of them holds weights, a "
                    "mask or another map, call it so (.weight, .rms, .mask), else move it away",
                    *(groups[first][common[0]].path, groups[second][common[0]].path.name),
                )


def _warn_of_namesakes(sources: list[ImageSource]) -> None:
    """Warn of images that have another's name but for a word, its band and its place: maps more likely."""
    words = {s.path: frozenset(words_of(_stem(s.path))) for s in sources}
    there = {(s.path.parent, s.band, words[s.path]): s for s in sources}
    found: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for source in sources:
        for word in sorted(w for w in words[source.path] if not w.isdigit()):
            other = there.get((source.path.parent, source.band, words[source.path] - {word}))
            if other is not None and lie_in_one_place((source.path, source.hdu), (other.path, other.hdu)):
                found[word].append((source.path, other.path))
    for word, pairs in found.items():
        log.warning(
            "WARNING: %s%s: in band and place of %s, whose name lacks %r: taken as a field of its own; if it "
            "holds weights, a mask or another map, call it so (.weight, .rms, .mask), else move it away",
            *(pairs[0][0], f" and {len(pairs) - 1} others" * (len(pairs) > 1), pairs[0][1].name, word),
        )
