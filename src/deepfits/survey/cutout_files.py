"""Files of cutouts made elsewhere: which of them belong to one object, and which band each shows.

Files are grouped by name: ``NAME_u.fits``, ``u/NAME.fits`` and the HDU ``u`` of ``NAME.fits`` are band u of
object NAME; ``NAME_u.ivar.fits`` holds its weights, ``NAME_u.mask.fits`` its mask, and ``NAME_u_psf.fits``
its PSF. If no two belong together by name, they are grouped by the sky that they show.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astropy.io import fits

from deepfits.errors import InputError
from deepfits.survey.bands import (
    are_copies,
    band_name,
    band_of_header,
    band_of_name,
    bands_of_layers,
    sort_bands,
)
from deepfits.survey.companions import SHARED, companions_of, is_companion, is_psf, log_remarks, psf_of
from deepfits.survey.cutout_description import Description
from deepfits.survey.file_names import says_what_it_holds, split_name
from deepfits.survey.find import fits_files
from deepfits.survey.fitsfile import has_image, is_fits_name, opened, peek_headers, stem_of
from deepfits.survey.hdu_roles import band_of_plane, name_of, role_of_hdu
from deepfits.survey.places import groups_of_one_place

log = logging.getLogger(__name__)
_Named = dict[Path, tuple[str, str, str]]  # an object's key, the band, and the object's name, by file


@dataclass
class ObjectFiles:
    """The files of an object, by band (``""``: all bands) and kind (``image``, ``ivar``, ``mask``, ...).

    `psfs` are files with a PSF image, by band.
    """

    name: str
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    psfs: dict[str, Path] = field(default_factory=dict)

    def first(self) -> Path:
        """Return the first image, for messages and for what all objects share."""
        return next(iter(self.files.values()))["image"]


def bands_of(objects: list[ObjectFiles]) -> tuple[str, ...]:
    """Return the bands from the files' names, or from the first file's HDUs."""
    named = {b for galaxy in objects for b in galaxy.files if b}
    if named:
        return sort_bands(named)
    with opened(objects[0].first()) as hdus:
        if cubes := images_of(hdus, 3):
            return bands_of_cube(hdus, cubes[0])
        return sort_bands(b for b in bands_of_planes(hdus).values() if b)


def bands_of_cube(hdus: Sequence[Any], cube: Any) -> tuple[str, ...]:
    """Return the bands of a cube's layers from the header; see `bands_of_layers`."""
    found = (bands_of_layers(header, cube.shape[0]) for header in (cube.header, hdus[0].header))
    return next((bands for bands in found if bands), ())


def find_objects(d: Description, path: Path) -> list[ObjectFiles]:
    """Return the objects in a directory, or the single one in a file, in the order of their names."""
    if path.is_file():
        return [ObjectFiles(stem_of(path), {"": {"image": path}})]
    subs = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [p for where in (path, *subs) for p in fits_files(where) if not is_companion(p)]
    images = [file for file in files if any(map(has_image, peek_headers(file)))]
    if images and (others := sorted({*files} - {*images})):
        more = f" and {len(others) - 1} more" * (len(others) > 1)
        log.warning("%s%s: no image in this file; not used", others[0], more)
    if not images:
        deeper = next((p for p in sorted(path.rglob("*")) if is_fits_name(p)), None)
        remedy = (
            "for arrays, give the .h5 or .npz file itself"
            if deeper is None
            else f"{deeper} is nested too deep: put all files into one directory, OBJECT_BAND.fits, or into "
            "one directory for each object or band"
        )
        raise InputError(f"{path}: no FITS file found in it or its subdirectories; {remedy}")
    known = {band_name(b) for b in d.bands}
    beside = {file: companions_of(file) for file in images}
    of_all_bands = {other for found in beside.values() for other, kind in found if kind.endswith(SHARED)}
    images, psfs = _with_psfs([file for file in images if file not in of_all_bands])
    by_file = _holds_all_bands(images[0], known)
    objects: dict[str, ObjectFiles] = {}
    log_remarks(images)
    if by_file:
        named = {file: ("-".join(split_name(stem_of(file))[0]), "", stem_of(file)) for file in images}
    else:
        named = {file: _object_of(file, path, known) for file in images}
    for file, (key, band, name) in _by_folder(named, path).items():
        galaxy = objects.setdefault(key, ObjectFiles(name))
        own_files = galaxy.files
        if file in psfs:
            galaxy.psfs[band] = psfs[file]
        if band in own_files:
            raise InputError(f"{file}: a second image of object {key!r}, band {band or '(all)'}")
        extras = {kind.removesuffix(SHARED): other for other, kind in beside[file]}
        for other, kind in beside[file]:
            if kind.endswith(SHARED) and not kind.startswith("mask"):
                raise InputError(
                    f"{other}: weights of all bands, but each band has its own noise; write weights for "
                    f"each, {stem_of(file)}.weight.fits, or move this file away"
                )
        own_files[band] = {"image": file, **extras}
    return _of_one_place([objects[key] for key in sorted(objects)])


