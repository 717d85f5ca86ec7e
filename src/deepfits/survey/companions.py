"""Companions of an image: the files with its weights or its mask, recognised by names and headers."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from deepfits.errors import InputError
from deepfits.files import require_regular
from deepfits.survey.bands import band_of_header, band_of_name
from deepfits.survey.file_names import HELD, IMAGE_WORDS, KINDS, given_name, kind_of_folder, split_name
from deepfits.survey.fitsfile import axes_of, has_image, is_fits_name, peek_headers, stamp, stem_of
from deepfits.survey.hdu_roles import ROLES, is_exposure_map, meaning_of_mask, role_of, words_of
from deepfits.survey.weights import WEIGHT_ROLES

log = logging.getLogger(__name__)
# Suffix of the role of a mask (maskbits of the Legacy Surveys) or weights that apply to all bands of a field.
SHARED = " of all bands"
# Files named "psf" with at least this many pixels a side and a WCS are not PSFs but images.
LARGEST_PSF = 100
_SCATTER = {"std", "stdev", "stddev"}
_Member = tuple[Path, str | None]
_Kinds = dict[Path, tuple[tuple[str, ...], str | None]]


def kind_of(path: Path) -> str | None:
    """Return a file's role by its name, its header or its directory's name; None for an image."""
    _, kind = _key_and_kind(path)
    if kind is not None or (folder := _kind_of_all(path.parent)) is None:
        return kind
    is_beside = any(other.parent != path.parent and role is None for other, role in _family(path))
    return folder if is_beside else None


def is_companion(path: Path) -> bool:
    """Return whether a file holds a map, such as weights or a mask, of an image that exists too."""
    return kind_of(path) is not None and any(kind is None for _, kind in _family(path))


def companions_of(path: Path) -> tuple[tuple[Path, str], ...]:
    """Return the files with weights and mask of an image, and their roles."""
    if kind_of(path) is not None:
        return ()
    companions = _beside(path)
    weights = _weights_in(companions)
    for kind in (*weights[:1], "mask"):
        alike = [str(p) for p, role in companions if role == kind]
        if len(alike) > 1:
            what = "mask" if kind == "mask" else "weight"
            raise InputError(f"{path}: two {what} files, {' and '.join(alike)}; keep one beside the image")
    companions = [(other, kind) for other, kind in companions if kind not in weights[1:]]
    for roles in (("mask",), WEIGHT_ROLES):
        if not any(kind in roles for _, kind in companions):
            shared = [(p, kind) for p, kind in _of_all_bands(path) if kind in roles]
            shared.sort(key=lambda member: roles.index(member[1]))
            companions += [(p, f"{kind}{SHARED}") for p, kind in shared[:1]]
    for other, _ in companions:
        require_regular(other)
    return tuple(companions)


def _beside(path: Path) -> list[tuple[Path, str]]:
    """Return the files with weights and mask of an image, and their roles, of all kinds of weights.

    The scatter of the exposures (``std`` of MOPEX, beside the ``unc`` of their mean) is no further one.
    """
    beside = [(other, kind) for other, kind in _family(path) if kind is not None and kind != "other"]
    errors = {other for other, kind in beside if kind == "rms"}
    scatter = {other for other in errors if _SCATTER & {w.lower() for w in words_of(stem_of(other))}}
    return [member for member in beside if scatter == errors or member[0] not in scatter]


def _weights_in(companions: Iterable[tuple[Path, str]]) -> list[str]:
    """Return the kinds of weights, the one that is used first."""
    kinds = [kind for _, kind in companions]
    return [kind for role in WEIGHT_ROLES for kind in kinds if kind == role]


def log_remarks(images: Iterable[Path]) -> None:
    """Log, once for all images, which files of weights are not used because there are better ones.

    Also which files named in the headers of ESO's products are missing.
    """
    paths = dict.fromkeys(images)
    for directory in dict.fromkeys(path.parent for path in paths):
        for text in _kinds_in(directory, stamp(directory))[1]:
            log.warning("WARNING: %s", text)
    unused: dict[tuple[Path, str, str], None] = {}
    for path in paths:
        beside = _beside(path)
        first, *others = _weights_in(beside) or [""]
        unused |= {(other.parent, kind, first): None for other, kind in beside if kind in others}
    for remark in unused:
        log.warning("%s: files of %s are not used for images that have %s too", *remark)


def psf_of(path: Path) -> Path | None:
    """Return the file with the PSF of an image, which has the image's name and the word ``psf``."""
    beside = [other for other, kind in _family(path) if kind == "other"]
    psfs = [other for other in beside if is_psf(other) or other.parent.name.lower() in ("psf", "psfs")]
    return psfs[0] if len(psfs) == 1 else None


