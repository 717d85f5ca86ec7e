"""FITS files that are written strip by strip, and their headers.

Shapes: H = W = size pixels. Pixels are in counts of the file's zero point, as a survey's would be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepfits.sky.noise import aperture_factor
from deepfits.sky.scene import Conditions
from deepfits.sky.surveys import AB_ZERO_POINT_NJY, DEPTH_APERTURE_ARCSEC, SkyBand, SkySurvey

FIELD_CENTRE = (150.1, 2.2)
"""Where the simulated field lies: degrees, near the COSMOS field."""
PATCH_GAP = 100
"""Pixels between patches: each has its own objects."""


def patch_wcs(survey: SkySurvey, size: int, patch: int) -> Any:
    """Return the world coordinates of a patch: all patches share one tangent plane.

    Parameters
    ----------
    survey
        Gives the scale.
    size
        Side of a patch, pixels.
    patch
        Its number; ten stand in a row.

    Returns
    -------
    astropy.wcs.WCS
    """
    from astropy.wcs import WCS

    column, row = patch % 10, patch // 10
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = FIELD_CENTRE
    wcs.wcs.crpix = [
        (size + 1) / 2 - column * (size + PATCH_GAP),
        (size + 1) / 2 - row * (size + PATCH_GAP),
    ]
    scale = survey.pixel_scale_arcsec / 3600
    wcs.wcs.cd = [[-scale, 0.0], [0.0, scale]]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    return wcs


def counts_per_njy(band: SkyBand) -> float:
    """Return what turns nJy into the counts of a band's files."""
    return 10 ** (0.4 * (band.zero_point - AB_ZERO_POINT_NJY))


def band_header(
    survey: SkySurvey, conditions: Conditions, size: int, seed: int, patch: int, index: int
) -> Any:
    """Return the header of a band's image.

    ``MAGZERO`` is the AB magnitude of one count, ``FWHM`` in arcseconds, ``DEPTH5`` the 5σ depth in 2″, and
    ``NOISCORR`` how much larger the noise is in a 2″ aperture than that of as many independent pixels.
    """
    header = patch_wcs(survey, size, patch).to_header()
    band = survey.bands[index]
    radius = DEPTH_APERTURE_ARCSEC / 2 / survey.pixel_scale_arcsec
    header["FILTER"] = (band.name, band.filter if len(band.filter) < 40 else "")
    header["MAGZERO"] = (band.zero_point, "AB magnitude of one count")
    header["BUNIT"] = "count"
    header["FWHM"] = (round(conditions.fwhm_arcsec[index], 4), "of the PSF, arcsec")
    header["PSFBETA"] = (survey.moffat_beta, "of the Moffat PSF")
    header["DEPTH5"] = (round(conditions.depth[index], 3), "AB mag, 5 sigma in a 2 arcsec aperture")
    header["SKYMAG"] = (band.sky_mag, "AB mag per square arcsec")
    header["NOISCORR"] = (
        round(aperture_factor(conditions.kernel, radius), 4),
        "2 arcsec noise over independent pixels",
    )
    header["SURVEY"] = survey.name[:60]
    header["ORIGIN"] = ("deepfits simulate", "a simulated sky")
    header["SIMSEED"] = seed
    header["SIMPATCH"] = patch
    return header


def create_image(path: Path, header: Any, size: int) -> int:
    """Write a FITS file of zeros with a header; return where its pixels begin, bytes."""
    from astropy.io import fits

    whole = fits.Header()
    for key, value in (("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", size), ("NAXIS2", size)):
        whole[key] = value
    whole.extend(header)
    text = whole.tostring().encode("ascii")
    with path.open("wb") as file:
        file.write(text)
        file.truncate(len(text) + -(-size * size * 4 // 2880) * 2880)
    return len(text)


def write_rows(path: Path, offset: int, first_row: int, values: np.ndarray) -> None:
    """Write rows of pixels, ``(H, W)``, into a file from `create_image`."""
    with path.open("r+b") as file:
        file.seek(offset + first_row * values.shape[1] * 4)
        file.write(np.ascontiguousarray(values, dtype=">f4").tobytes())
