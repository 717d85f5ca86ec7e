"""The PSF of an image: from its stars, its header, a PSF image, a PSFEx model, or the user.

A PSF is a sum of circular Gaussians, ``(K, 2)``: see `deepfits.gaussian_psf`. For each field and band it is
recorded, for JSON, as a dictionary with ``gaussians``, ``fwhm_arcsec`` and ``source``, a description of its
origin.
"""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from deepfits.errors import InputError, naming
from deepfits.files import cached_by_files
from deepfits.gaussian_psf import NUM_GAUSSIANS, USUAL_BETA, expand_image, fwhm_of, moffat_psf
from deepfits.survey.astrometry import pixel_scale_of
from deepfits.survey.bands import band_of_header, by_band, given_for, settled_bands
from deepfits.survey.fitsfile import as_float, quiet
from deepfits.survey.hdu_roles import known_band_of_plane, words_of
from deepfits.survey.psf_variation import psf_at
from deepfits.survey.seeing import edge_level, with_wings

UNKNOWN, STARS = "unknown", "the field's stars"
MOST_COMPACT = "the field's most compact objects, which need not be stars"
WIDTHS = ("FWHM", "PSF_FWHM", "SEEING")  # cards with the FWHM, in the unit that the comment names
IN_ARCSEC = ("FWHM", "PSF_FWHM")
"""Those that are in arcseconds if the comment names no unit; the latter is ESO's standard."""
# Cards with the pixel scale of a PSF image, in arcseconds or degrees; GS_SCALE is GalSim's.
_SCALE = re.compile("PIX(EL)?_?SCA?L?E?[1X]?|SECPIX1?|PSFSCALE|GS_SCALE")
MAX_SIDE = 1024
ABOUT = 1.05  # tolerance on widths: noise makes the most compact objects a little narrower than the PSF
CELLS = 4  # number of grid cells per half field on which a varying PSF is evaluated


def record(psf: np.ndarray, source: str) -> dict[str, Any]:
    """Return the record of a PSF, for JSON."""
    return {
        "gaussians": [[float(w), float(s)] for w, s in psf],
        "fwhm_arcsec": float(fwhm_of(psf)),
        "source": source,
    }


def column_record(name: str, widths: np.ndarray) -> dict[str, Any]:
    """Return the record, with the median width, of a PSF whose FWHM for each object is in a column."""
    psf = psf_of_widths(np.asarray(widths, dtype=float))
    known = np.isfinite(psf).all((1, 2))
    if not known.any():
        raise InputError(f"psf {name}: this column holds no width between 0.01 and 20 arcsec")
    return record(moffat_psf(float(np.median(np.asarray(widths)[known]))), f"column {name}, each object's")


def gaussians_of(known: Mapping[str, Any] | None, num_gaussians: int) -> np.ndarray:
    """Return the Gaussians of a `record`, ``(K, 2)``; NaN if the PSF is unknown."""
    if not known or known.get("source") == UNKNOWN:
        return np.full((num_gaussians, 2), np.nan, dtype=np.float32)
    return np.array(known["gaussians"], dtype=np.float32)


def gaussians_at(
    known: Mapping[str, Any] | None, x: np.ndarray, y: np.ndarray, num_gaussians: int
) -> np.ndarray:
    """Return the PSFs of a `record` at 0-based pixels, ``(N, K, 2)``; NaN if the PSF is unknown."""
    varies = (known or {}).get("varies", {})
    psf = gaussians_of(known, num_gaussians)
    return psf_at(psf, varies.get("log_width"), x, y, varies.get("shape", ()))


def find_psf(
    stars: np.ndarray | None,
    header: Mapping[str, Any],
    pixel_scale: float,
    varies: Mapping[str, Any] | None = None,
    flux_error: float | None = None,
    *,
    stars_stand_out: bool = True,
) -> dict[str, Any]:
    """Determine the PSF of one band of one field, unless given by the user; its source may be `UNKNOWN`.

    The stars take precedence over the header, unless they may be galaxies: if they do not stand out
    (`deepfits.survey.stars.stellar_peak`) and are not narrower than the header's FWHM, the header is used, as
    no source is narrower than the PSF. It has one of `WIDTHS` (arcseconds, or pixels if its comment says so)
    and ``PSFBETA``.

    The PSF from the stars' image (`deepfits.survey.seeing.star_image`) is recorded with how it `varies`, as
    ``log_width`` of `deepfits.survey.psf_variation.width_over_field` and ``shape`` of the field, and with the
    relative error of fluxes due to it (`deepfits.survey.psf_error`).
    """
    stated = _stated(header, pixel_scale)
    if stars is None:
        return stated
    found = record(expand_image(with_wings(stars), pixel_scale), STARS if stars_stand_out else MOST_COMPACT)
    is_known = not stars_stand_out and stated["source"] != UNKNOWN
    if is_known and stated["fwhm_arcsec"] < ABOUT * found["fwhm_arcsec"]:
        return stated
    if stars_stand_out and flux_error is not None:
        found["flux_error"] = flux_error
    return found | ({"varies": dict(varies)} if varies else {})


