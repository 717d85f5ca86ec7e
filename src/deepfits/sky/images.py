"""FITS files written strip by strip, and their headers.

Shapes: H = W = size pixels. Pixel values are counts for the file's zero point, as in a real survey.
"""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from deepfits.passbands import filter_centre
from deepfits.photometry import NJY_ZERO_POINT
from deepfits.sky.noise import aperture_factor
from deepfits.sky.scene import Scene
from deepfits.sky.surveys import SkyBand


def counts_per_njy(band: SkyBand) -> float:
    """Return the counts in a band's files per nJy."""
    return 10 ** (0.4 * (band.zero_point - NJY_ZERO_POINT))


def band_header(scene: Scene, index: int) -> Any:
    """Return the header of a band's image.

    ``WAVELEN`` is the mean wavelength of the filter in Å (0 if unknown), ``MAGZERO`` the AB magnitude of one
    count, ``FWHM`` that of the PSF in arcseconds, ``DEPTH5`` the 5σ depth in a 2″ aperture, and ``NOISCORR``
    the ratio of the noise in a 2″ aperture to that of independent pixels.
    """
    survey, conditions = scene.survey, scene.conditions
    band = survey.bands[index]
    header = scene.wcs.to_header()
    header["FILTER"] = (band.name, band.filter if len(band.filter) < 40 else "")
    wavelength = round(filter_centre(band.filter), 1) if scene.knows_filters else 0.0
    header["WAVELEN"] = (wavelength, "mean filter wavelength, Angstrom; 0: unknown")
    header["MAGZERO"] = (band.zero_point, "AB magnitude of one count")
    header["BUNIT"] = "count"
    header["FWHM"] = (round(conditions.fwhm_arcsec[index], 4), "FWHM of the PSF, arcsec")
    header["PSFBETA"] = (survey.moffat_beta, "beta of the Moffat PSF")
    header["DEPTH5"] = (round(conditions.depth[index], 3), "AB mag, 5 sigma in a 2 arcsec aperture")
    header["SKYMAG"] = (band.sky_mag, "AB mag per square arcsec")
    factor = aperture_factor(conditions.kernel, survey.depth_radius)
    header["NOISCORR"] = (round(factor, 4), "2 arcsec noise over independent pixels")
    header["SURVEY"] = survey.name[:60]
    header["ORIGIN"] = ("deepfits simulate", "a simulated sky")
    header["SIMSEED"] = scene.seed
    header["SIMPATCH"] = scene.patch
    return header


def create_fits(path: Path, hdus: list[tuple[Any, str | None]], size: int) -> list[int]:
    """Write a FITS file of zeros, to be filled later; return the byte offset of each HDU's pixels.

    `hdus` are headers and pixel types: ``">f4"``, ``">i4"``, or None for an HDU without pixels.
    """
    offsets = []
    with path.open("wb") as file:
        for number, (header, dtype) in enumerate(hdus):
            axes = {} if dtype is None else {"NAXIS1": size, "NAXIS2": size}
            cards: dict[str, Any] = {"XTENSION": "IMAGE"} if number else {"SIMPLE": True}
            cards |= {"BITPIX": {None: 8, ">f4": -32, ">i4": 32}[dtype], "NAXIS": len(axes), **axes}
            if number:
                cards |= {"PCOUNT": 0, "GCOUNT": 1}
            elif len(hdus) > 1:
                cards |= {"EXTEND": True}
            whole = fits.Header(cards.items())
            whole.extend(header)
            file.write(whole.tostring().encode("ascii"))
            offsets.append(file.tell())
            length = 0 if dtype is None else size * size * 4
            file.truncate(offsets[-1] + -(-length // 2880) * 2880)
            file.seek(0, 2)
    return offsets


def write_rows(path: Path, offset: int, first_row: int, values: np.ndarray, dtype: str) -> None:
    """Write rows of pixels, ``(H, W)``, to the HDU at a byte offset of a file made by `create_fits`."""
    with path.open("r+b") as file:
        file.seek(offset + first_row * values.shape[1] * 4)
        file.write(np.ascontiguousarray(values, dtype=dtype).tobytes())
