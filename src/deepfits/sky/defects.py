"""Image defects: saturated stars, bad columns, gaps, satellite trails.

Shapes: B bands, H rows of a strip, W columns. Defects are stored as bits, as in the mask planes of the HSC
and Rubin pipelines; pixels of `BAD_PLANES` have no usable flux.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepfits.gaussian_psf import moffat_radius
from deepfits.photometry import flux_of_magnitude
from deepfits.sky.drawing import Shapes
from deepfits.sky.surveys import SkySurvey

PLANES = {"BAD": 0, "SAT": 1, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 8, "STREAK": 15}
"""Mask planes and their bits."""
BAD_PLANES = ("BAD", "SAT", "CR", "NO_DATA")
IS_BAD = sum(1 << PLANES[name] for name in BAD_PLANES)

COLUMNS_PER_KILOPIXEL = 0.25
GAPS_PER_KILOPIXEL = 0.06
TRAILS_PER_KILOPIXEL = 0.12
"""Expected numbers per band and per 1000 pixels of the patch's side. Together with saturated stars they
affect about one in ten cutouts of 32 pixels."""
BLEED_PIXELS = 12.0
"""Half length of the bleed trail of a star at the saturation limit; it grows with the square root of flux."""


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Positions of the defects of a patch. Lengths in pixels."""

    # Band, column, start row, end row, width of each; ends are exclusive.
    columns: Sequence[tuple[int, int, int, int, int]] = ()
    gaps: Sequence[tuple[int, int, int, int, int]] = ()  # band, start row, end row, start column, end column
    # Band, x and y of a point on the trail, direction in radians, standard deviation of its profile, peak
    # in units of the pixel noise.
    trails: Sequence[tuple[int, float, float, float, float, float]] = ()


def draw_defects(num_bands: int, size: int, rng: np.random.Generator) -> Defects:
    """Draw the defects of a patch of `size` pixels."""
    kilopixels = size / 1000
    columns, gaps, trails = [], [], []
    for band in range(num_bands):
        for _ in range(rng.poisson(COLUMNS_PER_KILOPIXEL * kilopixels)):
            length = int(size * rng.uniform(0.2, 1))
            first = int(rng.integers(0, size - length + 1))
            columns.append((band, int(rng.integers(size)), first, first + length, int(rng.integers(1, 3))))
        for _ in range(rng.poisson(GAPS_PER_KILOPIXEL * kilopixels)):
            start, width = int(rng.integers(size)), int(rng.integers(10, 45))
            across = (band, 0, size, start, start + width)
            along = (band, start, start + width, 0, size)
            gaps.append(across if rng.random() < 0.5 else along)
        for _ in range(rng.poisson(TRAILS_PER_KILOPIXEL * kilopixels)):
            x, y = rng.uniform(0, size, 2).tolist()
            trails.append((band, x, y, rng.uniform(0, math.pi), rng.uniform(1.5, 4), rng.uniform(5, 60)))
    return Defects(columns=columns, gaps=gaps, trails=trails)


def saturation_levels(survey: SkySurvey) -> np.ndarray:
    """Return the pixel flux at which each band saturates, ``(B,)`` nJy."""
    levels = []
    for band in survey.bands:
        radius = moffat_radius(band.fwhm_arcsec / survey.pixel_scale_arcsec, survey.moffat_beta)
        peak = (survey.moffat_beta - 1) / (math.pi * radius**2)
        levels.append(peak * flux_of_magnitude(band.saturation))
    return np.array(levels)


def add_defects(
    image: np.ndarray,
    model: np.ndarray,
    rows: tuple[int, int],
    *,
    survey: SkySurvey,
    sigma: np.ndarray,
    shapes: Shapes,
    defects: Defects,
) -> np.ndarray:
    """Add the defects to a strip, and return them as bits of `PLANES`, ``(B, H, W)`` int32.

    The strip `image` ``(B, H, W)``, in nJy, is the patch from the first of the `rows` to before the second;
    it is changed in place, with 0 where there are no data. `model` is the same without noise, `sigma`
    ``(B,)`` the noise of a pixel. Pixels saturate at the levels of the survey, and bright point sources among
    the `shapes` of the patch bleed along their column.
    """
    bits = np.zeros(image.shape, dtype=np.int32)
    bits |= np.int32(1 << PLANES["DETECTED"]) * (model > 5 * sigma[:, None, None])
    _saturate(image, model, bits, rows, survey, shapes)
    first = rows[0]
    for band, peak, is_bad, profile in _trails(defects, sigma, rows, image.shape[2]):
        image[band] += np.float32(peak) * profile
        bits[band][is_bad] |= (1 << PLANES["STREAK"]) | (1 << PLANES["BAD"])

    def blank(band: int, begin: int, end: int, columns: slice) -> tuple[int, slice, slice]:
        part = (band, slice(max(begin - first, 0), max(end - first, 0)), columns)
        image[part] = 0
        return part

    for band, column, begin, end, width in defects.columns:
        bits[blank(band, begin, end, slice(column, column + width))] |= 1 << PLANES["BAD"]
    for band, begin, end, left, right in defects.gaps:
        bits[blank(band, begin, end, slice(left, right))] = 1 << PLANES["NO_DATA"]
    return bits


def _saturate(
    image: np.ndarray,
    model: np.ndarray,
    bits: np.ndarray,
    rows: tuple[int, int],
    survey: SkySurvey,
    shapes: Shapes,
) -> None:
    first, last = rows
    levels = saturation_levels(survey)[:, None, None]
    is_saturated = model > levels
    is_point = (shapes.disc_radius == 0) & (shapes.bulge_flux == 0).all(axis=1)
    for band, sky_band in enumerate(survey.bands):
        limit = flux_of_magnitude(sky_band.saturation)
        for index in np.flatnonzero(is_point & (shapes.disc_flux[:, band] > limit)):
            ratio = shapes.disc_flux[index, band] / limit
            half = int(BLEED_PIXELS * math.sqrt(ratio))
            x, y = int(np.rint(shapes.x[index])), int(np.rint(shapes.y[index]))
            wide = 1 + int(ratio > 10)
            low, high = max(y - half - first, 0), max(min(y + half + 1, last) - first, 0)
            is_saturated[band, low:high, max(x - wide, 0) : max(x + wide + 1, 0)] = True
    image[:] = np.where(is_saturated, levels.astype(np.float32), image)
    bits |= np.int32(1 << PLANES["SAT"]) * is_saturated


def _trails(
    defects: Defects, sigma: np.ndarray, rows: tuple[int, int], width: int
) -> list[tuple[int, float, np.ndarray, np.ndarray]]:
    """Return band, peak in nJy, masked pixels ``(H, W)`` and profile ``(H, W)`` of each trail."""
    out = []
    yy, xx = np.mgrid[rows[0] : rows[1], :width].astype(np.float32)
    for band, x, y, angle, sigma_pixels, peak in defects.trails:
        distance = np.abs((xx - x) * math.sin(angle) - (yy - y) * math.cos(angle)) / sigma_pixels
        profile = np.exp(np.float32(-0.5) * distance**2) * (distance < 6)
        # Mask the trail out to where it falls to a tenth of the noise.
        reach = math.sqrt(2 * math.log(max(peak / 0.1, 1.1)))
        out.append((band, peak * sigma[band], distance < reach, profile))
    return out
