"""File layouts of a patch: plain coadds with weights, or as written by the HSC pipeline.

Files are written strip by strip. Pixel values are counts for the file's zero point, as in a real survey.

Shapes: B bands, H rows of a strip, W columns.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from deepfits.files import writing
from deepfits.passbands import filter_centre
from deepfits.photometry import NJY_ZERO_POINT
from deepfits.sky.defects import IS_BAD, PLANES
from deepfits.sky.noise import aperture_factor
from deepfits.sky.scene import Scene, patch_name
from deepfits.sky.surveys import SkyBand

TRACT = 9813  # tract number of the simulated field in the HSC layout: that of the COSMOS field


Writer = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]
"""Writes a strip: first row, then image (nJy), variance (nJy²) and mask bits, ``(B, H, W)`` each."""


def name_in_layout(layout: str, patch: int) -> str:
    """Return the name of a patch in the truth table."""
    return f"{TRACT}-{patch % 10},{patch // 10}" if layout == "hsc" else patch_name(patch)


def patch_files(out: Path, layout: str, bands: tuple[SkyBand, ...], patch: int, *, alone: bool) -> list[Path]:
    """Return the files of some bands of a patch; `alone` if it is the only patch."""
    if layout == "hsc":
        return [path for band in bands for path in _hsc_paths(out, band, patch)]
    folder = out if alone else out / patch_name(patch)
    return [folder / f"coadd-{band.name}{kind}.fits" for band in bands for kind in ("", ".weight")]


def _hsc_paths(out: Path, band: SkyBand, patch: int) -> list[Path]:
    x, y = patch % 10, patch // 10
    if band.filter.startswith("cfht"):
        stem = f"Mega-{band.name}_{TRACT}_{x}c{y}"
        return [out / f"{stem}.fits", out / f"{stem}.weight.fits"]
    return [out / f"calexp-HSC-{band.name.upper()}-{TRACT}-{x},{y}.fits"]


@contextmanager
def open_patch(out: Path, layout: str, scene: Scene, *, alone: bool) -> Iterator[Writer]:
    """Create the files of a patch under temporary names, and yield a function that writes strips to them.

    The files are renamed when the block ends without an error.
    """
    with ExitStack() as stack:
        writers: list[Writer] = []
        for index, band in enumerate(scene.survey.bands):
            files = patch_files(out, layout, (band,), scene.patch, alone=alone)
            paths = [stack.enter_context(writing(path)) for path in files]
            kind = pair_writer if len(paths) == 2 else _hsc_writer
            writers.append(kind(paths, scene, index))

        def write(first_row: int, image: np.ndarray, variance: np.ndarray, bits: np.ndarray) -> None:
            for writer in writers:
                writer(first_row, image, variance, bits)

        yield write


def pair_writer(paths: list[Path], scene: Scene, index: int) -> Writer:
    """Return a writer of an image and its inverse variance, 0 in bad pixels, to one file each."""
    counts = np.float32(counts_per_njy(scene.survey.bands[index]))
    header = band_header(scene, index)
    image_at = create_fits(paths[0], [(header, ">f4")], scene.size)[0]
    header = header.copy()
    header["BUNIT"] = "count**-2"
    weight_at = create_fits(paths[1], [(header, ">f4")], scene.size)[0]

    def write(first_row: int, image: np.ndarray, variance: np.ndarray, bits: np.ndarray) -> None:
        is_bad = (bits[index] & IS_BAD) != 0
        weight = np.where(is_bad, np.float32(0), 1 / (variance[index] * counts**2))
        write_rows(paths[0], image_at, first_row, image[index] * counts, ">f4")
        write_rows(paths[1], weight_at, first_row, weight, ">f4")

    return write


def _hsc_writer(paths: list[Path], scene: Scene, index: int) -> Writer:
    """Return a writer of image, mask and variance as HDUs 1 to 3 of one file."""
    path = paths[0]
    band = scene.survey.bands[index]
    counts = np.float32(counts_per_njy(band))
    flux_of_zero = (10 ** (0.4 * band.zero_point), "counts of magnitude 0")
    primary = fits.Header([("FILTER", f"HSC-{band.name.upper()}"), ("FLUXMAG0", *flux_of_zero)])
    image_header = band_header(scene, index)
    image_header["EXTNAME"] = "IMAGE"
    for key in ("MAGZERO", "FILTER"):
        del image_header[key]
    # Keywords longer than 8 characters must be marked.
    names = {f"MP_{name}": bit for name, bit in PLANES.items()}
    planes = [(name if len(name) <= 8 else f"HIERARCH {name}", bit) for name, bit in names.items()]
    mask_header = fits.Header([("EXTNAME", "MASK"), *planes])
    variance_header = fits.Header([("EXTNAME", "VARIANCE")])
    hdus = [(primary, None), (image_header, ">f4"), (mask_header, ">i4"), (variance_header, ">f4")]
    _, image_at, mask_at, variance_at = create_fits(path, hdus, scene.size)

    def write(first_row: int, image: np.ndarray, variance: np.ndarray, bits: np.ndarray) -> None:
        no_data = (bits[index] & (1 << PLANES["NO_DATA"])) != 0
        pixels = np.where(no_data, np.float32(np.nan), image[index] * counts)
        variances = np.where(no_data, np.float32(np.inf), variance[index] * counts**2)
        write_rows(path, image_at, first_row, pixels, ">f4")
        write_rows(path, mask_at, first_row, bits[index], ">i4")
        write_rows(path, variance_at, first_row, variances, ">f4")

    return write


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
            merged = fits.Header(cards.items())
            merged.extend(header)
            file.write(merged.tostring().encode("ascii"))
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
