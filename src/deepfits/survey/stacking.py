"""Coaddition of the exposures of one band.

Shapes: E exposures, H, W pixels of the grid, R rows of a strip.

Each exposure is resampled to the grid with cubic splines (see `deepfits.survey.grids`: pixel values are
multiplied by the ratio of the pixel areas, which conserves the total flux of a source), and the strips of all
exposures are combined pixel by pixel:

``mean``     Σ w I / Σ w, with weight Σ w.
``clipped``  the same without values too far from the median: |I − median| > clip · σ + f · |median|, as
             in SWarp (Gruen, Seitz & Bernstein 2014). σ is the noise of the value or, if that is larger, of
             the value that is the median: else shallow exposures would reject the pixels of deep ones. The
             second term protects stars, whose sharpness differs between exposures. There f is 0.3; here the
             difference that the exposure's seeing makes to the core of a star is added (a star in seeing of
             0.7″ has twice the peak of one in 1″), and the median is the largest within a star's width, where
             the wings of a blurred star lie. Of two values, and of two in the middle of more that differ by
             more than their noise, the lower takes the place of the median, as cosmic rays and trails are
             bright, unless it is far below the sky; σ is at least that of their difference.
``median``   the median, with weight (2/π) (Σ √w)² / N for N > 2 values, that of many. Strips that fewer
             than three exposures reach are combined by ``mean``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from scipy import ndimage
from scipy.spatial import cKDTree

from deepfits.errors import InputError
from deepfits.photometry import SIGMA_PER_MAD
from deepfits.survey.astrometry import map_pixels, middle_of
from deepfits.survey.detection import background_of
from deepfits.survey.fitsfile import quiet
from deepfits.survey.grids import AlignedPlane, Grid
from deepfits.survey.planes import Plane
from deepfits.tables import unit_vectors

AMPLITUDE_FRACTION = 0.3
MAX_GRID_PIXELS = 1 << 29
MAX_EMPTINESS = 50  # maximum area of the grid, relative to the summed areas of the exposures
LEAST_SOURCES, MOST_SOURCES = 8, 400  # minimum and maximum number of sources of an exposure for registration
CORE_PIXELS = 2.0  # radius of the core of a star, without data where it is saturated
APERTURE_ARCSEC = 2.5  # radius of the apertures in which the fluxes of exposures are compared
# Percentile of the sources' widths taken as that of stars, as some of the most compact are cosmic rays; and
# the smallest half-light radius, pixels, that counts: a single pixel has 0.4.
COMPACT, LEAST_RADIUS = 25.0, 0.55
# Largest error of an exposure's WCS, pixels; and that of a WCS that was never solved, for which so many times
# more sources must agree than would by chance.
FARTHEST, LOST = 15.0, 200.0
OVER_CHANCE = 5
AGREEING_PIXELS = 1.5  # sources within this distance of the most common offset agree with it


def common_grid(planes: Sequence[Plane], pixel_scale: float | None = None) -> Grid:
    """Return the smallest north-up grid that contains all exposures (`reproject.mosaicking`).

    The pixel scale, arcseconds, defaults to the finest of the exposures. Raise `InputError` if one has no
    WCS, or they are so far apart that the grid would be far too large.
    """
    from astropy import units
    from reproject.mosaicking import find_optimal_celestial_wcs

    for plane in planes:
        if plane.wcs is None:
            raise InputError(f"{plane.path}: no WCS, so it cannot be stacked; solve the astrometry first")
    scale = pixel_scale if pixel_scale is not None else min(p.pixel_scale for p in planes)
    with quiet():
        wcs, shape = find_optimal_celestial_wcs(
            [(p.shape, p.wcs) for p in planes if p.wcs is not None],
            frame="icrs",
            resolution=scale * units.arcsec,
            negative_lon_cdelt=True,
        )
    height, width = int(shape[0]), int(shape[1])
    covered = sum(p.shape[0] * p.shape[1] * (p.pixel_scale / scale) ** 2 for p in planes)
    if height * width > min(MAX_GRID_PIXELS, MAX_EMPTINESS * covered):
        places = [middle_of(p.wcs, p.shape) for p in planes if p.wcs is not None]
        direction = unit_vectors(*np.transpose(places))
        from_median = ((direction - np.median(direction, axis=0)) ** 2).sum(axis=1)
        raise InputError(
            f"the exposures span {width}×{height} pixels of {scale:.3g} arcsec; stack one field at a time. "
            f"The farthest from the others is {planes[int(from_median.argmax())].path}"
        )
    return Grid(wcs=wcs, shape=(height, width), path=planes[0].path)


@dataclass(frozen=True, kw_only=True)
class PixelPositions:
    """Bright sources of an exposure: positions in pixels of the grid, fluxes in nJy; ``(N,)`` each.

    The width of stars, arcsec, is NaN if it is not measured.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    width: float = np.nan


