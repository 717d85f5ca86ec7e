"""Source detection on a combined image of all bands.

Shapes: H, W pixels, N sources.

The combined image is the normalised sum over bands of the background-subtracted signal-to-noise, or of its
square (`chi2`, after Szalay, Connolly & Szokoly 1999). No selection is made by type, luminosity or shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import sep
from scipy import ndimage

from deepfits.config import Range, check
from deepfits.errors import InputError
from deepfits.survey.noise import clipped_statistics
from deepfits.survey.sources import MESH, DeblendOptions

# Initial and maximum size of sep's buffer of pixels above the threshold (64 bytes each); enlarged on demand.
PIXSTACK = 1_000_000
MOST_PIXSTACK = 64_000_000
SAMPLE = 1 << 16  # pixels from the middle of an image, in which values that repeat are counted
# Signal-to-noise of pixels between which others are filled, and the largest number of these in a row.
CORE_SNR, WIDEST_CORE = 10, 64
# Bad pixels are a gap, not a core with a trail, if they are at least this wide and longer than a core.
LEAST_GAP = 9
# Pixels around sources that their light reaches, and the share of others that is needed to measure the sky.
WINGS, LEAST_SKY = 4, 0.5


class Readable(Protocol):
    """Interface of a band for detection; see `deepfits.survey.grids.AlignedPlane`."""

    shape: tuple[int, int]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight."""


@dataclass(frozen=True, kw_only=True)
class DetectOptions(DeblendOptions):
    """Options of source detection."""

    smoothing_pixels: Annotated[float, Range(gt=0)] = 2.5  # FWHM of a Gaussian; should be about the PSF's
    mesh: Annotated[int, Range(ge=8)] = MESH  # side of a cell of the background, pixels

    def __post_init__(self) -> None:
        check(self, where="detection")