def _stated(header: Mapping[str, Any], pixel_scale: float) -> dict[str, Any]:
    """Return the record of the PSF in a header; its source is `UNKNOWN` if there is none."""
    comments = getattr(header, "comments", {})
    for key in (key for key in WIDTHS if key in header):
        fwhm, comment = as_float(header[key]), str(comments[key] if comments else "").lower()
        if "pix" in comment:
            fwhm *= pixel_scale  # as in DECam's pipeline
        elif "arcsec" not in comment and key not in IN_ARCSEC:
            continue
        if 0.05 < fwhm < 20:
            beta = as_float(header.get("PSFBETA"))
            psf = moffat_psf(fwhm, beta if 1 < beta < math.inf else USUAL_BETA)
            return record(psf, f"{key}, header")
    return {"gaussians": [], "fwhm_arcsec": None, "source": UNKNOWN}


def read_psf_option(given: str, pixel_scale: float, band: str = "") -> dict[str, Any]:
    """Parse the user's PSF of a band, and return its record.

    It is a FWHM in arcseconds, optionally with the index of its Moffat profile (``0.8:2.5``; default 3), or
    the path of a PSF image (with the band's pixel scale, unless its header gives another) or of a PSFEx model
    (``.psf``). From a file with PSFs of several bands, the one with this band in its header, or in the name
    of its HDU, is used.
    """
    width, _, index = str(given).partition(":")
    try:
        fwhm, beta = float(width), float(index or USUAL_BETA)
    except ValueError:
        return _read_file(Path(given), pixel_scale, band)
    if not (0.05 < fwhm < 20 and 1 < beta <= 50):
        raise InputError(
            f"psf {given!r}: the FWHM must be 0.05 to 20 arcsec, and the index of a Moffat profile 1 to 50"
        )
    return record(moffat_psf(fwhm, beta), f"given, Moffat of {fwhm:g} arcsec and index {beta:g}")


def require_given_psfs(
    given: Mapping[str, str], bands: Iterable[str], columns: Mapping[str, np.ndarray]
) -> None:
    """Raise `InputError` for a PSF, by band, that cannot be read, before hours of work are spent on images.

    `columns` are those of the catalogue, empty if the objects are still to be detected.
    """
    for band in bands:
        value = given_for(band, given)
        if value is not None and psf_column(value, band, columns) is None:
            read_psf_option(value, 1.0, band)


def _read_file(path: Path, pixel_scale: float, band: str) -> dict[str, Any]:
    """Read a PSF image (of STPSF's, that with the detector's effects), or the centre of a PSFEx model."""
    if not path.is_file():
        raise InputError(
            f"psf {str(path)!r}: neither a number, a file nor a column of the catalogue; give a FWHM in "
            "arcsec, a FITS file, or a column with the FWHM in arcsec"
        )
    if (model := find_psfex(str(path))) is not None:
        return record(model.at(0, 0, pixel_scale), f"PSFEx model {path.name}")
    with naming(path, "cannot read a PSF from this file"), quiet(), fits.open(path, memmap=False) as hdus:
        images = [hdu for hdu in hdus if hdu.is_image]
        images = [hdu for hdu in images if {"PSF", "OVERDIST"} & {*words_of(hdu.name)}] or images
        bands = settled_bands(
            [band_of_header(hdu.header) for hdu in images], [known_band_of_plane(hdu.name) for hdu in images]
        )
        if (several := len(set(bands) - {None}) > 1) and band not in bands:
            raise InputError(
                f"{path}: PSFs of {', '.join(filter(None, bands))}, none of {band or 'all bands'}"
            )
        for hdu in [h for h, b in zip(images, bands, strict=True) if b == band or not several]:
            data = hdu.data.squeeze() if hdu.data is not None else None
            if data is not None and data.ndim == 2 and max(data.shape) <= MAX_SIDE:
                scale = own_scale(hdu.header, pixel_scale, path)
                psf = psf_of_image(data, scale, path)
                return record(psf, f"PSF image {path.name}, pixels of {scale:.4g} arcsec")
    raise InputError(f"{path}: no PSF image of up to {MAX_SIDE} pixels and no PSFEx model in this file")