def bright_sources(plane: Plane, grid: Grid) -> PixelPositions:
    """Find the bright sources of an exposure, and their positions on the grid according to its WCS."""
    image, weight = plane.read()
    sources = find_bright(image, weight)  # also subtracts the background
    # With depth and seeing, isophotal fluxes vary by up to a half, those in apertures by a few per cent.
    radius = APERTURE_ARCSEC / plane.pixel_scale
    flux = sep.sum_circle(image, sources["x"], sources["y"], radius, mask=weight <= 0)[0]
    x, y = sources["x"].astype(float), sources["y"].astype(float)
    if plane.wcs is not None and grid.wcs is not None:
        x, y = map_pixels(plane.wcs, grid.wcs, x, y)
    half, flags = sep.flux_radius(image, sources["x"], sources["y"], 6 * sources["a"], 0.5, mask=weight <= 0)
    half = half[(flags == 0) & (half > LEAST_RADIUS)]
    width = (
        2 * float(np.percentile(half, COMPACT)) * plane.pixel_scale if len(half) >= LEAST_SOURCES else np.nan
    )
    return PixelPositions(x=x, y=y, flux=flux.astype(float), width=width)


def find_bright(image: np.ndarray, weight: np.ndarray, **more: Any) -> np.ndarray:
    """Find bright, round, unblended sources with data in their core, as sep's table.

    The background is subtracted from the image, in place; `more` is passed to ``sep.extract``.
    """
    is_bad = weight <= 0
    background = background_of(image, is_bad)
    background.subfrom(image)
    sources = sep.extract(image, 8 * background.globalrms, mask=is_bad, minarea=5, **more)
    num_bad = sep.sum_circle(is_bad.astype(np.float32), sources["x"], sources["y"], CORE_PIXELS)[0]
    is_round = sources["a"] / np.maximum(sources["b"], 1e-3) < 3
    sources = sources[(sources["flag"] == 0) & is_round & (num_bad == 0)]
    return sources[np.argsort(-sources["flux"])][:MOST_SOURCES]


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Offset of an exposure from a reference: positions of its sources minus theirs, pixels of the grid."""

    dx: float = 0.0  # 0 when not measured, as `dy`
    dy: float = 0.0
    scatter: float = np.nan  # of individual sources about the offset, pixels
    num_matched: int = 0  # sources; 0 when there were too few
    num_sources: int = 0  # that lie on both, if counted
    flux_ratio: float = np.nan  # its fluxes over the reference's
    width: float = np.nan  # of its stars, arcsec


def register(sources: PixelPositions, reference: PixelPositions) -> Registration:
    """Measure the shift between two lists of sources, which may be up to `FARTHEST` pixels, or `LOST`.

    Each pair within that distance votes for its difference in position; the shift is the median of the pairs
    within `AGREEING_PIXELS` of the most common difference.
    """
    if len(sources.x) < LEAST_SOURCES or len(reference.x) < LEAST_SOURCES:
        return Registration()
    positions, others = np.c_[sources.x, sources.y], np.c_[reference.x, reference.y]
    first, second = _agreeing(positions, others, FARTHEST)
    number = len(positions) * len(others)
    if len(first) < LEAST_SOURCES and number <= MOST_SOURCES**2:
        first, second = _agreeing(positions, others, LOST)
        by_chance = number * math.pi * AGREEING_PIXELS**2 / np.prod(np.ptp(others, axis=0) + 1)
        if len(first) < OVER_CHANCE * by_chance:
            return Registration()
    if len(first) < LEAST_SOURCES:
        return Registration()
    difference = positions[first] - others[second]
    shift = np.median(difference, axis=0)
    residual = np.hypot(*(difference - shift).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sources.flux[first] / reference.flux[second]
    return Registration(
        dx=float(shift[0]),
        dy=float(shift[1]),
        scatter=float(SIGMA_PER_MAD * np.median(residual)),
        num_matched=len(first),
        flux_ratio=float(np.median(ratio)),
    )


def _agreeing(positions: np.ndarray, others: np.ndarray, farthest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs, as rows of both lists ``(N, 2)``, that agree with the most common offset."""
    found = cKDTree(others).query_ball_point(positions, farthest)
    first = np.repeat(np.arange(len(positions)), [len(near) for near in found])
    second = np.array([row for near in found for row in near], int)
    if not len(first):
        return first, second
    difference = positions[first] - others[second]
    votes = cKDTree(difference).query_ball_point(difference, 1.0, return_length=True)
    near = np.hypot(*(difference - difference[np.argmax(votes)]).T) < AGREEING_PIXELS
    return first[near], second[near]