def exposure_maps_of(path: Path) -> list[str]:
    """Return the names of files with exposure times or numbers of exposures of an image."""
    beside = [other.name for other, kind in _family(path) if kind == "other"]
    return [name for name in beside if is_exposure_map(stem_of(name))]


def _of_all_bands(path: Path) -> list[tuple[Path, str]]:
    """Return files of weights and masks whose name is that of an image without its band."""
    families = _families_in(path.parent, stamp(path.parent))
    own_key, _ = _key_and_kind(path)
    return [
        (other, kind)
        for key in dict.fromkeys(own_key[:place] + own_key[place + 1 :] for place in range(len(own_key)))
        for other, kind in families.get(key, ())
        if kind in ROLES and band_of_name(given_name(other))[0] is None and not is_companion(other)
    ]


def is_no_image_of_a_band(path: Path) -> bool:
    """Return whether a file cannot be an image of one band: a table, a PSF, or a map for all bands."""
    headers = peek_headers(path)
    if not any(has_image(header) for header in headers):
        if not any(header.get("XTENSION") in ("BINTABLE", "TABLE") for header in headers):
            log.warning("%s: no image in this file; not used", path)
        elif any(header.get("PIXTYPE") == "HEALPIX" for header in headers):
            log.warning("WARNING: %s: HEALPix maps cannot be read; project it to images (reproject)", path)
        elif any(str(header.get(f"TTYPE{n}")).upper() == "IMAGE" for header in headers for n in range(1, 9)):
            log.warning(
                "WARNING: %s: images in columns of tables cannot be read; write them as image HDUs", path
            )
        return True
    key, kind = _split(given_name(path))
    if any(str(header.get("FILTER", "")).strip().lower() == "detection" for header in headers):
        log.warning("%s: an image for detection, of no single band; not used", path)
        return True
    if kind_of(path) == "other" and is_psf(path):
        log.warning("%s: a PSF; not used unless assigned to a band: --psf BAND=%s", path, path.name)
        return True
    if kind is None or band_of_name(given_name(path))[0] is not None:
        return False
    kinds, _ = _kinds_in(path.parent, stamp(path.parent))
    others = [name for other, (name, _) in kinds.items() if other != path]
    is_for_all = any(len(name) == len(key) + 1 and set(key) < set(name) for name in others)  # but the band
    is_alone = all(role is not None for other, (_, role) in kinds.items() if other != path)
    if not is_for_all and (kind != "other" or is_alone or any(map(band_of_header, headers))):
        return False
    what, use = "a map", "not used"
    if kind == "mask":
        is_defined = meaning_of_mask(given_name(path)) is not None
        what = "a mask"
        use = "used" if is_defined else "not used unless bad_planes or mask_polarity define its meaning"
    elif kind in ROLES:
        what, use = str(HELD[kind]), "used where a band has none of its own"
    log.warning("%s: %s of no single band; %s", path, what, use)
    return True


def sister_directories(directory: Path) -> dict[Path, str | None]:
    """Return directories of weights beside or in a directory of images, or of images for one of weights."""
    here = Path(os.path.abspath(directory))
    try:
        folders = _folders_in(here.parent, stamp(here.parent))
    except OSError:  # not readable
        return {}
    is_image = _kind_of_all(here) is None
    if is_image:
        folders = folders | _folders_in(here, stamp(here))
    else:
        folders = folders | {here.parent: _kind_of_all(here.parent)}
    return {f: kind for f, kind in folders.items() if (kind is None) != is_image and os.access(f, os.R_OK)}


@cache
def _folders_in(directory: Path, stamp: tuple[int, ...]) -> dict[Path, str | None]:
    """Return the subdirectories of a directory, and the roles of their files by their names."""
    with os.scandir(directory) as entries:
        folders = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return {folder: _kind_of_all(folder) for folder in folders}


def _kind_of_all(directory: Path) -> str | None:
    """Return the role of a directory's files by its name; None for images.

    A directory in which some image has its weights or mask beside it is one of images, whatever its name.
    """
    kind = kind_of_folder(directory)
    if kind is None or not os.access(directory, os.R_OK):
        return kind
    families = _families_in(directory, stamp(directory)).values()
    has_own = any(len({role is None for _, role in family}) == 2 for family in families)
    return None if has_own else kind


