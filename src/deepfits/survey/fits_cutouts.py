"""Foreign cutouts as FITS files: one cube per object, one file per band, or one HDU per band.

Files are grouped by name (`deepfits.survey.cutout_files`); weights may also be in the HDU ``u_IVAR``, or
``IVAR`` if there is a single image. Bands that an object lacks have no data.

Shapes: N objects, B bands, H, W pixels, padded to the largest of the cutouts read together.
"""

import logging
import math
from collections.abc import Sequence
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
from deepfits.survey.bands import band_name, sort_bands
from deepfits.survey.cutout_description import Description, compare_bands, zero_points
from deepfits.survey.cutout_files import (
    ObjectFiles,
    bands_of,
    bands_of_cube,
    bands_of_planes,
    dimensions_of,
    find_objects,
    images_of,
)
from deepfits.survey.file_names import KINDS
from deepfits.survey.fill import far_below
from deepfits.survey.fitsfile import OpenFiles, image_hdus
from deepfits.survey.foreign_cutouts import ForeignCutouts, check_identity, named_filters, to_shape
from deepfits.survey.hdu_roles import ROLES, extras_of, name_of, number_of, role_of_hdu, words_of
from deepfits.survey.masks import BAD_MASK_PLANES, MaskRule
from deepfits.survey.pixels import HduPixels, calibrated, cards_of_all_layers
from deepfits.survey.psf import gaussians_of, own_scale, psf_of_image
from deepfits.survey.remarks import of_band, pattern_of
from deepfits.survey.weights import WEIGHT_ROLES

SCALE_TOLERANCE = 0.01
MOST_REMARKS = 20
# Offset in pixels between the bands of an object, by their WCS, above which to warn and to raise; number of
# objects checked; distance in pixels from the centre at which offsets are measured too.
APART, FAR_APART, LOOKED_AT, ASIDE = 0.1, 1.0, 20, 8.0
log = logging.getLogger(__name__)
ALL_IN_ONE = "give each object a file, or all of them in .npz or .h5, as one array (N, B, H, W)"


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
    objects = find_objects(d, path)
    bands = tuple(band_name(b) for b in d.bands) or bands_of(objects)
    if not bands:
        raise InputError(f'{d.where}: give the bands, for example bands = ["g", "r"]')
    if len(bands) > 1 and len(objects) > 1 and all(len(o.files) == 1 and "" not in o.files for o in objects):
        raise InputError(
            f"{path}: no two files are bands of the same object, by their names, such as "
            f"{objects[0].first().name} and {objects[1].first().name}; name them OBJECT_BAND.fits"
        )
    if strange := sort_bands({b for galaxy in objects for b in galaxy.files if b} - set(bands)):
        raise InputError(
            f"{path}: files of band {', '.join(strange)}, which {d.where.name} does not list; add it to "
            "bands, or move the files elsewhere"
        )
    points = dict(zip(bands, zero_points(d, len(bands)), strict=True)) if d.zero_point is not None else {}
    reader = _FitsCutouts(d=d, bands=bands, zero_point=points)
    each = "each" if "" in objects[0].files else "each band"
    reader.remarks.append(f"{len(objects)} objects, one file for {each}; identities are the files' names")
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
        names = ["ra", "dec"] * (d.pixel_scale_arcsec is None) + [f"{COLUMN}_{band}" for band in bands]
        return {name: np.array([values[name] for values in found]) for name in names}

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


def _layer_of(plane: HduPixels, index: int) -> HduPixels:
    """Return one layer of a cube, or a plane that applies to all layers as it is."""
    own = None if plane.own is None else _layer_of(plane.own, index)
    return replace(plane, own=own, layer=index if len(plane.hdu.shape) == 3 else None)


