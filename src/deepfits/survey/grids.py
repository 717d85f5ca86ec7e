"""Bands on one grid: by whole pixels where that is exact, by cubic splines where it is not.

The grid of a field is that of its reference band. Another band's plane is

``same``      used as it is, when its WCS agrees to 0.02 pixels;
``shifted``   moved by whole pixels, when it agrees to 0.02 pixels after that: no value is altered;
``resampled`` interpolated with cubic splines, at the place where the two WCS say the sky is the same.
              The flux is multiplied by the ratio of the pixel areas. The variance of an interpolated pixel
              is smaller than that of the pixels it comes from, and neighbours share noise: the weight says
              the variance of the single pixel, and `noise_correlation` by how much large apertures are
              noisier than that. Pixels within two pixels of one without data have no data. Where the grid's
              pixels are the larger ones, the mean over places within each is taken: a single place would
              miss what lies between.

Shapes: H, W pixels of the reference grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from astropy.wcs import WCS
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from deepfits.errors import InputError
from deepfits.survey.astrometry import map_pixels
from deepfits.survey.planes import Plane

TOLERANCE = 0.02
NODE_STEP = 64
# The response of a cubic spline to a pixel falls by 0.268 per pixel: 1e-9 of it is left after 16.
HALO = 16
GROW = 2
# One place within a pixel of the grid for each so many of the plane's own along a side.
FINEST = 1.3


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pixels on the sky that planes are brought to."""

    wcs: WCS | None
    shape: tuple[int, int]
    path: Path