def _of_one_place(objects: list[ObjectFiles]) -> list[ObjectFiles]:
    """Join files of one band each that show the same piece of sky, if no two files belong together by name.

    HSC's service numbers them by the lines of the request, each of which may be for another band.
    """
    if len({band for galaxy in objects for band in galaxy.files} - {""}) < 2 or any(
        len(galaxy.files) > 1 for galaxy in objects
    ):
        return objects
    numbered = {str(number): galaxy for number, galaxy in enumerate(objects)}
    groups = groups_of_one_place({number: (galaxy.first(), None) for number, galaxy in numbered.items()})
    bands = [[band for number in group for band in numbered[number].files] for group in groups]
    if not groups or any(len(set(of_group)) < len(of_group) for of_group in bands):
        return objects
    log.warning(
        "%s and others show the same area of the sky: taken as bands of one object, %r",
        *(" and ".join(numbered[n].first().name for n in groups[0]), numbered[groups[0][0]].name),
    )
    for first, *others in groups:
        for other in map(numbered.pop, others):
            numbered[first].files |= other.files
            numbered[first].psfs |= other.psfs
    return list(numbered.values())


def _with_psfs(images: list[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Return the images without those of PSFs, and the file with the PSF of each image that has one.

    It has the image's name and the word ``psf``, or, from HSC's service, the number of the request and the
    band in common with the image: ``2-cutout-HSC-G-...`` and ``2-psf-calexp-...-HSC-G-...``.
    """
    psfs = [file for file in images if is_psf(file)]
    if len(psfs) == len(images):  # images that were matched to a PSF
        psfs = []
    images = [file for file in images if file not in psfs]
    beside = {file: psf_of(file) for file in images}
    by_request: dict[tuple[Path, str, str | None], list[list[Path]]] = defaultdict(lambda: [[], []])
    for is_of_psf, files in enumerate((images, psfs)):
        for file in files:
            number = re.match(r"\d+(?=-)", file.name)
            key = file.parent, number[0] if number else "", band_of_name(stem_of(file))[0]
            by_request[key][is_of_psf].append(file)
    for of_images, of_psfs in by_request.values():
        if len(of_images) == len(of_psfs) == 1:
            beside[of_images[0]] = of_psfs[0]
    found = {file: psf for file, psf in beside.items() if psf is not None}
    used = set(found.values())
    if unused := [file for file in psfs if file not in used]:
        log.warning(
            "WARNING: %s and %d more: PSFs of no cutout, by their names; not used. Call that of "
            "OBJECT_g.fits OBJECT_g_psf.fits",
            *(unused[0], len(unused) - 1),
        )
    return images, found


def _by_folder(named: _Named, root: Path) -> _Named:
    """Name objects after their directories if each of these has every band once, and the files' names differ.

    The names in such a directory may hold the time of the request, or the object's name again.
    """
    folders: dict[Path, list[tuple[str, str, str]]] = defaultdict(list)
    for file, entry in named.items():
        folders[file.parent].append(entry)
    if root in folders or len(folders) == 1:
        return named
    bands = [[band for _, band, _ in entries] for entries in folders.values()]
    is_object = all(len(set(of_group)) == len(of_group) for of_group in bands)
    keys = [{(key, band) for key, band, _ in entries} for entries in folders.values()]
    is_needed = max(map(len, bands)) > 1 or len(set.union(*keys)) < len(named)
    if not is_object or not is_needed:
        return named
    return {file: (file.parent.name, band, file.parent.name) for file, (_, band, _) in named.items()}


def _holds_all_bands(path: Path, known: set[str]) -> bool:
    """Return whether a file holds all bands (a cube, several images, or the only band)."""
    with opened(path) as hdus:
        if images_of(hdus, 3):
            return True
        planes = images_of(hdus, 2)
        images = [h for h in planes if role_of_hdu(h) is None]
        named = set(bands_of_planes(hdus).values()) - {None}
        return len(images) > 1 or len(named) > 1 or len(known) == 1


def _object_of(path: Path, root: Path, known: set[str]) -> tuple[str, str, str]:
    """Return a file's object key, band and object name, from the names, or else the band from the header."""
    shared = "-".join(split_name(stem_of(path))[0])
    folder = path.parent.name if path.parent != root else ""
    folder = "" if says_what_it_holds(folder) else folder  # images/ and weights/
    if folder and _is_band(folder, known):
        return shared, band_name(folder), stem_of(path)
    band, rest = band_of_name(shared, known)
    if band is None:
        # Look for any word of the name among the listed bands, which may have unusual names; else the header.
        words = shared.split("-")
        place = next((i for i in range(len(words) - 1, -1, -1) if band_name(words[i]) in known), None)
        if place is not None:
            band, rest = band_name(words[place]), "-".join(words[:place] + words[place + 1 :])
        else:
            with opened(path) as hdus:
                band = next((b for h in hdus if (b := band_of_header(h.header))), None)
    if band is None and known:
        band, rest = band_of_name(shared)
    if band is None:
        raise InputError(
            f"{path}: neither name, directory nor header (FILTER) gives the band; name the files "
            "OBJECT_BAND.fits, or put them into one directory for each band"
        )
    found, name = band_of_name(stem_of(path), {band})
    name = name if found else rest
    if folder:
        rest = name = folder if rest in ("", "cutout", "stamp") else f"{folder}-{rest}"
    if not rest:
        raise InputError(f"{path}: the name gives the band {band} but no object; name it OBJECT_{band}.fits")
    return rest, band, name


def _is_band(text: str, known: set[str]) -> bool:
    return band_name(text) in known if known else band_of_name(text) == (band_name(text), "")


def images_of(hdus: Sequence[Any], dimensions: int) -> list[Any]:
    """Return the image HDUs with this number of dimensions; see `dimensions_of`."""
    return [hdu for hdu in hdus if hdu.is_image and dimensions_of(hdu) == dimensions]


def dimensions_of(hdu: Any) -> int:
    """Return the number of dimensions of an image: 2 for a single layer, ``(1, H, W)``."""
    shape = tuple(hdu.shape or ())
    return 2 if len(shape) > 2 and set(shape[:-2]) == {1} else len(shape)


def bands_of_planes(hdus: fits.HDUList) -> dict[int, str | None]:
    """Return the bands of images by the HDUs' ``id``: from filter cards, or names (``SCI_G``, ``r_ivar``)."""
    planes = images_of(hdus, 2)
    images = [hdu for hdu in planes if role_of_hdu(hdu) is None]
    cards, names = ([find(hdu) for hdu in images] for find in (_band_of_cards, _band_of_name))
    is_copied = are_copies(cards, names)
    return {id(h): (None if is_copied else _band_of_cards(h)) or _band_of_name(h) for h in planes}


def _band_of_cards(hdu: Any) -> str | None:
    if (band := band_of_header(hdu.header)) is not None or len(hdu.shape) == 2:
        return band
    return next(iter(bands_of_cube([hdu], hdu)), None)


def _band_of_name(hdu: Any) -> str | None:
    return band_of_plane(name_of(hdu))