def background_of(
    image: np.ndarray, is_bad: np.ndarray, mesh: int = MESH, is_source: np.ndarray | None = None
) -> sep.Background:
    """Measure the smooth background of an image: sep's mesh of clipped modes.

    If the pixels of sources are given, and leave half of the image, it is that between them: in deep images
    the light of sources raises modes by 0.2σ of a pixel, which adds up to twice the noise of an aperture.

    Modes follow medians, which are rounded if pixels have few distinct values, as integers have: by 0.3σ for
    a noise of three counts. So noise of half the pixels' own is added to such images for the estimate.
    """
    mesh, smooth = min(mesh, *image.shape), image
    if is_source is not None:
        is_sky = ~(is_bad | ndimage.binary_dilation(is_source, iterations=WINGS))
        is_bad = ~is_sky if is_sky.sum() > LEAST_SKY * (~is_bad).sum() else is_bad
    values = image[~is_bad]
    values = values[max(len(values) - SAMPLE, 0) // 2 :][:SAMPLE]
    if len(np.unique(values)) < len(values) / 2:
        dither = np.random.default_rng(0).standard_normal(image.shape, np.float32)
        smooth = image + np.float32(0.5 * clipped_statistics(values)[1]) * dither
    return sep.Background(smooth, mask=is_bad, bw=mesh, bh=mesh, fw=3, fh=3)


def drop_source_noise(image: np.ndarray, weight: np.ndarray, is_bad: np.ndarray, mesh: int) -> None:
    """Remove the photon noise of the sources themselves from the weights, in place.

    If weights include it (as HSC's variances do), dividing by the noise flattens bright stars, which then
    look larger than faint ones. In pixels above 3σ the weight is raised to that of the surrounding sky.
    """
    mesh = min(mesh, *image.shape)
    sky_weight = sep.Background(weight, mask=is_bad, bw=mesh, bh=mesh, fw=3, fh=3).back(dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # pixels such as 1e30
        is_bright = (image * np.abs(image) * weight > 9) & ~is_bad
    weight[is_bright] = np.maximum(weight[is_bright], sky_weight[is_bright])


def fill_cores(image: np.ndarray, is_bad: np.ndarray) -> np.ndarray:
    """Fill pixels without data between bright ones in a signal-to-noise image, in place; return which.

    Without the saturated core of a star, or a bad column through a galaxy, the rest would be detected in
    several pieces. Pixels are filled from the border inwards, each with the largest of its neighbours, so
    that nothing inside is a source of its own. Gaps between detectors are not filled: there are different
    sources on their two sides.
    """
    is_bright = (image > CORE_SNR) & ~is_bad
    filled = _runs_between(is_bright, is_bad) | _runs_between(is_bright.T, is_bad.T).T
    if filled.any():
        filled &= ~_gaps(is_bad)
    y, x = np.nonzero(filled)
    if not y.size:
        return filled
    values = np.pad(np.where(is_bad, -np.inf, image), 1, constant_values=-np.inf)
    while y.size:
        inwards = np.max([values[y + dy, x + dx] for dy in range(3) for dx in range(3)], axis=0)
        is_layer = inwards > -np.inf
        y_of, x_of = y[is_layer], x[is_layer]
        image[y_of, x_of] = values[y_of + 1, x_of + 1] = inwards[is_layer]
        y, x = y[~is_layer], x[~is_layer]
    return filled


def _gaps(is_bad: np.ndarray) -> np.ndarray:
    """Return the bad pixels in gaps (see `LEAST_GAP`), ``(H, W)`` bool."""
    is_wide = ndimage.grey_opening(is_bad.view(np.uint8), (LEAST_GAP, LEAST_GAP))
    labels, number = ndimage.label(is_wide)
    is_gap = np.zeros(number + 1, bool)
    for part, where in enumerate(ndimage.find_objects(labels), 1):
        is_gap[part] = max(side.stop - side.start for side in where) > WIDEST_CORE
    return np.asarray(is_gap[labels])


def _runs_between(is_bright: np.ndarray, is_bad: np.ndarray) -> np.ndarray:
    """Return the runs of bad pixels within rows between bright ones, unless they are too long, ``(H, W)``."""
    out, width = np.zeros_like(is_bad), is_bad.shape[1]
    padded = np.pad(is_bad, ((0, 0), (1, 1)))
    row, place = np.nonzero(padded[:, 1:] != padded[:, :-1])  # a run's first pixel, and the one after it
    row, first, after = row[::2], place[::2], place[1::2]
    inside = (first > 0) & (after < width) & (after - first <= WIDEST_CORE)
    row, first, after = row[inside], first[inside], after[inside]
    ends = is_bright[row, first - 1] & is_bright[row, after]
    for y, start, stop in zip(row[ends], first[ends], after[ends], strict=True):
        out[y, start:stop] = True
    return out


def combined_image(planes: Mapping[str, Readable], options: DetectOptions) -> tuple[np.ndarray, np.ndarray]:
    """Combine the bands into a signal-to-noise image, ``(H, W)``, of unit variance per pixel.

    Also return which of its pixels have no data in any band; there it is 0.
    """
    shape = next(iter(planes.values())).shape
    total, number = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for plane in planes.values():
        image, weight = plane.read()
        is_bad = weight <= 0
        background_of(image, is_bad, options.mesh).subfrom(image)
        drop_source_noise(image, weight, is_bad, options.mesh)
        np.sqrt(weight, out=weight)
        image *= weight
        is_bad &= ~fill_cores(image, is_bad)
        if options.combine == "chi2":
            np.square(image, out=image)
            image -= ~is_bad
        total += image
        number += ~is_bad
    is_empty = number == 0
    # The sum of n values of variance 1 has variance n; the sum of n values of χ² − 1 has variance 2n.
    variance = (2 if options.combine == "chi2" else 1) * np.maximum(number, 1).astype(np.float32)
    total /= np.sqrt(variance)
    return total, is_empty


def smoothed_sigma(combined: np.ndarray, is_empty: np.ndarray, kernel: np.ndarray) -> float:
    """Measure the noise of the smoothed image near its centre, including the effect of correlated noise."""
    height, width = combined.shape
    y, x = max(height // 2 - 512, 0), max(width // 2 - 512, 0)
    part, empty = combined[y : y + 1024, x : x + 1024], is_empty[y : y + 1024, x : x + 1024]
    if empty.mean() > 0.5:
        part, empty = combined, is_empty
    smooth = ndimage.convolve(part, kernel / kernel.sum(), mode="constant")
    _, sigma = clipped_statistics(smooth[~empty])
    if not sigma > 0:
        raise InputError("detection: the combined image does not vary; are the images empty?")
    return sigma


def gaussian_kernel(fwhm: float) -> np.ndarray:
    """Return a square Gaussian kernel of odd side, at least three FWHM wide, with maximum 1."""
    half = max(int(np.ceil(1.5 * fwhm)), 1)
    axis = np.arange(-half, half + 1)
    profile = np.exp(-4 * np.log(2) * (axis / fwhm) ** 2)
    return np.outer(profile, profile).astype(np.float32)


def sep_arguments(options: DetectOptions, kernel: np.ndarray, is_empty: np.ndarray) -> dict[str, Any]:
    """Return keyword arguments for `sep.extract`."""
    return {
        "mask": is_empty,
        "minarea": options.min_pixels,
        "filter_kernel": kernel,
        "filter_type": "conv",
        "deblend_nthresh": 32,  # SExtractor's DEBLEND_NTHRESH
        "deblend_cont": options.deblend_contrast,
        "clean": True,
        "segmentation_map": True,
    }


def find_sources(
    combined: np.ndarray, is_empty: np.ndarray, options: DetectOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Detect and deblend sources: return sep's table, ``(N,)``, and its segmentation map, ``(H, W)``.

    The latter is 0 on the sky, and the index plus 1 on the pixels of a source.
    """
    kernel = gaussian_kernel(options.smoothing_pixels)
    sigma = smoothed_sigma(combined, is_empty, kernel)
    arguments = sep_arguments(options, kernel, is_empty)
    sep.set_sub_object_limit(8192)
    pixstack = PIXSTACK
    while True:
        sep.set_extract_pixstack(pixstack)
        try:
            return sep.extract(combined, options.threshold * sigma, **arguments)
        except Exception as error:  # sep raises a plain Exception for full buffers
            if "pixel buffer full" in str(error) and pixstack < MOST_PIXSTACK:
                pixstack *= 4
                continue
            raise InputError(
                f"detection failed ({error}); raise the threshold, or check that the sky is subtracted"
            ) from error