def seeing_tolerances(widths: Sequence[float], pixel_scale: float) -> tuple[np.ndarray, int]:
    """Return the tolerance of each exposure for clipping, and its reach in pixels of the grid.

    Widths are those of stars in the exposures, arcsec, NaN where unknown. The tolerance, ``(E,)``, is the
    fraction of the median by which an exposure's pixel may differ from it; the reach, the distance within
    which the largest median counts.

    Examples
    --------
    >>> tolerance, reach = seeing_tolerances([0.7, 1.0, np.nan], 0.2)
    >>> tolerance.round(2).tolist(), reach
    ([1.34, 0.81, 0.68], 5)
    """
    known = np.array([width for width in widths if np.isfinite(width)])
    if not known.size:
        return np.full(len(widths), AMPLITUDE_FRACTION), 0
    # The peak of a star over that of the same star in the exposures of the widest and narrowest stars.
    own = np.nan_to_num(widths, nan=float(np.median(known)))
    over_widest, over_narrowest = (known.max() / own) ** 2, (known.min() / own) ** 2
    tolerance = AMPLITUDE_FRACTION + np.maximum(over_widest - 1, 1 - over_narrowest)
    return tolerance, math.ceil(known.max() / pixel_scale)


def combine(
    image: np.ndarray,
    weight: np.ndarray,
    method: str,
    clip: float,
    tolerance: np.ndarray | float = AMPLITUDE_FRACTION,
    reach: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Combine the strips of all exposures, ``(E, R, W)``, by ``"clipped"``, ``"mean"`` or ``"median"``.

    Values beyond `clip` standard deviations are rejected; see also `seeing_tolerances`. Return image, weight
    and the number of rejected values, ``(R, W)`` each.
    """
    is_valid = weight > 0
    number = is_valid.sum(axis=0)
    rejected = np.zeros(number.shape, np.int32)
    if len(image) < (3 if method == "median" else 2):
        method = "mean"
    if method != "mean":
        with np.errstate(divide="ignore"):
            variance = np.where(is_valid, 1 / weight, 0)
        order = np.argsort(np.where(is_valid, image, np.inf), axis=0)
        ranks = (number - 1).clip(0) // 2, number // 2
        of_middle = [np.take_along_axis(order, rank[None], 0) for rank in ranks]  # the exposures there
        low, high = (np.take_along_axis(image, index, 0)[0] for index in of_middle)
        middle = (low + high) / 2
    if method == "median":
        of_many = 2 / np.pi * np.sqrt(weight).sum(axis=0) ** 2 / number.clip(1)
        of_few = number**2 / np.where(number > 0, variance.sum(axis=0), 1)
        total = np.where(number > 2, of_many, of_few)
        return np.where(number > 0, middle, 0).astype(np.float32), total.astype(np.float32), rejected
    if method == "clipped":
        sigma = np.sqrt(np.mean([np.take_along_axis(variance, index, 0)[0] for index in of_middle], axis=0))
        is_source = np.abs(middle) * np.sqrt(number) > clip * sigma
        of_pair = math.sqrt(2) * sigma
        is_pair = (number == 2) | (high - low > clip * of_pair)
        middle = np.where(is_pair, np.where(low < -clip * of_pair, high, low), middle)
        sigma = np.maximum(np.sqrt(variance), np.where(is_pair, of_pair, sigma))
        light = ndimage.maximum_filter(np.abs(middle) * is_source, 2 * reach + 1)
        allowed = np.reshape(tolerance, (-1, 1, 1)) * np.maximum(light, np.abs(middle))
        is_outlier = is_valid & (np.abs(image - middle) > clip * sigma + allowed)
        rejected = is_outlier.sum(axis=0).astype(np.int32)
        weight = np.where(is_outlier, np.float32(0), weight)
    total = weight.sum(axis=0)
    flux = (weight * image).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(total > 0, flux / total, 0)
    return mean.astype(np.float32), total.astype(np.float32), rejected


def stack_strip(
    exposures: Sequence[AlignedPlane],
    start: int,
    stop: int,
    method: str,
    clip: float,
    tolerance: np.ndarray,
    reach: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the same rows of all exposures, and combine them; see `combine`."""
    shape = exposures[0].shape
    margin = reach if method == "clipped" else 0
    first, last = max(start - margin, 0), min(stop + margin, shape[0])
    strips = [exposure.rows(first, last) for exposure in exposures]
    used = [number for number, (_, weight) in enumerate(strips) if weight.any()]
    if not used:
        empty = np.zeros((stop - start, shape[1]), np.float32)
        return empty, empty, empty.astype(np.int32)
    image, weight = (np.stack([strips[number][k] for number in used]) for k in (0, 1))
    rows = slice(start - first, stop - first)
    mean, total, rejected = combine(image, weight, method, clip, tolerance[used], reach)
    return mean[rows], total[rows], rejected[rows]