def psf_of_image(data: np.ndarray, scale: float, path: Path) -> np.ndarray:
    """Return the PSF, ``(K, 2)``, in an image ``(h, w)`` with pixels of `scale` arcsec, from a file.

    A constant level on which it lies, such as a star's sky, is subtracted as far as wings cannot explain it:
    these fall at least with the third power of the distance, as diffraction.
    """
    margin, steps = min(data.shape) // 8, (4 / 3) ** 3
    if margin:
        inner = edge_level(data[margin:-margin, margin:-margin])
        data = data - max((steps * edge_level(data) - inner) / (steps - 1), 0)
    if (number := ndimage.label(data > np.nanmax(data) / 2)[1]) > 1:
        raise InputError(f"{path}: shows {number} peaks, a grid of PSFs? give an image of one PSF")
    try:
        return expand_image(data, scale)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def own_scale(header: Any, pixel_scale: float, path: Path) -> float:
    """Return the pixel scale of a PSF image from its header, or else the data's, as is common."""
    stated = [abs(_stated_scale(header, key, path)) for key in header if _SCALE.fullmatch(key)]
    step_of_axis = abs(as_float(header.get("CD1_1", header.get("CDELT1"))))
    if str(header.get("CUNIT1", "")).strip().lower().startswith("arcsec"):
        stated = [*stated, step_of_axis]
    in_degrees = stated if "CTYPE1" in header else [*stated, step_of_axis]
    for scale in (*stated, *(value * 3600 for value in in_degrees)):
        if 0.001 < scale < 20:
            return scale
    if str(header.get("CTYPE1", "")).startswith(("RA--", "DEC-")):
        scale = pixel_scale_of(WCS(header).celestial)
        return scale if 0.001 < scale < 20 else pixel_scale
    factor = as_float(next((v for key, v in header.items() if key.startswith("OVERSAM")), None))
    step = 1 / factor if factor > 0 else as_float(header.get("PSF_SAMP"))
    return pixel_scale * (step if 0 < step < math.inf else 1.0)


def _stated_scale(header: Any, key: str, path: Path) -> float:
    """Return the pixel scale in a card, a number or text with its unit; NaN without either."""
    value = header.get(key)
    if not isinstance(value, str) or math.isfinite(as_float(value)) or not any(map(str.isdigit, value)):
        return as_float(value)
    try:
        quantity = units.Quantity(value)
        per_pixel = quantity.unit.is_equivalent("arcsec / pix")
        return float(quantity.to_value("arcsec / pix" if per_pixel else "arcsec"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} = {value!r} is no pixel scale; write a number, in arcsec") from error


@dataclass(frozen=True, eq=False)
class Psfex:
    """A PSFEx model (Bertin 2011): the PSF is a polynomial in the position on the image.

    The planes, ``(T, h, w)``, are coefficients of the terms 1, x, x², …, y, xy, …, of normalised positions,
    which are about -1 to 1.
    """

    planes: np.ndarray
    zero: tuple[float, float]  # offset of the normalised positions, (x, y) in 1-based pixels
    scale: tuple[float, float]
    degree: int
    step: float  # size of a plane's pixel in pixels of the image

    def at(self, x: float, y: float, pixel_scale: float) -> np.ndarray:
        """Return the PSF at a normalised position, ``(K, 2)``."""
        terms = [x**i * y**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)]
        plane = np.tensordot(terms, self.planes, axes=1)
        return expand_image(plane, self.step * pixel_scale, pixel_side=1 / self.step)

    def of(self, x: np.ndarray, y: np.ndarray, pixel_scale: float) -> np.ndarray:
        """Return the PSFs at 0-based pixels, ``(N, K, 2)``, evaluated on a grid of 1/8 of the field.

        Where positions are NaN, they are those of the centre.
        """
        places = np.stack([x + 1, y + 1], axis=1)
        places = np.where(np.isfinite(places) & (self.degree > 0), places, self.zero)
        cells = np.round(((places - self.zero) / self.scale).clip(-2, 2) * CELLS) / CELLS
        different, back = np.unique(cells, axis=0, return_inverse=True)
        return np.stack([self.at(float(i), float(j), pixel_scale) for i, j in different])[back.reshape(-1)]