def _psf_hdu(hdus: Sequence[Any]) -> Any:
    """Return the HDU called PSF; None if there is none."""
    images = [hdu for dimensions in (2, 3) for hdu in images_of(hdus, dimensions)]
    return next((hdu for hdu in images if "PSF" in words_of(name_of(hdu).upper())), None)


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

    def seen(self, galaxy: ObjectFiles) -> _Seen:
        """Return what an object's files say beside the pixels; NaN where they do not."""
        if galaxy.name not in self.known:
            self.read(galaxy)
        return self.known[galaxy.name]

    def read(self, galaxy: ObjectFiles) -> dict[str, _Band]:
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

    def _check_shape(self, galaxy: ObjectFiles, height: int, width: int) -> None:
        """Warn of cutouts that are not square among others that are: trimmed at the edge of an image."""
        self.has_square |= height == width
        if self.has_square and height != width:
            self._remark(
                f"WARNING: {galaxy.first()}: {width}×{height} pixels, while others are square: trimmed at an "
                "image's edge, so that its object is not in the middle? The middle is taken as the object; "
                "make such cutouts anew, filled where there is no image, or leave them out"
            )

    def _check_alignment(self, galaxy: ObjectFiles, bands: dict[str, _Band]) -> None:
        """Warn if bands are misaligned according to their WCS; raise if they are far apart or rotated."""
        (first, anchor), *others = bands.items()
        for name, band in others:
            centre, other_centre = (np.array(b.image.shape[::-1]) // 2 for b in (anchor, band))
            offset = float(offsets(anchor.wcs, band.wcs, centre, other_centre, ASIDE).max())
            text = (
                f"{galaxy.first()}: by their WCS {name} lies {offset:.1f} pixels from {first}, at the centre "
                f"or {ASIDE:g} pixels from it; resample the bands to one grid, or give pixel_scale_arcsec if "
                "the headers do not describe the cutouts"
            )
            if offset > FAR_APART:
                raise InputError(text)
            if offset > APART and not any(" lies " in remark for remark in self.remarks):
                self.remarks.append(f"WARNING: {text}")

    def _read(self, galaxy: ObjectFiles) -> dict[str, _Band]:
        out: dict[str, _Band] = {}
        for band, files in galaxy.files.items():
            with OpenFiles() as opened_files:
                path = files["image"]
                hdus = opened_files.open(path)
                is_cube = not band and bool(images_of(hdus, 3))
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
                    if not (numbers := image_hdus(file)):
                        raise InputError(f"{galaxy.psfs[band]}: no two-dimensional image of a PSF")
                    psf = HduPixels(hdu=file[numbers[0]], path=galaxy.psfs[band])
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
                found = images_of(beside, dimensions)
                if band is not None:
                    bands = bands_of_planes(beside)
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
        found = [h for h in images_of(hdus, dimensions) if role_of_hdu(h) is None]
        if not found:
            raise InputError(f"{path}: no image of {dimensions} dimensions in this file")
        if dimensions == 3 and len(found) > 1:
            raise InputError(
                f"{path}: {len(found)} cubes, one per object? {ALL_IN_ONE}; or give the one to use: "
                f"image = {number_of(hdus, found[0])}"
            )
        return found[0]

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

    def _extras(self, hdus: Sequence[Any], image: Any) -> dict[str, Any]:
        """Return the HDUs of weights and mask by their names."""
        others = [h for h in hdus if h.is_image and dimensions_of(h) in (2, 3) and h is not image]
        by_role = {str(role_of_hdu(hdu)): hdu for hdu in reversed(others)}  # the first of each
        return {role: hdu for role, hdu in by_role.items() if role in ROLES}

    def _extensions(
        self, hdus: fits.HDUList, files: dict[str, Path], opened_files: OpenFiles
    ) -> dict[str, _Band]:
        """Read a file with one HDU for each band."""
        path = files["image"]
        images = [h for h in images_of(hdus, 2) if role_of_hdu(h) is None]
        if not images:
            raise InputError(
                f"{path}: no two-dimensional image HDU; if it holds all objects in one array, {ALL_IN_ONE}"
            )
        bands = bands_of_planes(hdus)
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
                raise InputError(
                    f"{path}: two HDUs of band {band}; keep one, or if they are objects, {ALL_IN_ONE}"
                )
            only = band if len(images) > 1 else None
            of_band = hdus if only is None else [h for h in hdus if bands.get(id(h)) == only]
            extras = self._extras(of_band, hdu) or extras_of(hdus, hdu, path)
            planes = self._planes(extras, files, 2, opened_files, only)
            own = _psf_hdu(of_band)
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
        if (warning := compare_bands(bands_of_cube(hdus, image), self.bands, path)) is not None:
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
            if dimensions_of(plane.hdu) != (2 if plane.layer is None else 3) or not all(shape):
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
        if image.layer is not None:
            header = cards_of_all_layers(header)
        wavelength = wavelength_in_header(header, band)
        out = _Band(image=flux, ivar=weight, wcs=pixels.wcs, wavelength=wavelength)
        if psf is not None and (scale := self.d.pixel_scale_arcsec or self.scale) is not None:
            out.psf = self._psf(band, psf, scale)
        return out

    def _psf(self, band: str, psf: HduPixels, scale: float) -> np.ndarray:
        """Return the PSF in an image, NaN if it cannot be used."""
        side = self.d.psf_scale_arcsec or own_scale(psf.header, scale, psf.path)
        self._remark(f"{band}: each object's PSF is from its PSF image, pixels of {side:.4g} arcsec")
        try:
            return psf_of_image(psf.rows(0, psf.shape[0]), side, psf.path)
        except InputError as error:
            self._remark(f"WARNING: {band}: the PSF of some objects is unknown, such as {error}")
            return gaussians_of(None, NUM_GAUSSIANS)

    def _remark(self, text: str) -> None:
        """Add a remark, unless one that differs only in its numbers is there already."""
        patterns = map(pattern_of, (text, *self.remarks))
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
