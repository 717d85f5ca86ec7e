"""Foreign cutouts as FITS files: one cube per object, one file per band, or one HDU per band.

Files are grouped by name: ``NAME_u.fits``, ``u/NAME.fits`` and the HDU ``u`` of ``NAME.fits`` are band u of
object NAME; ``NAME_u.ivar.fits`` (or the HDU ``u_IVAR``, or ``IVAR`` if there is a single image) holds its
weights, ``NAME_u.mask.fits`` its mask. Bands that an object lacks have no data.

Shapes: N objects, B bands, H, W pixels, padded to the largest of the cutouts read together.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from deepfits.errors import InputError
from deepfits.gaussian_psf import NUM_GAUSSIANS
from deepfits.passbands import COLUMN, wavelength_in_header
from deepfits.survey.astrometry import middle_of, offsets, pixel_scale_of
from deepfits.survey.bands import band_name, band_of_header, band_of_name, sort_bands
from deepfits.survey.companions import SHARED, companions_of, is_companion, is_psf, log_remarks, psf_of
from deepfits.survey.cutout_description import Description, compare_bands, zero_points
from deepfits.survey.file_names import KINDS, says_what_it_holds, split_name
from deepfits.survey.fill import far_below
from deepfits.survey.find import fits_files
from deepfits.survey.fitsfile import OpenFiles, image_hdus, is_fits_name, opened, stem_of
from deepfits.survey.foreign_cutouts import ForeignCutouts, check_identity, named_filters, to_shape
from deepfits.survey.hdu_roles import band_of_plane, extras_of, name_of, number_of, role_of_hdu, words_of
from deepfits.survey.pixels import HduPixels, calibrated
from deepfits.survey.psf import gaussians_of, own_scale, psf_of_image
from deepfits.survey.remarks import of_band
from deepfits.survey.weights import BAD_MASK_PLANES, WEIGHT_ROLES, MaskRule

SCALE_TOLERANCE = 0.01
MOST_REMARKS = 20
# Offset in pixels between the bands of an object, by their WCS, above which to warn and to raise; number of
# objects checked; distance in pixels from the centre at which offsets are measured too.
APART, FAR_APART, LOOKED_AT, ASIDE = 0.1, 1.0, 20, 8.0
# Keywords, followed by a number, of the bands of a cube's layers.
_LAYER_KEYWORDS = ("BAND", "FILTER", "FILT")
log = logging.getLogger(__name__)
_Named = dict[Path, tuple[str, str, str]]  # an object's key, the band, and the object's name, by file
ALL_IN_ONE = "give each object a file, or all of them in .npz or .h5, as one array (N, B, H, W)"


@dataclass
class _Object:
    """The files of an object, by band (``""``: all bands) and kind (``image``, ``ivar``, ``mask``, ...).

    `psfs` are files with a PSF image, by band.
    """

    name: str
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    psfs: dict[str, Path] = field(default_factory=dict)

    def first(self) -> Path:
        return next(iter(self.files.values()))["image"]


@dataclass
class _Band:
    """One band of one object: image and weight, ``(H, W)`` in nJy and nJy⁻², and WCS.

    Without weights, masked pixels of the image are NaN. `wavelength` is the mean one of the filter, Å, and
    `psf` is ``(K, 2)``, NaN if unknown.
    """

    image: np.ndarray
    ivar: np.ndarray | None = None
    wcs: WCS | None = None
    wavelength: float | None = None
    psf: np.ndarray = field(default_factory=lambda: gaussians_of(None, NUM_GAUSSIANS))


def open_fits_cutouts(d: Description, path: Path) -> ForeignCutouts:
    """Open the objects in a directory, or the single object in a file."""
    objects = _find_objects(d, path)
    bands = tuple(band_name(b) for b in d.bands) or _bands_of(objects)
    if not bands:
        raise InputError(f'{d.where}: give the bands, for example bands = ["g", "r"]')
    if (
        len(bands) > 1
        and len(objects) > 1
        and all(set(o.files) - {""} and len(o.files) == 1 for o in objects)
    ):
        first_file, second_file = objects[0].first(), objects[1].first()
        raise InputError(
            f"{path}: no two files are bands of the same object, by their names, such as {first_file.name} "
            f"and {second_file.name}; name them OBJECT_BAND.fits"
        )
    if strange := sort_bands({b for galaxy in objects for b in galaxy.files if b} - set(bands)):
        raise InputError(
            f"{path}: files of band {', '.join(strange)}, which {d.where.name} does not list; add it to "
            "bands, or move the files elsewhere"
        )
    points = dict(zip(bands, zero_points(d, len(bands)), strict=True)) if d.zero_point is not None else {}
    reader = _FitsCutouts(d=d, bands=bands, zero_point=points)
    reader.remarks.append(f"{len(objects)} objects, {_how(objects[0])}; identities are the files' names")
    first = reader.read(objects[0])
    scale = d.pixel_scale_arcsec or reader.scale
    if scale is None:
        raise InputError(f"{objects[0].first()}: no WCS in the header; give pixel_scale_arcsec")
    reader.scale = scale
    has_weights = any(band.ivar is not None for band in first.values())

    def raw(start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        read = [reader.read(galaxy) for galaxy in objects[start:stop]]
        for galaxy, by_band in zip(objects[start:stop], read, strict=True):
            if any((band.ivar is not None) != has_weights for band in by_band.values()):
                raise InputError(
                    f"{path}: object {galaxy.name!r} {'lacks' if has_weights else 'has'} weights, unlike "
                    "the first one; weights are needed for all objects and bands, or for none"
                )
        return _stack(read, bands, has_weights)

    def from_headers(rows: np.ndarray) -> dict[str, np.ndarray]:
        found = [reader.seen(objects[row]).columns for row in rows]
        return {name: np.array([its[name] for its in found]) for name in reader.names_of_columns()}

    def psf(start: int, stop: int) -> np.ndarray:
        return np.stack([reader.seen(galaxy).psf for galaxy in objects[start:stop]])

    return ForeignCutouts(
        bands=bands,
        number=len(objects),
        pixel_scale_arcsec=float(scale),
        fwhm_arcsec=d.fwhm_arcsec,
        object_id=check_identity(np.array([galaxy.name for galaxy in objects]), path, len(objects)),
        columns={},
        factor=np.ones(len(bands)),
        raw=raw,
        psf=None if d.fwhm_arcsec else psf,
        from_headers=from_headers,
        has_weights=has_weights,
        mask=MaskRule(words=reader.mask_words),
        may_be_relative=reader.has_relative,
        are_exposure_times=reader.has_exposure_times,
        remarks=reader.remarks,  # a shared list: objects read later add to it
    )


def _how(galaxy: _Object) -> str:
    return "one file for each" if "" in galaxy.files else "one file for each band"


def _bands_of(objects: list[_Object]) -> tuple[str, ...]:
    """Return the bands from the files' names, or from the first file's HDUs."""
    named = {b for galaxy in objects for b in galaxy.files if b}
    if named:
        return sort_bands(named)
    with opened(objects[0].first()) as hdus:
        if cubes := _images(hdus, 3):
            return _bands_of_cube(hdus, cubes[0])
        return sort_bands(b for b in _bands_of_hdus(hdus).values() if b)


def _bands_of_cube(hdus: fits.HDUList, cube: Any) -> tuple[str, ...]:
    """Return the bands of a cube's layers from the header: ``BANDS`` (``grz``), or ``BAND0``, ``BAND1``, ....

    Empty unless there is one for each layer.
    """
    number = cube.shape[0]
    for header in (cube.header, hdus[0].header):
        stated = [str(header.get("BANDS", "")).strip()]
        stated = re.split(r"[,; ]+", stated[0]) if len(stated[0]) != number else list(stated[0])
        each = (
            [header.get(f"{key}{n + first}") for n in range(number)]
            for key in _LAYER_KEYWORDS
            for first in (0, 1)
        )
        found = next((names for names in (stated, *each) if len(names) == number and all(names)), None)
        if found is not None and all(isinstance(name, str) for name in found):
            return tuple(band_name(name) for name in found)
    return ()


def _find_objects(d: Description, path: Path) -> list[_Object]:
    if path.is_file():
        return [_Object(stem_of(path), {"": {"image": path}})]
    subs = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    images = [p for where in (path, *subs) for p in fits_files(where) if not is_companion(p)]
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
    objects: dict[str, _Object] = {}
    log_remarks(images)
    if by_file:
        named = {file: ("-".join(split_name(stem_of(file))[0]), "", stem_of(file)) for file in images}
    else:
        named = {file: _object_of(file, path, known) for file in images}
    for file, (key, band, name) in _by_folder(named, path).items():
        galaxy = objects.setdefault(key, _Object(name))
        there = galaxy.files
        if file in psfs:
            galaxy.psfs[band] = psfs[file]
        if band in there:
            raise InputError(f"{file}: a second image of object {key!r}, band {band or '(all)'}")
        extras = {kind.removesuffix(SHARED): other for other, kind in beside[file]}
        for other, kind in beside[file]:
            if kind.endswith(SHARED) and not kind.startswith("mask"):
                raise InputError(
                    f"{other}: weights of all bands, but each band has its own noise; write weights for "
                    f"each, {stem_of(file)}.weight.fits, or move this file away"
                )
        there[band] = {"image": file, **extras}
    return [objects[key] for key in sorted(objects)]


def _with_psfs(images: list[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Return the images without those of PSFs, and the file with the PSF of each image that has one.

    It has the image's name and the word ``psf``, or, from HSC's service, the number of the request and the
    band in common with the image: ``2-cutout-HSC-G-...`` and ``2-psf-calexp-...-HSC-G-...``.
    """
    psfs = [file for file in images if is_psf(file)]
    psfs = psfs if len(psfs) < len(images) else []  # else they are images that were matched to a PSF
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
    if unused := [file for file in psfs if file not in found.values()]:
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
    is_object = all(len(set(those)) == len(those) for those in bands)
    keys = [{(key, band) for key, band, _ in entries} for entries in folders.values()]
    is_needed = max(map(len, bands)) > 1 or len(set.union(*keys)) < len(named)
    if not is_object or not is_needed:
        return named
    return {file: (file.parent.name, band, file.parent.name) for file, (_, band, _) in named.items()}


