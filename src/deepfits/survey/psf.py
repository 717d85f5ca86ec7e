"""The PSF of an image: from its own stars, its header, a PSF image, a PSFEx model, or the user.

A PSF is a sum of round Gaussians, ``(K, 2)``: see `deepfits.observation`. What is recorded of a field and
band, for JSON, is a dictionary with ``gaussians``, ``fwhm_arcsec`` and ``source``, which says in words where
it comes from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepfits.errors import InputError
from deepfits.observation import USUAL_BETA, expand_image, fwhm_of, moffat_psf

log = logging.getLogger(__name__)
UNKNOWN = "unknown"
MAX_SIDE = 1024


def record(psf: np.ndarray, source: str) -> dict[str, Any]:
    """Return what is recorded of a PSF, for JSON."""
    return {
        "gaussians": [[float(w), float(s)] for w, s in psf],
        "fwhm_arcsec": float(fwhm_of(psf)),
        "source": source,
    }


def gaussians_of(known: Mapping[str, Any] | None, num_gaussians: int) -> np.ndarray:
    """Read back `record`, ``(K, 2)``; NaN where there is none."""
    if not known or known.get("source") == UNKNOWN:
        return np.full((num_gaussians, 2), np.nan, dtype=np.float32)
    return np.array(known["gaussians"], dtype=np.float32)


def find_psf(
    stars: np.ndarray | None, header: Mapping[str, Any], pixel_scale: float, where: str
) -> dict[str, Any]:
    """Decide the PSF of one band of one field, where the user does not say it.

    Parameters
    ----------
    stars
        The image of the field's stars, from `deepfits.survey.seeing.star_image`; None where there are too
        few.
    header
        Of the image; ``FWHM`` (arcseconds) and ``PSFBETA`` are read where the stars say nothing.
    pixel_scale
        Arcseconds.
    where
        Field and band, for messages.
    """
    if stars is not None:
        return record(expand_image(stars, pixel_scale), "the field's stars")
    fwhm = _number(header.get("FWHM"))
    if fwhm is not None and 0.05 < fwhm < 20:
        beta = _number(header.get("PSFBETA"))
        return record(moffat_psf(fwhm, beta if beta is not None and beta > 1 else USUAL_BETA), "FWHM, header")
    log.warning(
        "WARNING: %s: the PSF is unknown (too few stars, no FWHM in the header); models that need it cannot "
        "be used on this band until it is given, such as psf=g=0.8 (FWHM, arcsec)",
        where,
    )
    return {"gaussians": [], "fwhm_arcsec": None, "source": UNKNOWN}


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def read_psf_option(given: str, pixel_scale: float) -> dict[str, Any]:
    """Read what a user says of a PSF.

    A FWHM in arcseconds, with the index of a Moffat profile after a colon where it is not 3 (``0.8:2.5``), or
    the path of a PSF image or of a PSFEx model (``.psf``).
    """
    width, _, index = str(given).partition(":")
    try:
        fwhm, beta = float(width), float(index or USUAL_BETA)
    except ValueError:
        return _read_file(Path(given), pixel_scale)
    if not (0.05 < fwhm < 20 and 1 < beta <= 50):
        raise InputError(
            f"psf {given!r}: a FWHM is 0.05 to 20 arcsec, and the index of a Moffat profile 1 to 50"
        )
    return record(moffat_psf(fwhm, beta), f"given, Moffat of {fwhm:g} arcsec and index {beta:g}")


def _read_file(path: Path, pixel_scale: float) -> dict[str, Any]:
    """Read a PSF image or a PSFEx model (Bertin 2011), at the middle of its field."""
    from astropy.io import fits

    from deepfits.survey.fitsfile import quiet

    if not path.is_file():
        raise InputError(
            f"psf {str(path)!r}: neither a number nor a file; give a FWHM in arcsec or a FITS file"
        )
    try:
        with quiet(), fits.open(path, memmap=False) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU) and "PSF_MASK" in hdu.columns.names:
                    planes = np.asarray(hdu.data["PSF_MASK"][0], dtype=float)
                    step = float(hdu.header["PSF_SAMP"])
                    if planes.ndim not in (2, 3) or not 0.05 < step < 20:
                        raise InputError(f"{path}: a PSFEx model of another form ({planes.shape}, {step})")
                    middle = planes if planes.ndim == 2 else planes[0]  # the polynomials' other terms are 0
                    psf = expand_image(middle, step * pixel_scale, pixel_side=1 / step)
                    return record(psf, f"PSFEx model {path.name}")
            for hdu in hdus:
                data = hdu.data if hdu.is_image else None
                if data is not None and data.ndim == 2 and max(data.shape) <= MAX_SIDE:
                    return record(expand_image(data, pixel_scale), f"PSF image {path.name}")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot read a PSF from this file ({error})") from error
    raise InputError(f"{path}: no PSF image of up to {MAX_SIDE} pixels and no PSFEx model in this file")


def parse_psf_option(psf: object) -> dict[str, str]:
    """Read ``["g=0.8", "r=psf-r.fits"]``, ``{"g": 0.8}`` or one value for all bands (under ``""``)."""
    from deepfits.survey.bands import band_name

    if psf is None:
        return {}
    if isinstance(psf, Mapping):
        return {band_name(str(k)): str(v) for k, v in psf.items()}
    out = {}
    for entry in [psf] if isinstance(psf, (str, float, int, Path)) else list(psf):  # type: ignore[call-overload]
        band, equals, value = str(entry).partition("=")
        out[band_name(band) if equals else ""] = value if equals else str(entry)
    return out
