"""File layouts of a patch: plain coadds with weights, or as written by the HSC pipeline.

Shapes: B bands, H rows of a strip, W columns.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits

from deepfits.files import writing
from deepfits.sky.defects import IS_BAD, PLANES
from deepfits.sky.images import band_header, counts_per_njy, create_fits, write_rows
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