class AlignedPlane:
    """A plane seen on the grid of another.

    Parameters
    ----------
    plane
        The band's plane.
    reference
        The plane, or grid, whose pixels are used.
    offset
        Where the plane's sources appear on the grid minus where they should be, ``(dx, dy)`` pixels.

    Attributes
    ----------
    kind
        ``same``, ``shifted`` or ``resampled``.
    shift
        Median of the plane's pixel coordinates minus the grid's, ``(dx, dy)``.
    noise_correlation
        Noise of a large aperture over what independent pixels of the given weights would have.
    area
        Pixels of the plane per pixel of the grid.

    Raises
    ------
    InputError
        The plane does not overlap the grid.
    """

    def __init__(
        self, plane: Plane, reference: Plane | Grid, offset: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.plane, self.shape = plane, reference.shape
        self.kind, self.shift, self.area = "same", (0.0, 0.0), 1.0
        self.noise_correlation = plane.noise_correlation
        if plane is reference or plane.wcs is None or reference.wcs is None:
            return
        nodes_y, nodes_x = _nodes(self.shape[0]), _nodes(self.shape[1])
        x, y = _mapped(reference.wcs, plane.wcs, nodes_x + offset[0], nodes_y + offset[1])
        dx, dy = x - nodes_x[None, :], y - nodes_y[:, None]
        self.shift = float(np.median(dx)), float(np.median(dy))
        whole = round(self.shift[0]), round(self.shift[1])
        spread = max(np.abs(dx - whole[0]).max(), np.abs(dy - whole[1]).max())
        self._check_overlap(x, y, reference)
        if spread <= TOLERANCE:
            self.kind = "same" if whole == (0, 0) and plane.shape == self.shape else "shifted"
            self._whole = whole
            return
        self.kind = "resampled"
        self._x, self._y = (RectBivariateSpline(nodes_y, nodes_x, v) for v in (dx, dy))
        self._columns = _covered_columns(x, plane.shape[1], nodes_x)
        self.area = float(np.median(np.abs(_jacobian(x, y, nodes_x, nodes_y))))
        self._places = max(1, math.ceil(math.sqrt(self.area) - (FINEST - 1)))
        gain = _gain(dx, self._step) * _gain(dy, self._step)
        self.noise_correlation *= float(1 / np.sqrt(gain.mean() * self.area))

    @property
    def _step(self) -> tuple[int, float]:
        """How many places within a pixel along a side, and pixels of the plane between them."""
        return self._places, math.sqrt(self.area) / self._places

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of the grid: image and weight, ``(stop − start, W)`` float32 each, as `Plane.rows`."""
        if self.kind == "same":
            return self.plane.rows(start, stop)
        if self.kind == "shifted":
            return self._shifted(start, stop)
        return self._resampled(start, stop)

    def read(self, height: int = 512) -> tuple[np.ndarray, np.ndarray]:
        """Read the whole grid, strip by strip."""
        image, weight = np.empty(self.shape, np.float32), np.empty(self.shape, np.float32)
        for start in range(0, self.shape[0], height):
            stop = min(start + height, self.shape[0])
            image[start:stop], weight[start:stop] = self.rows(start, stop)
        return image, weight

    def _shifted(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.zeros((stop - start, self.shape[1]), np.float32)
        weight = np.zeros_like(image)
        dx, dy = self._whole
        y0, y1 = max(start + dy, 0), min(stop + dy, self.plane.shape[0])
        x0, x1 = max(dx, 0), min(self.shape[1] + dx, self.plane.shape[1])
        if y0 < y1 and x0 < x1:
            there = self.plane.rows(y0, y1)
            for target, values in zip((image, weight), there, strict=True):
                target[y0 - dy - start : y1 - dy - start, x0 - dx : x1 - dx] = values[:, x0:x1]
        return image, weight

    def _resampled(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.zeros((stop - start, self.shape[1]), np.float32)
        weight = np.zeros_like(image)
        there = self._columns
        rows, columns = np.arange(start, stop, dtype=float), np.arange(there.start, there.stop, dtype=float)
        y = rows[:, None] + self._y(rows, columns)
        margin = HALO + math.ceil(math.sqrt(2 * self.area))
        y0 = max(int(np.floor(y.min())) - margin, 0)
        y1 = min(int(np.ceil(y.max())) + margin + 1, self.plane.shape[0])
        if y1 > y0:
            x = columns[None, :] + self._x(rows, columns)
            source, its_weight = self.plane.rows(y0, y1)
            resample(
                source,
                its_weight,
                self._within(y - y0, x, rows, columns),
                image[:, there],
                weight[:, there],
                area=self.area,
                step=self._step,
            )
        return image, weight

    def _within(
        self, y: np.ndarray, x: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the places within each pixel of the grid, its middle first."""
        if self._places == 1:
            return [(y, x)]
        y_y, y_x = 1 + self._y(rows, columns, dx=1), self._y(rows, columns, dy=1)
        x_y, x_x = self._x(rows, columns, dx=1), 1 + self._x(rows, columns, dy=1)
        offsets = (np.arange(self._places) + 0.5) / self._places - 0.5
        return [(y + b * y_y + a * y_x, x + b * x_y + a * x_x) for b in offsets for a in offsets]

    def _check_overlap(self, x: np.ndarray, y: np.ndarray, reference: Plane | Grid) -> None:
        height, width = self.plane.shape
        inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        if not inside.any():
            raise InputError(
                f"{self.plane.path}: does not overlap {reference.path.name} on the sky; put it into a "
                "field of its own"
            )


def _covered_columns(x: np.ndarray, width: int, nodes_x: np.ndarray) -> slice:
    """Return the columns of the grid that a plane may cover, a node's distance more on either side."""
    reached = np.flatnonzero(((x > -1) & (x < width)).any(axis=0))
    step = float(nodes_x[1] - nodes_x[0])
    low = int(max(nodes_x[reached[0]] - step, 0))
    return slice(low, int(min(nodes_x[reached[-1]] + step, nodes_x[-1])) + 1)


def _nodes(length: int) -> np.ndarray:
    number = max(int(np.ceil((length - 1) / NODE_STEP)) + 1, 4)
    return np.linspace(0, length - 1, number)


def _mapped(one: WCS, other: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map the grid of pixels x, y of the WCS `one` to `other`, through the sky: two ``(len(y), len(x))``."""
    mapped = map_pixels(one, other, *np.meshgrid(x, y))
    if not np.isfinite(mapped).all():
        raise InputError("two WCS cannot be mapped onto each other; are both images of the same sky?")
    return mapped


def _jacobian(x: np.ndarray, y: np.ndarray, nodes_x: np.ndarray, nodes_y: np.ndarray) -> np.ndarray:
    x_y, x_x = np.gradient(x, nodes_y, nodes_x)
    y_y, y_x = np.gradient(y, nodes_y, nodes_x)
    return np.asarray(x_x * y_y - x_y * y_x)


def resample(
    source: np.ndarray,
    source_weight: np.ndarray,
    places: Sequence[tuple[np.ndarray, np.ndarray]],
    image: np.ndarray,
    weight: np.ndarray,
    *,
    area: float = 1.0,
    step: tuple[int, float] = (1, 1.0),
) -> None:
    """Interpolate a plane at given places, and give the weights that go with it.

    Parameters
    ----------
    source, source_weight
        ``(h, w)``, nJy and nJy⁻²; 0 weight marks pixels without data.
    places
        ``(H, W)`` each, y and x: where in the source each pixel of the result lies, or several places within
        it, whose mean is taken.
    image, weight
        ``(H, W)`` float32, written to.
    area
        Source pixels per pixel of the result: the factor on the flux.
    step
        How many places lie within a pixel along a side, and pixels of the source between them.
    """
    height, width = source.shape
    is_bad = source_weight <= 0
    near_bad = ndimage.binary_dilation(is_bad, np.ones((2 * GROW + 1,) * 2, bool)) if is_bad.any() else is_bad
    coefficients = ndimage.spline_filter(source, order=3, mode="mirror", output=np.float32)
    inside = np.ones(image.shape, bool)
    image[:] = weight[:] = 0
    for y, x in places:
        image += ndimage.map_coordinates(coefficients, (y, x), order=3, mode="mirror", prefilter=False)
        nearest_y, nearest_x = np.rint(y).astype(np.int32), np.rint(x).astype(np.int32)
        inside &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        np.clip(nearest_y, 0, height - 1, out=nearest_y)
        np.clip(nearest_x, 0, width - 1, out=nearest_x)
        inside &= ~near_bad[nearest_y, nearest_x]
        weight += source_weight[nearest_y, nearest_x]
    y, x = (np.mean([place[axis] for place in places], axis=0) for axis in (0, 1))
    gain = _gain(x, step) * _gain(y, step) * np.float32(area**2)
    image *= inside * np.float32(area / len(places))
    weight *= inside / (gain * len(places))


@cache
def _gain_table(places: int, step: float, number: int = 64) -> np.ndarray:
    """Return the variance of an interpolated value for unit white noise, by fraction of a pixel.

    The value is the mean at some places, `step` pixels apart, whose middle lies at the fraction.
    """
    half = 24 + math.ceil(places * step)
    impulse = np.zeros(2 * half + 1)
    impulse[half] = 1
    coefficients = ndimage.spline_filter1d(impulse, order=3, mode="mirror")
    at = np.arange(3 + math.ceil(places * step), 2 * half - 3 - math.ceil(places * step))
    offsets = (np.arange(places) - 0.5 * (places - 1)) * step
    out = []
    for fraction in np.linspace(0, 1, number + 1):
        response = [
            ndimage.map_coordinates(coefficients, [at + fraction + offset], order=3, prefilter=False)
            for offset in offsets
        ]
        out.append((np.mean(response, axis=0) ** 2).sum())
    return np.asarray(out, np.float32)


def _gain(positions: np.ndarray, step: tuple[int, float]) -> np.ndarray:
    table = _gain_table(*step)
    fraction = positions - np.floor(positions)
    return table[np.rint(fraction * (len(table) - 1)).astype(np.intp)]


def align(planes: dict[str, Plane], reference: str) -> dict[str, AlignedPlane]:
    """Return all bands on the grid of the reference band."""
    return {band: AlignedPlane(plane, planes[reference]) for band, plane in planes.items()}