def _key_and_kind(path: Path) -> tuple[tuple[str, ...], str | None]:
    """Return the name that a file shares with its weights, and its role; see `_kinds_in`."""
    kinds, _ = _kinds_in(path.parent, stamp(path.parent))
    return kinds.get(path, split_name(given_name(path)))


def _family(path: Path) -> list[_Member]:
    """Return the files, here and in sister directories, that share a name with this one, and their roles."""
    key, _ = _key_and_kind(path)
    members = list(_families_in(path.parent, stamp(path.parent)).get(key, ()))
    for folder, kind in sister_directories(path.parent).items():
        members += [(other, own or kind) for other, own in _families_in(folder, stamp(folder)).get(key, ())]
    return members


@cache
def _families_in(directory: Path, stamp: tuple[int, ...]) -> dict[tuple[str, ...], list[_Member]]:
    """Return the files of a directory and their roles, by the name that they share."""
    out: dict[tuple[str, ...], list[_Member]] = defaultdict(list)
    for path, (key, kind) in _kinds_in(directory, stamp)[0].items():
        out[key].append((path, kind))
    return dict(out)


@cache
def _kinds_in(directory: Path, stamp: tuple[int, ...]) -> tuple[_Kinds, list[str]]:
    """Return for each FITS file of a directory the name that it shares with its weights, and its role.

    Warnings of files that headers name in vain are returned too.

    A word such as "psf" or "model", or one at the beginning of a name, is ignored if there is no image of the
    shared name: the file is an image itself. Headers of ESO's products (ASSON, PRODCATG) take precedence over
    names. `stamp` is that of the directory, so that cached results expire when it changes.
    """
    names = [p for p in sorted(directory.iterdir()) if is_fits_name(p) and not p.is_dir()]
    kinds: _Kinds = {path: _split(given_name(path)) for path in names}
    words = {path: words_of(given_name(path)) for path in names}
    bare = {path: tuple(w for w in words[path] if w.lower() not in IMAGE_WORDS) for path in names}
    images = {key for key, kind in kinds.values() if kind is None}
    for path, (key, kind) in kinds.items():
        if kind == "other" and key not in images and "psf" in bare[path] and not is_psf(path):
            kinds[path] = bare[path], None
    images = {key for key, kind in kinds.values() if kind is None}
    for path, (key, kind) in kinds.items():
        if images and is_psf(path):
            continue
        is_first = kind is not None and len(words[path]) > 1
        is_first = is_first and not any(w.lower() in KINDS for w in words[path][1:])
        if key not in images and (kind == "other" or (is_first and kind_of_folder(directory) is None)):
            kinds[path] = bare[path], None
    stated, linked, remarks = {path: _phase3(path) for path in names}, set(), []
    by_stem = {stem_of(path): path for path in names} | {given_name(path): path for path in names}
    for path, (own, _) in stated.items():
        kinds[path] = kinds[path][0], own or kinds[path][1]
    for path, (_, links) in stated.items():
        for name, kind in links:
            if (other := by_stem.get(stem_of(name))) is not None:
                if other in linked:
                    remarks.append(f"{path}: its {kind}, {name}, belongs to another image; not used")
                else:
                    kinds[other] = kinds[path][0], kind
                linked.add(other)
            elif not any(k == kind for p, (key, k) in kinds.items() if key == kinds[path][0]):
                remarks.append(f"{path}: its {kind}, {name} (ASSON), is missing; not used")
    return kinds, remarks


def _split(stem: str) -> tuple[tuple[str, ...], str | None]:
    """Split a name; a bare ``weight`` belongs to ``image.fits``, or to all bands beside it."""
    return ((), KINDS[stem.lower()]) if stem.lower() in KINDS else split_name(stem)


def is_psf(path: Path) -> bool:
    """Return whether a file holds a PSF by its name, such as those that HSC's service provides with cutouts.

    A large image with a WCS is not a PSF, but an image matched to another PSF (``subaru_B_psf.fits``).
    """
    words = words_of(given_name(path).lower())
    if "psf" not in words or len(words) == 1:
        return "psf" in words
    image = next((header for header in peek_headers(path) if has_image(header)), {})
    return not ("CTYPE1" in image and min(axes_of(image)[:2]) >= LARGEST_PSF)


def _phase3(path: Path) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the role of an ESO product by its header, and names and roles of its associated files."""
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
