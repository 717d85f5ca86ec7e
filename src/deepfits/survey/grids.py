"""Alignment of bands to one grid: by whole pixels where that is exact, else with cubic splines.

The grid of a field is that of its reference band. The plane of another band is

``same``      unchanged, if its WCS agrees to within 0.02 pixels;
``shifted``   shifted by whole pixels, if the WCS then agree to within 0.02 pixels; no value is altered;
``resampled`` interpolated with cubic splines at the same positions on the sky, according to the two WCS.
              Values are multiplied by the ratio of the pixel areas. The variance of an interpolated pixel
              is smaller than that of its input pixels, and adjacent pixels share noise: weights give the
              variance of single pixels, and `noise_correlation` the excess noise in large apertures. Pixels
              beside a pixel without data have no data, nor those within two pixels of several. If the
              grid's pixels are larger, each is the mean over several positions within it, since a single
              one would leave out what lies between.

Shapes: H, W pixels of the reference grid.
"""

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
from deepfits.survey.astrometry import map_pixels, pixel_scale_of
from deepfits.survey.fill import bridged
from deepfits.survey.planes import Plane, read_all

TOLERANCE = 0.02
NODE_STEP = 64
FEWEST_NODES = 6  # minimum number of nodes at which two WCS can be mapped onto each other
# The response of a cubic spline to a single pixel falls by a factor of 0.268 per pixel, to 1e-9 after 16.
HALO = 16
BESIDE = np.ones((3, 3), bool)
FINEST = 1.3  # largest side of a grid pixel, in pixels of the plane, for interpolation at a single position
# Pixels along each side that are looked at, to see which share of an image lies beyond the grid.
NUM_SAMPLED = 24


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A pixel grid on the sky to which planes are aligned."""

    wcs: WCS | None
    shape: tuple[int, int]
    path: Path


class AlignedPlane:
    """A plane on the grid of another one, which it must overlap.

    `offset` are apparent minus true positions of the plane's sources on the grid, ``(dx, dy)`` pixels.
    `level` is the sky to subtract, nJy per pixel: where many pixels have no data they are 0 when the others
    are interpolated, so with the sky left in they would leave a trace beside them. The plane's `kind` is then
    ``same``, ``shifted`` or ``resampled``; `shift` the median of its pixel coordinates minus the grid's,
    ``(dx, dy)``; `area` its pixels per pixel of the grid; and `noise_correlation` the noise in large
    apertures relative to that of independent pixels with the same weights.
    """

    def __init__(
        self,
        plane: Plane,
        reference: Plane | Grid,
        offset: tuple[float, float] = (0.0, 0.0),
        level: float = 0.0,
    ) -> None:
        self.plane, self.shape, self._level = plane, reference.shape, np.float32(level)
        self._wcs = reference.wcs
        self.kind, self.shift, self.area = "same", (0.0, 0.0), 1.0
        self.noise_correlation = plane.noise_correlation
        if plane is reference or plane.wcs is None or reference.wcs is None:
            return
        self._covered = _covered(plane, plane.wcs, reference, offset)
        nodes_y, nodes_x = (_nodes(axis.start, axis.stop) for axis in self._covered)
        mapped = _mapped(reference.wcs, plane.wcs, nodes_x + offset[0], nodes_y + offset[1])
        if mapped is None:
            raise InputError(
                f"{plane.path}: its WCS cannot be mapped onto that of {reference.path.name}; are both images "
                "of the same sky?"
            )
        x, y = mapped
        dx, dy = x - nodes_x[None, :], y - nodes_y[:, None]
        self.shift = float(np.median(dx)), float(np.median(dy))
        whole_pixels = round(self.shift[0]), round(self.shift[1])
        spread = max(np.abs(dx - whole_pixels[0]).max(), np.abs(dy - whole_pixels[1]).max())
        if spread <= TOLERANCE:
            self.kind = "same" if whole_pixels == (0, 0) and plane.shape == self.shape else "shifted"
            self._whole = whole_pixels
            return
        self.kind = "resampled"
        self._x, self._y = (RectBivariateSpline(nodes_y, nodes_x, v) for v in (dx, dy))
        (x_y, x_x), (y_y, y_x) = (np.gradient(place, nodes_y, nodes_x) for place in (x, y))
        self.area = float(np.median(np.abs(x_x * y_y - x_y * y_x)))
        number = max(1, math.ceil(math.sqrt(self.area) - (FINEST - 1)))
        self._step = number, math.sqrt(self.area) / number  # positions along a pixel's side, plane's pixels
        gain = _gain(dx, self._step) * _gain(dy, self._step)
        self.noise_correlation *= float(1 / np.sqrt(gain.mean() * self.area))

    def own_pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the plane's pixels at pixels of the grid, ``(N,)`` each; NaN where there are none."""
        if self.kind == "same" or self.plane.wcs is None or self._wcs is None:
            return x, y
        return map_pixels(self._wcs, self.plane.wcs, x, y)

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read image and weight of rows of the grid, ``(stop − start, W)`` float32 each; see `Plane.rows`."""
        if self.kind == "same":
            return self._rows_of_plane(start, stop)
        image, weight = np.zeros((2, stop - start, self.shape[1]), np.float32)
        (self._shift if self.kind == "shifted" else self._resample)(start, stop, image, weight)
        return image, weight

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read image and weight of the whole grid, ``(H, W)``."""
        return read_all(self)

    def _rows_of_plane(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of the plane, and subtract the sky level."""
        image, weight = self.plane.rows(start, stop)
        if self._level:
            image = np.where(weight > 0, image - self._level, np.float32(0))
        return image, weight

    def _shift(self, start: int, stop: int, image: np.ndarray, weight: np.ndarray) -> None:
        dx, dy = self._whole
        y0, y1 = max(start + dy, 0), min(stop + dy, self.plane.shape[0])
        x0, x1 = max(dx, 0), min(self.shape[1] + dx, self.plane.shape[1])
        if y0 < y1 and x0 < x1:
            for target, values in zip((image, weight), self._rows_of_plane(y0, y1), strict=True):
                target[y0 - dy - start : y1 - dy - start, x0 - dx : x1 - dx] = values[:, x0:x1]

    def _resample(self, start: int, stop: int, image: np.ndarray, weight: np.ndarray) -> None:
        first, last = max(start, self._covered[0].start), min(stop, self._covered[0].stop)
        if first >= last:
            return
        covered = slice(first - start, last - start), self._covered[1]
        rows = np.arange(first, last, dtype=float)
        columns = np.arange(covered[1].start, covered[1].stop, dtype=float)
        y = rows[:, None] + self._y(rows, columns)
        margin = HALO + math.ceil(math.sqrt(2 * self.area))
        y0 = max(int(np.floor(y.min())) - margin, 0)
        y1 = min(int(np.ceil(y.max())) + margin + 1, self.plane.shape[0])
        if y1 > y0:
            x = columns[None, :] + self._x(rows, columns)
            source, source_weight = self._rows_of_plane(y0, y1)
            resample(
                source,
                source_weight,
                self._positions_within(y - y0, x, rows, columns),
                image[covered],
                weight[covered],
                area=self.area,
                step=self._step,
            )

    def _positions_within(
        self, y: np.ndarray, x: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the positions sampled within each pixel of the grid, given those of the centres."""
        if (number := self._step[0]) == 1:
            return [(y, x)]
        y_y, y_x = 1 + self._y(rows, columns, dx=1), self._y(rows, columns, dy=1)
        x_y, x_x = self._x(rows, columns, dx=1), 1 + self._x(rows, columns, dy=1)
        offsets = (np.arange(number) + 0.5) / number - 0.5
        return [(y + b * y_y + a * y_x, x + b * x_y + a * x_x) for b in offsets for a in offsets]


def _covered(
    plane: Plane, wcs: WCS, reference: Plane | Grid, offset: tuple[float, float]
) -> tuple[slice, slice]:
    """Return the rows and columns of the grid that a plane may cover; beyond, its distortion means nothing.

    Where the reference's own distortion cannot be inverted, the plane covers none of it.
    """
    assert reference.wcs is not None
    height, width = plane.shape
    x, y = map_pixels(wcs, reference.wcs, *np.meshgrid(_nodes(0, width), _nodes(0, height)))
    is_known = np.isfinite(x) & np.isfinite(y)
    margin = 2.0
    if not is_known.all():
        margin = NODE_STEP * max(plane.pixel_scale / pixel_scale_of(reference.wcs), 1.0)
    out = []
    for places, length in (
        (y[is_known] - offset[1], reference.shape[0]),
        (x[is_known] - offset[0], reference.shape[1]),
    ):
        if not places.size or places.max() < -0.5 or places.min() > length - 0.5:
            raise InputError(
                f"{plane.path}: does not overlap {reference.path.name} on the sky; put it into a field of "
                "its own"
            )
        first, last = math.floor(places.min() - margin), math.ceil(places.max() + margin) + 1
        out.append(slice(max(first, 0), min(last, length)))
    return out[0], out[1]


def share_beyond(plane: Plane, reference: Plane) -> float:
    """Return the share of a plane's data that lies beyond the grid of the reference, from a sample of pixels.

    Nothing is detected or cut out there.
    """
    if plane is reference or plane.wcs is None or reference.wcs is None:
        return 0.0
    y, x = (((np.arange(NUM_SAMPLED) + 0.5) / NUM_SAMPLED * length).astype(int) for length in plane.shape)
    has_data = np.concatenate([plane.rows(row, row + 1)[1][:, x] > 0 for row in y.tolist()])
    on_reference = map_pixels(plane.wcs, reference.wcs, *np.meshgrid(x, y))
    sides = zip(on_reference, reference.shape[::-1], strict=True)
    is_inside = np.logical_and(*((place > -0.5) & (place < side - 0.5) for place, side in sides))
    return float((~is_inside)[has_data].mean()) if has_data.any() else 0.0


def _nodes(start: int, stop: int) -> np.ndarray:
    number = max(int(np.ceil((stop - 1 - start) / NODE_STEP)) + 1, 4)
    return np.linspace(start, stop - 1, number)


def _mapped(source: WCS, target: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Map the grid of pixels x, y of one WCS to another, via the sky: two ``(len(y), len(x))`` arrays.

    Beside an image, where its distortion cannot be inverted, the map is continued linearly; None if there are
    too few pixels for that.
    """
    nodes = np.meshgrid(x, y)
    mapped = map_pixels(source, target, *nodes)
    is_known = np.isfinite(mapped).all(axis=0)
    if is_known.all():
        return mapped
    if is_known.sum() < FEWEST_NODES:
        return None
    terms = np.stack([np.ones_like(nodes[0]), *nodes], axis=-1)
    linear = (terms @ np.linalg.lstsq(terms[is_known], v[is_known], rcond=None)[0] for v in mapped)
    first, second = (np.where(is_known, v, rest) for v, rest in zip(mapped, linear, strict=True))
    return first, second


def resample(
    source: np.ndarray,
    source_weight: np.ndarray,
    places: Sequence[tuple[np.ndarray, np.ndarray]],
    image: np.ndarray,
    weight: np.ndarray,
    *,
    area: float,
    step: tuple[int, float],
) -> None:
    """Interpolate a plane, ``(h, w)``, at given positions, and compute the corresponding weights.

    For each pixel of the result, which overwrites `image` and `weight`, ``(H, W)``, `places` are one or
    several positions y and x in the source, over which the mean is taken; `step` is their number along a side
    of the pixel, and their spacing in source pixels. The flux is multiplied by `area`, source pixels per
    pixel of the result.
    """
    height, width = source.shape
    near_bad = is_bad = source_weight <= 0
    source, is_single = bridged(source, is_bad)
    if is_bad.any():
        near_bad = ndimage.binary_dilation(is_bad & ~is_single, BESIDE) | is_bad
        near_bad = ndimage.binary_dilation(near_bad, BESIDE)
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

    The value is the mean over `places` positions, `step` pixels apart and centred on the fraction.
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
    """Align all bands to the grid of the reference band."""
    return {band: AlignedPlane(plane, planes[reference]) for band, plane in planes.items()}