def _holds_all_bands(path: Path, known: set[str]) -> bool:
    """Return whether a file holds all bands (a cube, several images, or the only band)."""
    with opened(path) as hdus:
        if _images(hdus, 3):
            return True
        planes = _images(hdus, 2)
        images = [h for h in planes if role_of_hdu(h) is None]
        named = set(_bands_of_hdus(hdus).values()) - {None}
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
    there, name = band_of_name(stem_of(path), {band})
    name = name if there else rest
    if folder:
        rest = name = folder if rest in ("", "cutout", "stamp") else f"{folder}-{rest}"
    if not rest:
        raise InputError(f"{path}: the name gives the band {band} but no object; name it OBJECT_{band}.fits")
    return rest, band, name


def _is_band(text: str, known: set[str]) -> bool:
    return band_name(text) in known if known else band_of_name(text) == (band_name(text), "")


def _images(hdus: fits.HDUList, dimensions: int) -> list[Any]:
    """Return the image HDUs with this number of dimensions."""
    return [hdu for hdu in hdus if hdu.is_image and len(hdu.shape or ()) == dimensions]


def _bands_of_hdus(hdus: fits.HDUList) -> dict[int, str | None]:
    """Return the bands of images by the HDUs' ``id``: from filter cards, or names (``SCI_G``, ``r_ivar``).

    Where images share a filter card, a copy of one band's header, the names decide if they differ.
    """
    planes = _images(hdus, 2)
    images = [hdu for hdu in planes if role_of_hdu(hdu) is None]
    cards, names = ([find(hdu) for hdu in images] for find in (_band_of_cards, _band_of_name))
    is_copied = len(set(cards)) < len(cards) and None not in names and len(set(names)) == len(names)
    return {id(h): (None if is_copied else _band_of_cards(h)) or _band_of_name(h) for h in planes}


