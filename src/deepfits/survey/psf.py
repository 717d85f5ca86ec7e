"""The PSF of an image: from its own stars, its header, a PSF image, a PSFEx model, or the user.

A PSF is a sum of round Gaussians, ``(K, 2)``: see `deepfits.gaussian_psf`. What is recorded of a field and
band, for JSON, is a dictionary with ``gaussians``, ``fwhm_arcsec`` and ``source``, which says in words where
it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from deepfits.errors import InputError, naming
from deepfits.gaussian_psf import NUM_GAUSSIANS, USUAL_BETA, expand_image, fwhm_of, moffat_psf
from deepfits.survey.astrometry import pixel_scale_of
from deepfits.survey.bands import band_name, band_of_header
from deepfits.survey.fitsfile import quiet
from deepfits.survey.seeing import width_at

UNKNOWN, STARS = "unknown", "the field's stars"
MOST_COMPACT = "the field's most compact objects, which need not be stars"
MAX_SIDE = 1024
ABOUT = 1.05  # noise makes the most compact objects a little narrower than the PSF
CELLS = 4  # places of a varying PSF, in half the field


def record(psf: np.ndarray, source: str) -> dict[str, Any]:
    """Return what is recorded of a PSF, for JSON."""
    return {
        "gaussians": [[float(w), float(s)] for w, s in psf],
        "fwhm_arcsec": float(fwhm_of(psf)),
        "source": source,
    }


def column_record(name: str, widths: np.ndarray) -> dict[str, Any]:
    """Return what is recorded of a PSF whose width a column says for each object: their median."""
    psf = psf_of_widths(np.asarray(widths, dtype=float))
    known = np.isfinite(psf).all((1, 2))
    if not known.any():
        raise InputError(f"psf {name}: this column holds no width between 0.01 and 20 arcsec")
    return record(moffat_psf(float(np.median(np.asarray(widths)[known]))), f"column {name}, each object's")


def gaussians_of(known: Mapping[str, Any] | None, num_gaussians: int) -> np.ndarray:
    """Read back `record`, ``(K, 2)``; NaN where there is none."""
    if not known or known.get("source") == UNKNOWN:
        return np.full((num_gaussians, 2), np.nan, dtype=np.float32)
    return np.array(known["gaussians"], dtype=np.float32)


def gaussians_at(
    known: Mapping[str, Any] | None, x: np.ndarray, y: np.ndarray, num_gaussians: int
) -> np.ndarray:
    """Return what `record` says at some places, pixels from 0: ``(N, K, 2)``; NaN where there is none."""
    out = np.repeat(gaussians_of(known, num_gaussians)[None], len(x), axis=0)
    if known and (varies := known.get("varies")):
        out[:, :, 1] *= width_at(varies["coefficients"], x, y, varies["shape"])[:, None]
    return out


def find_psf(
    stars: np.ndarray | None,
    header: Mapping[str, Any],
    pixel_scale: float,
    varies: Mapping[str, Any] | None = None,
    *,
    stars_stand_out: bool = True,
) -> dict[str, Any]:
    """Decide the PSF of one band of one field, where the user does not say it; its source may be `UNKNOWN`.

    The stars are believed before the header, unless they may be galaxies: nothing is narrower than the PSF,
    so where they do not stand out (`deepfits.survey.stars.stellar_peak`) and are no narrower than the header
    says, the header is right. Their image is that of `deepfits.survey.seeing.star_image`, None where there
    are too few; of the header ``FWHM`` (arcseconds, or pixels if its comment says so) and ``PSFBETA`` are
    read. How the width varies over the field are ``coefficients`` of
    `deepfits.survey.seeing.width_over_field`, and the ``shape`` of the field.
    """
    stated = _stated(header, pixel_scale)
    if stars is None:
        return stated
    found = record(expand_image(stars, pixel_scale), STARS if stars_stand_out else MOST_COMPACT)
    is_known = not stars_stand_out and stated["source"] != UNKNOWN
    if is_known and stated["fwhm_arcsec"] < ABOUT * found["fwhm_arcsec"]:
        return stated
    return found | ({"varies": dict(varies)} if varies else {})


def _stated(header: Mapping[str, Any], pixel_scale: float) -> dict[str, Any]:
    """Return the PSF that a header states; its source is `UNKNOWN` where there is none."""
    fwhm = _number(header.get("FWHM"))
    if fwhm is not None and "pix" in str(getattr(header, "comments", {"FWHM": ""})["FWHM"]).lower():
        fwhm *= pixel_scale  # so DECam's pipeline
    if fwhm is not None and 0.05 < fwhm < 20:
        beta = _number(header.get("PSFBETA"))
        return record(moffat_psf(fwhm, beta if beta is not None and beta > 1 else USUAL_BETA), "FWHM, header")
    return {"gaussians": [], "fwhm_arcsec": None, "source": UNKNOWN}


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def read_psf_option(given: str, pixel_scale: float, band: str = "") -> dict[str, Any]:
    """Read what a user says of the PSF of a band.

    A FWHM in arcseconds, with the index of a Moffat profile after a colon where it is not 3 (``0.8:2.5``), or
    the path of a PSF image (of the data's pixels, or of those that its header says) or of a PSFEx model
    (``.psf``). Of a file with PSFs of several bands it is the one whose header says this band.
    """
    width, _, index = str(given).partition(":")
    try:
        fwhm, beta = float(width), float(index or USUAL_BETA)
    except ValueError:
        return _read_file(Path(given), pixel_scale, band)
    if not (0.05 < fwhm < 20 and 1 < beta <= 50):
        raise InputError(
            f"psf {given!r}: a FWHM is 0.05 to 20 arcsec, and the index of a Moffat profile 1 to 50"
        )
    return record(moffat_psf(fwhm, beta), f"given, Moffat of {fwhm:g} arcsec and index {beta:g}")


def _read_file(path: Path, pixel_scale: float, band: str) -> dict[str, Any]:
    """Read a PSF image, or a PSFEx model at the middle of its field."""
    if not path.is_file():
        raise InputError(
            f"psf {str(path)!r}: neither a number, a file nor a column of the catalogue; give a FWHM in "
            "arcsec, a FITS file, or a column with the FWHM in arcsec"
        )
    if (model := find_psfex(str(path))) is not None:
        return record(model.at(0, 0, pixel_scale), f"PSFEx model {path.name}")
    with naming(path, "cannot read a PSF from this file"), quiet(), fits.open(path, memmap=False) as hdus:
        bands = [band_of_header(hdu.header) if hdu.is_image else None for hdu in hdus]
        if (several := len(set(bands) - {None}) > 1) and band not in bands:
            raise InputError(
                f"{path}: PSFs of {', '.join(filter(None, bands))}, none of {band or 'all bands'}"
            )
        for hdu in [h for h, its in zip(hdus, bands, strict=True) if its == band or not several]:
            data = hdu.data.squeeze() if hdu.is_image and hdu.data is not None else None
            if data is not None and data.ndim == 2 and max(data.shape) <= MAX_SIDE:
                if (number := ndimage.label(data > np.nanmax(data) / 2)[1]) > 1:
                    raise InputError(f"{path}: shows {number} peaks, a grid of PSFs? give an image of one")
                scale = _own_scale(hdu.header) or pixel_scale
                try:
                    psf = expand_image(data, scale)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from error
                return record(psf, f"PSF image {path.name}, pixels of {scale:.4g} arcsec")
    raise InputError(f"{path}: no PSF image of up to {MAX_SIDE} pixels and no PSFEx model in this file")


def _own_scale(header: Any) -> float | None:
    """Return the side of a PSF image's pixels where its header says it; images of one survey's seldom do."""
    for key in ("PIXELSCL", "PIXSCALE"):
        scale = _number(header.get(key))
        if scale is not None and 0.001 < scale < 20:
            return scale
    if not str(header.get("CTYPE1", "")).startswith(("RA--", "DEC-")):
        return None
    scale = pixel_scale_of(WCS(header))
    return scale if 0.001 < scale < 20 else None


@dataclass(frozen=True, eq=False)
class Psfex:
    """A PSFEx model (Bertin 2011): the PSF is a polynomial of the place in the image.

    Attributes
    ----------
    planes
        ``(T, h, w)``: the terms 1, x, x², …, y, xy, …, of places from -1 to 1 or thereabouts.
    zero, scale
        ``(x, y)``, pixels counted from 1, and what their distance from there is divided by.
    degree
        Of the polynomial.
    step
        Side of a plane's pixel in pixels of the image.
    """

    planes: np.ndarray
    zero: tuple[float, float]
    scale: tuple[float, float]
    degree: int
    step: float

    def at(self, x: float, y: float, pixel_scale: float) -> np.ndarray:
        """Return the PSF at a place in units of `scale`, ``(K, 2)``."""
        terms = [x**i * y**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)]
        plane = np.tensordot(terms, self.planes, axes=1)
        return expand_image(plane, self.step * pixel_scale, pixel_side=1 / self.step)

    def of(self, x: np.ndarray, y: np.ndarray, pixel_scale: float) -> np.ndarray:
        """Return the PSFs at pixels counted from 0, ``(N, K, 2)``, to a step of 1/8 of the field."""
        places = np.stack([x + 1, y + 1], axis=1)
        if not self.degree:
            places = np.broadcast_to(self.zero, places.shape)
        cells = np.round(((places - self.zero) / self.scale).clip(-2, 2) * CELLS) / CELLS
        different, back = np.unique(cells, axis=0, return_inverse=True)
        return np.stack([self.at(float(i), float(j), pixel_scale) for i, j in different])[back.reshape(-1)]


@lru_cache(maxsize=16)
def find_psfex(path: str) -> Psfex | None:
    """Read a PSFEx model; None where the file is none, or no file.

    Raises
    ------
    InputError
        A model that depends on more than the place in the image, or a damaged one.
    """
    if not Path(path).is_file():
        return None
    with naming(path, "cannot read a PSF from this file"), quiet(), fits.open(path, memmap=False) as hdus:
        tables = [h for h in hdus if isinstance(h, fits.BinTableHDU) and "PSF_MASK" in h.columns.names]
        if not tables:
            return None
        if len(tables) > 1:
            raise InputError(f"{path}: models of {len(tables)} images, of CCDs? give that of this one alone")
        header, planes = tables[0].header, np.asarray(tables[0].data["PSF_MASK"][0], dtype=float)
    planes = planes[None] if planes.ndim == 2 else planes
    step, degree, axes = (_number(header.get(key)) for key in ("PSF_SAMP", "POLDEG1", "POLNAXIS"))
    names = [str(header.get(f"POLNAME{n}", "")) for n in (1, 2)]
    degree = int(degree or 0) if axes else 0
    if degree and (axes != 2 or not (names[0].startswith("X") and names[1].startswith("Y"))):
        raise InputError(
            f"{path}: this PSF depends on {names}, not on X and Y of the image; make one that does"
        )
    zero, scale = (
        tuple(_number(header.get(f"{key}{n}")) or default for n in (1, 2))
        for key, default in (("POLZERO", 0.0), ("POLSCAL", 1.0))
    )
    wanted = (degree + 1) * (degree + 2) // 2
    if planes.ndim != 3 or len(planes) < wanted or step is None or not 0.05 < step < 20 or degree > 10:
        raise InputError(
            f"{path}: a PSFEx model of another form ({planes.shape}, degree {degree}, step {step})"
        )
    return Psfex(planes[:wanted], (zero[0], zero[1]), (scale[0], scale[1]), degree, step)


def psf_of_widths(fwhm_arcsec: np.ndarray) -> np.ndarray:
    """Return Moffat profiles of these widths, ``(..., K, 2)``; NaN where a width is no positive number."""
    fwhm = np.asarray(fwhm_arcsec, dtype=np.float32)
    known = np.where((fwhm > 0.01) & (fwhm < 20), fwhm, np.nan)[..., None]
    shape = np.broadcast_to(moffat_psf(1.0), (*fwhm.shape, *moffat_psf(1.0).shape))
    return np.stack([np.where(np.isfinite(known), shape[..., 0], np.nan), shape[..., 1] * known], axis=-1)


def expand_images(images: np.ndarray, pixel_scale: float) -> np.ndarray:
    """Return measured PSF images ``(N, h, w)`` as sums of Gaussians, ``(N, K, 2)``; NaN where one shows none.

    Equal images, as those of one field, are expanded once.
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
    """Return the PSF of each object where what is given, or the catalogue, has one for each: ``(N, K, 2)``.

    Given is a column of widths, or a PSFEx model; without, ``psfsize_<band>`` is looked for. Columns ``x``
    and ``y``, pixels from 0, are needed where the PSF varies.
    """
    widths = psf_column(given, band, columns)
    if widths is not None:
        return psf_of_widths(widths)
    model = None if given is None else find_psfex(given)
    if model is None or not model.degree or not {"x", "y"} <= columns.keys():
        return None
    return model.of(columns["x"].astype(float), columns["y"].astype(float), pixel_scale)


def psf_column(given: str | None, band: str, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the widths, arcseconds, of a column that `given` names; without one, of ``psfsize_<band>``.

    That is what the Legacy Surveys call it. None where the catalogue has no such column.
    """
    widths = columns.get(f"psfsize_{band}" if given is None else given)
    return widths if widths is not None and np.asarray(widths).dtype.kind in "fiu" else None


def parse_psf_option(psf: object) -> dict[str, str]:
    """Read ``["g=0.8", "r=psf-r.fits"]``, ``{"g": 0.8}`` or one value for all bands (under ``""``)."""
    if psf is None:
        return {}
    if isinstance(psf, Mapping):
        return {band_name(str(k)): str(v) for k, v in psf.items()}
    out = {}
    for entry in [psf] if isinstance(psf, (str, float, int, Path)) else list(psf):  # type: ignore[call-overload]
        band, equals, value = str(entry).partition("=")
        out[band_name(band) if equals else ""] = value if equals else str(entry)
    return out