@cached_by_files(maxsize=16)
def find_psfex(path: str) -> Psfex | None:
    """Read a PSFEx model; None if the file does not exist or is not a PSFEx model.

    Raise `InputError` if it is damaged, of several images, or depends on more than the position on the image.
    """
    if not Path(path).is_file():
        return None
    with naming(path, "cannot read a PSF from this file"), quiet(), fits.open(path, memmap=False) as hdus:
        tables = [h for h in hdus if isinstance(h, fits.BinTableHDU) and "PSF_MASK" in h.columns.names]
        if not tables:
            return None
        if len(tables) > 1:
            raise InputError(f"{path}: models of {len(tables)} images, of CCDs? give only that of this image")
        header, planes = tables[0].header, np.asarray(tables[0].data["PSF_MASK"][0], dtype=float)
    planes = planes[None] if planes.ndim == 2 else planes
    step, degree, axes = (as_float(header.get(key)) for key in ("PSF_SAMP", "POLDEG1", "POLNAXIS"))
    names = [str(header.get(f"POLNAME{n}", "")) for n in (1, 2)]
    degree = int(degree) if axes > 0 and 0 <= degree < math.inf else 0
    if degree and (axes != 2 or not (names[0].startswith("X") and names[1].startswith("Y"))):
        raise InputError(
            f"{path}: this PSF depends on {names}, not on X and Y of the image; make one that does"
        )
    zero, scale = (
        tuple(float(np.nan_to_num(as_float(header.get(f"{key}{n}")))) or default for n in (1, 2))
        for key, default in (("POLZERO", 0.0), ("POLSCAL", 1.0))
    )
    wanted = (degree + 1) * (degree + 2) // 2
    if planes.ndim != 3 or len(planes) < wanted or not 0.05 < step < 20 or degree > 10:
        raise InputError(
            f"{path}: not a valid PSFEx model (shape {planes.shape}, degree {degree}, step {step})"
        )
    return Psfex(planes[:wanted], (zero[0], zero[1]), (scale[0], scale[1]), degree, step)


def psf_of_widths(fwhm_arcsec: np.ndarray) -> np.ndarray:
    """Return Moffat profiles of these widths, ``(..., K, 2)``; NaN unless the FWHM is 0.01 to 20 arcsec."""
    fwhm = np.asarray(fwhm_arcsec, dtype=np.float32)
    known = np.where((fwhm > 0.01) & (fwhm < 20), fwhm, np.nan)[..., None]
    shape = np.broadcast_to(moffat_psf(1.0), (*fwhm.shape, *moffat_psf(1.0).shape))
    return np.stack([np.where(np.isfinite(known), shape[..., 0], np.nan), shape[..., 1] * known], axis=-1)


def expand_images(images: np.ndarray, pixel_scale: float) -> np.ndarray:
    """Expand PSF images ``(N, h, w)`` into sums of Gaussians, ``(N, K, 2)``; NaN where that fails.

    Identical images, such as those of one field, are expanded once.
    """
    flat = images.reshape(len(images), -1)
    different, first, back = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    out = np.full((len(different), NUM_GAUSSIANS, 2), np.nan, np.float32)
    for row, at in enumerate(first):
        with suppress(InputError):
            out[row] = expand_image(images[at], pixel_scale)
    return out[back.reshape(-1)]


def psf_of_objects(
    given: str | None, band: str, columns: Mapping[str, np.ndarray], pixel_scale: float
) -> np.ndarray | None:
    """Return the PSF of each object, ``(N, K, 2)``; None if the PSF is not given per object.

    `given` names a column of widths or a PSFEx model with a varying PSF, which needs the columns ``x`` and
    ``y`` (0-based pixels); without it, the column ``psfsize_<band>`` is used if it exists.
    """
    widths = psf_column(given, band, columns)
    if widths is not None:
        return psf_of_widths(widths)
    model = None if given is None else find_psfex(given)
    if model is None or not model.degree or not {"x", "y"} <= columns.keys():
        return None
    return model.of(columns["x"].astype(float), columns["y"].astype(float), pixel_scale)


def with_psf_of_objects(
    psf: np.ndarray, given: str | None, band: str, columns: Mapping[str, np.ndarray], pixel_scale: float
) -> np.ndarray:
    """Replace PSFs ``(N, K, 2)`` by those of `psf_of_objects`: all if these are given, else unknown ones."""
    is_known = np.isfinite(psf).all((1, 2), keepdims=True) & (given is None)
    own = None if is_known.all() else psf_of_objects(given, band, columns, pixel_scale)
    return psf if own is None else np.where(is_known, psf, own)


def psf_column(given: str | None, band: str, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the FWHM, arcseconds, in the column named by `given`, by default ``psfsize_<band>``.

    This is the Legacy Surveys' name. None if the catalogue has no such column.
    """
    widths = columns.get(f"psfsize_{band}" if given is None else given)
    return widths if widths is not None and np.asarray(widths).dtype.kind in "fiu" else None


def parse_psf_option(psf: object) -> dict[str, str]:
    """Parse the user's PSFs, by band: see `by_band` and `read_psf_option`."""
    return {band: str(value) for band, value in by_band(psf).items()}