def _band_of_cards(hdu: Any) -> str | None:
    return band_of_header(hdu.header)


def _band_of_name(hdu: Any) -> str | None:
    return band_of_plane(name_of(hdu))


def _layer_of(plane: HduPixels, index: int) -> HduPixels:
    """Return one layer of a cube, or a plane that applies to all layers as it is."""
    own = None if plane.own is None else _layer_of(plane.own, index)
    return replace(plane, own=own, layer=index if len(plane.hdu.shape) == 3 else None)


def _psf_hdu(hdus: fits.HDUList, band: str | None = None) -> Any:
    """Return the HDU called PSF, of one band if given; None if there is none."""
    images = [hdu for dimensions in (2, 3) for hdu in _images(hdus, dimensions)]
    psfs, bands = (hdu for hdu in images if "PSF" in words_of(name_of(hdu).upper())), _bands_of_hdus(hdus)
    return next((hdu for hdu in psfs if band is None or bands.get(id(hdu)) == band), None)


@dataclass
class _Seen:
    """What was found beside the pixels of an object: columns, and PSFs ``(B, K, 2)``, NaN if unknown."""

    columns: dict[str, float]
    psf: np.ndarray


@dataclass
class _FitsCutouts:
    """Reads objects one at a time, and checks that their pixel scales agree with the first."""

    d: Description
    bands: tuple[str, ...]
    zero_point: dict[str, float]
    scale: float | None = None
    has_relative: bool = False
    has_exposure_times: bool = False
    mask_words: str = ""
    remarks: list[str] = field(default_factory=list)
    num_looked_at: int = 0
    has_square: bool = False
    known: dict[str, _Seen] = field(default_factory=dict)  # by object's name, of those read

    def names_of_columns(self) -> list[str]:
        """Return the columns from headers: the filters' wavelengths, and positions if cutouts have a WCS."""
        names = [f"{COLUMN}_{band}" for band in self.bands]
        return names if self.d.pixel_scale_arcsec is not None else ["ra", "dec", *names]

    def seen(self, galaxy: _Object) -> _Seen:
        """Return what an object's files say beside the pixels; NaN where they do not."""
        if galaxy.name not in self.known:
            self.read(galaxy)
        return self.known[galaxy.name]

    def read(self, galaxy: _Object) -> dict[str, _Band]:
        """Return the bands of an object that exist, by name."""
        out = self._read(galaxy)
        with_wcs = {name: band for name, band in out.items() if band.wcs is not None}
        if self.num_looked_at < LOOKED_AT and len(with_wcs) > 1:
            self.num_looked_at += 1
            self._check_alignment(galaxy, with_wcs)
        for band in list(out.values())[:1]:
            self._check_shape(galaxy, *band.image.shape)
        columns = dict.fromkeys(("ra", "dec"), math.nan) | {f"{COLUMN}_{b}": math.nan for b in self.bands}
        columns |= {name: float(values[0]) for name, values in named_filters(self.d.bands, 1).items()}
        columns |= {f"{COLUMN}_{name}": b.wavelength for name, b in out.items() if b.wavelength is not None}
        for band in list(with_wcs.values())[:1]:
            columns["ra"], columns["dec"] = middle_of(band.wcs, band.image.shape)
        psfs = [out.get(band, _Band(np.zeros((0, 0)))).psf for band in self.bands]
        self.known[galaxy.name] = _Seen(columns, np.stack(psfs))
        return out

    def _check_shape(self, galaxy: _Object, height: int, width: int) -> None:
        """Warn of cutouts that are not square among others that are: trimmed at the edge of an image."""
        self.has_square |= height == width
        if self.has_square and height != width:
            self._remark(
                f"WARNING: {galaxy.first()}: {width}×{height} pixels, while others are square: trimmed at an "
                "image's edge, so that its object is not in the middle? The middle is taken as the object; "
                "make such cutouts anew, filled where there is no image, or leave them out"
            )

    def _check_alignment(self, galaxy: _Object, bands: dict[str, _Band]) -> None:
        """Warn if bands are misaligned according to their WCS; raise if they are far apart or rotated."""
        (first, anchor), *others = bands.items()
        for name, band in others:
            centre, other_centre = (np.array(b.image.shape[::-1]) // 2 for b in (anchor, band))
            apart = float(offsets(anchor.wcs, band.wcs, centre, other_centre, ASIDE).max())
            text = (
                f"{galaxy.first()}: by their WCS {name} lies {apart:.1f} pixels from {first}, at the centre "
                f"or {ASIDE:g} pixels from it; resample the bands to one grid, or give pixel_scale_arcsec if "
                "the headers do not describe the cutouts"
            )
            if apart > FAR_APART:
                raise InputError(text)
            if apart > APART and not any(" lies " in remark for remark in self.remarks):
                self.remarks.append(f"WARNING: {text}")

    def _read(self, galaxy: _Object) -> dict[str, _Band]:
        out: dict[str, _Band] = {}
        for band, files in galaxy.files.items():
            with OpenFiles() as opened_files:
                path = files["image"]
                hdus = opened_files.open(path)
                is_cube = not band and bool(_images(hdus, 3))
                if not band and not is_cube:
                    out |= self._extensions(hdus, files, opened_files)
                    continue
                dimensions = 3 if is_cube else 2
                image = self._wanted(hdus, path, dimensions)
                extras = self._chosen(hdus, path) or self._extras(hdus, image)
                planes = self._planes(extras, files, dimensions, opened_files)
                if is_cube:
                    out |= self._split(hdus, image, planes, path)
                    continue
                psf = None if (own := _psf_hdu(hdus)) is None else HduPixels(hdu=own, path=path)
                if band in galaxy.psfs:
                    file = opened_files.open(galaxy.psfs[band])
                    psf = HduPixels(hdu=self._wanted_psf(file, galaxy.psfs[band]), path=galaxy.psfs[band])
                out[band] = self._band(band, hdus, HduPixels(hdu=image, path=path), planes, psf)
        return out

    def _planes(
        self,
        extras: dict[str, Any],
        files: dict[str, Path],
        dimensions: int,
        opened_files: OpenFiles,
        band: str | None = None,
    ) -> dict[str, HduPixels]:
        """Return weights and mask by kind: `extras` of the image's file, and those of the files beside it.

        In files with an HDU for each band, they are those of `band`.
        """
        planes = {kind: HduPixels(hdu=hdu, path=files["image"]) for kind, hdu in extras.items()}
        for kind, other in files.items():
            if kind != "image":
                beside = opened_files.open(other)
                found = _images(beside, dimensions)
                if band is not None:
                    bands = _bands_of_hdus(beside)
                    found = [hdu for hdu in found if bands.get(id(hdu)) == band]
                if not found:
                    what = "cube" if dimensions == 3 else "two-dimensional image"
                    which = f" of band {band}" if band is not None else ""
                    remedy = "; set EXTNAME or FILTER in each HDU" if band is not None else ""
                    raise InputError(f"{other}: no {what}{which} in this {kind} file{remedy}")
                own = planes.get("mask") if kind == "mask" else None
                planes[kind] = HduPixels(hdu=found[0], path=other, file=beside, own=own)
        return planes

    def _wanted(self, hdus: fits.HDUList, path: Path, dimensions: int) -> Any:
        """Return the image's HDU: the one given, else the first with these dimensions and no other role."""
        if self.d.image != "image":
            return self._by_name(hdus, self.d.image, path)
        found = [h for h in _images(hdus, dimensions) if role_of_hdu(h) is None]
        if not found:
            raise InputError(f"{path}: no image of {dimensions} dimensions in this file")
        if dimensions == 3 and len(found) > 1:
            raise InputError(
                f"{path}: {len(found)} cubes, one per object? {ALL_IN_ONE}; or give the one to use: "
                f"image = {number_of(hdus, found[0])}"
            )
        return found[0]

    def _wanted_psf(self, hdus: fits.HDUList, path: Path) -> Any:
        """Return the HDU with the PSF in a file of its own."""
        numbers = image_hdus(hdus)
        if not numbers:
            raise InputError(f"{path}: no two-dimensional image of a PSF in this file")
        return hdus[numbers[0]]

    def _by_name(self, hdus: fits.HDUList, which: str | int, path: Path) -> Any:
        try:
            return hdus[int(which) if str(which).isdigit() else str(which)]
        except (KeyError, IndexError):
            raise InputError(f"{path}: no HDU {which!r}; there are {[h.name for h in hdus]}") from None

    def _chosen(self, hdus: fits.HDUList, path: Path) -> dict[str, Any]:
        """Return the HDUs of weight and mask given in the description."""
        out = {}
        for which, kind in ((self.d.weight, self.d.weight_role), (self.d.mask, "mask")):
            if which is not None and str(which).lower() not in KINDS:
                out[kind] = self._by_name(hdus, which, path)
            elif which is not None and (str(which).isdigit() or str(which) in hdus):
                out[kind] = hdus[str(which)]
        return out

    def _extras(self, hdus: fits.HDUList, image: Any, band: str | None = None) -> dict[str, Any]:
        """Return the HDUs of weights and mask by their names, of one band if given."""
        out: dict[str, Any] = {}
        bands = _bands_of_hdus(hdus)
        for hdu in hdus:
            if not hdu.is_image or len(hdu.shape or ()) not in (2, 3) or hdu is image:
                continue
            role = role_of_hdu(hdu)
            if role in (*WEIGHT_ROLES, "mask") and (band is None or bands.get(id(hdu)) == band):
                out.setdefault(role, hdu)
        return out

    def _unnamed_extras(self, hdus: fits.HDUList, image: Any, path: Path) -> dict[str, Any]:
        """Return the HDUs of weights and mask of one of several images, by their order."""
        try:
            return {role: hdus[number] for role, number in extras_of(hdus, image).items()}
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None

    def _extensions(
        self, hdus: fits.HDUList, files: dict[str, Path], opened_files: OpenFiles
    ) -> dict[str, _Band]:
        """Read a file with one HDU for each band."""
        path = files["image"]
        images = [h for h in _images(hdus, 2) if role_of_hdu(h) is None]
        if not images:
            raise InputError(
                f"{path}: no two-dimensional image HDU; if it holds all objects in one array, {ALL_IN_ONE}"
            )
        bands = _bands_of_hdus(hdus)
        named = [bands[id(h)] for h in images]
        if not any(b in self.bands for b in named):
            if len(images) != len(self.bands):
                raise InputError(
                    f"{path}: {len(images)} images, but no HDU gives one of the bands "
                    f"{', '.join(self.bands)}; set EXTNAME or FILTER in each"
                )
            named = list(self.bands)  # in the order of the description
        out = {}
        for hdu, band in zip(images, named, strict=True):
            if band not in self.bands:
                continue
            if band in out:
                raise InputError(f"{path}: two HDUs of band {band}; keep one")
            only = band if len(images) > 1 else None
            extras = self._extras(hdus, hdu, only) or self._unnamed_extras(hdus, hdu, path)
            planes = self._planes(extras, files, 2, opened_files, only)
            own = _psf_hdu(hdus, only)
            psf = None if own is None else HduPixels(hdu=own, path=path)
            out[str(band)] = self._band(str(band), hdus, HduPixels(hdu=hdu, path=path), planes, psf)
        return out

    def _split(
        self, hdus: fits.HDUList, image: Any, planes: dict[str, HduPixels], path: Path
    ) -> dict[str, _Band]:
        """Split a cube into bands."""
        cube = tuple(image.shape)
        if len(cube) != 3 or cube[0] != len(self.bands):
            raise InputError(
                f"{path}: HDU {image.name or 0!r} has shape {cube}; ({len(self.bands)} bands, rows, "
                "columns) is needed"
            )
        for kind, plane in planes.items():
            for hdu in (plane.hdu, *([] if plane.own is None else [plane.own.hdu])):
                if tuple(hdu.shape) not in (cube, cube[1:]):
                    raise InputError(f"{path}: {kind} has shape {tuple(hdu.shape)}, but the image {cube}")
        if (warning := compare_bands(_bands_of_cube(hdus, image), self.bands, path)) is not None:
            self.remarks.append(warning)
        out, own = {}, _psf_hdu(hdus)
        is_of_layers = own is not None and own.shape[:-2] == (len(self.bands),)
        for index, band in enumerate(self.bands):
            layers = {kind: _layer_of(plane, index) for kind, plane in planes.items()}
            psf = HduPixels(hdu=own, path=path, layer=index) if is_of_layers else None
            out[band] = self._band(band, hdus, HduPixels(hdu=image, path=path, layer=index), layers, psf)
        return out

    def _band(
        self,
        band: str,
        hdus: fits.HDUList,
        image: HduPixels,
        planes: dict[str, HduPixels],
        psf: HduPixels | None = None,
    ) -> _Band:
        """Convert one band to nJy and inverse variance."""
        for plane in (image, *planes.values()):
            shape = tuple(plane.hdu.shape or ()) if plane.hdu.is_image else ()
            if len(shape) != (2 if plane.layer is None else 3) or not all(shape):
                raise InputError(
                    f"{plane.path}: HDU {plane.hdu.name!r} has shape {shape}; an image or a cube is needed"
                )
        roles = [role for role in WEIGHT_ROLES if role in planes]
        if roles and self.d.weight_is is not None:  # whatever their names say
            planes = {k: p for k, p in planes.items() if k not in roles} | {
                self.d.weight_is: planes[roles[0]]
            }
        pixels = calibrated(
            hdus,
            image,
            planes,
            zero_point=self.zero_point.get(band),
            bad_planes=self.d.bad_planes or BAD_MASK_PLANES,
            mask_polarity=self.d.mask_nonzero_is,
            mask_option=f"mask_nonzero_is in {self.d.where.name},",
            remedy=f"give zero_point in {self.d.where.name}",
            pixel_scale_arcsec=self.d.pixel_scale_arcsec,
        )
        if pixels.wcs is not None:
            self._check_scale(pixel_scale_of(pixels.wcs), image.path)
        self.has_relative |= pixels.weight_role == "weight"
        if pixels.mask is not None:
            self.mask_words = pixels.mask.words
        for text in of_band(band, (text for text in pixels.remarks if not text.startswith("zero point"))):
            self._remark(text)
        flux, weight = pixels.rows(0, image.shape[0])
        self.has_exposure_times |= weight is not None and pixels.are_exposure_times(weight)
        if (fill := far_below(flux)) is not None:  # here, since zero points may differ between objects
            flux[fill.holds(flux)] = np.nan
        header = pixels.header
        if image.layer is not None:  # cards of a cube are those of one of its bands, or of none
            header = {key: header[key] for key in ("INSTRUME", "TELESCOP", "ORIGIN") if key in header}
        wavelength = wavelength_in_header(header, band)
        out = _Band(image=flux, ivar=weight, wcs=pixels.wcs, wavelength=wavelength)
        if psf is not None and (scale := self.d.pixel_scale_arcsec or self.scale) is not None:
            out.psf = self._psf(band, psf, scale)
        return out

    def _psf(self, band: str, psf: HduPixels, scale: float) -> np.ndarray:
        """Return the PSF in an image, NaN if it cannot be used."""
        side = self.d.psf_scale_arcsec or own_scale(psf.header, scale)
        self._remark(f"{band}: each object's PSF is from its PSF image, pixels of {side:.4g} arcsec")
        try:
            return psf_of_image(psf.rows(0, psf.shape[0]), side, psf.path)
        except InputError as error:
            self._remark(f"WARNING: {band}: the PSF of some objects is unknown, such as {error}")
            return gaussians_of(None, NUM_GAUSSIANS)

    def _remark(self, text: str) -> None:
        """Add a remark, unless one that differs only in its numbers is there already."""
        patterns = (re.sub(r"\d+", "#", remark) for remark in (text, *self.remarks))
        if len(self.remarks) < MOST_REMARKS and next(patterns) not in patterns:
            self.remarks.append(text)

    def _check_scale(self, scale: float, path: Path) -> None:
        if self.scale is None:
            self.scale = scale
        if abs(scale / self.scale - 1) > SCALE_TOLERANCE:
            raise InputError(
                f"{path}: pixels of {scale:.4f} arcsec, but {self.scale:.4f} in the first cutout; resample "
                "all to one scale"
            )


def _stack(
    objects: list[dict[str, _Band]], bands: tuple[str, ...], has_weights: bool
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Stack objects, padded around their centres; missing pixels and bands are NaN, with weight 0."""
    shapes = [band.image.shape for by_band in objects for band in by_band.values()] or [(1, 1)]
    shape = (len(objects), len(bands), *np.max(shapes, axis=0))
    image = np.full(shape, np.nan, np.float32)
    ivar = np.zeros(shape, np.float32) if has_weights else None
    for row, by_band in enumerate(objects):
        for index, name in enumerate(bands):
            if name not in by_band:
                continue
            band = by_band[name]
            image[row, index] = to_shape(band.image, *shape[2:], empty=np.nan)
            if ivar is not None and band.ivar is not None:
                ivar[row, index] = to_shape(band.ivar, *shape[2:])
    return image, ivar, None
