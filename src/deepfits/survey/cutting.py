"""Cutting many small windows out of an image at once, strip by strip.

Shapes: N objects, H, W pixels of the grid, S side of a cutout.

A cutout has the same pixels as `astropy.nddata.Cutout2D` in mode ``partial``: for side S and position x the
columns ceil(x − S/2) to ceil(x − S/2) + S − 1. Pixels are copied, never interpolated, so an object's centre
lies within half a pixel of the cutout's; its exact position is in the catalogue's x and y. Pixels outside the
image have flux 0 and weight 0.
"""

import ctypes
from functools import cache
from typing import Any, Protocol

import numpy as np

from deepfits.compiled import library


class Rows(Protocol):
    """A plane that cutouts can be cut from."""

    shape: tuple[int, int]

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of rows `start` to `stop`."""


def corners(position: np.ndarray, size: int) -> np.ndarray:
    """Return the first pixel of each cutout along one axis, ``(N,)`` int64; may be negative.

    Examples
    --------
    >>> corners(np.array([100.0, 100.3, 0.0]), 32).tolist()
    [84, 85, -16]
    """
    return np.ceil(np.asarray(position, dtype=float) - size / 2).astype(np.int64)


def cut(
    plane: Rows,
    x: np.ndarray,
    y: np.ndarray,
    size: int,
    *,
    max_rows: int = 1024,
    out: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut all objects out of one plane, reading each of its rows once or twice; return image and weight.

    Positions, ``(N,)``, are in pixels of the grid, preferably sorted by y. The cutouts, ``(N, S, S)``
    float32, are written to `out` if that is given, zeros so far. `max_rows` are held in memory at a time.
    """
    left, bottom = corners(x, size), corners(y, size)
    if out is None:
        out = np.zeros((len(left), size, size), np.float32), np.zeros((len(left), size, size), np.float32)
    order = np.argsort(bottom, kind="stable")
    first = 0
    while first < len(order):
        low = int(bottom[order[first]])
        highest = low + max(max_rows - size, 0)
        last = first + int(np.searchsorted(bottom[order[first:]], highest, side="right"))
        rows = order[first:last]
        start, stop = max(low, 0), min(int(bottom[rows[-1]]) + size, plane.shape[0])
        if start < stop:
            copy_windows(out, rows, plane.rows(start, stop), left[rows], bottom[rows] - start)
        first = last
    return out


def copy_windows(
    out: tuple[np.ndarray, np.ndarray],
    which: np.ndarray,
    strips: tuple[np.ndarray, np.ndarray],
    left: np.ndarray,
    bottom: np.ndarray,
) -> None:
    """Copy windows of image and weight into rows `which` of ``(N, S, S)`` zeros; pixels outside stay 0.

    This copies each pixel once, with a loop in C where that was built, else with one slice per object; fancy
    indexing would copy it three times.
    """
    for strip, target in zip(strips, out, strict=True):
        copy = _copy_compiled if _is_plain(strip, target) and compiled_copy() is not None else _copy_sliced
        copy(target, which, strip, left, bottom)


def _copy_sliced(
    out: np.ndarray, which: np.ndarray, strip: np.ndarray, left: np.ndarray, bottom: np.ndarray
) -> None:
    (height, width), size = strip.shape, out.shape[-1]
    for row, x0, y0 in zip(which.tolist(), left.tolist(), bottom.tolist(), strict=True):
        if 0 <= x0 <= width - size and 0 <= y0 <= height - size:
            out[row] = strip[y0 : y0 + size, x0 : x0 + size]
            continue
        xs, ys = slice(max(x0, 0), min(x0 + size, width)), slice(max(y0, 0), min(y0 + size, height))
        if xs.start < xs.stop and ys.start < ys.stop:
            place = row, slice(ys.start - y0, ys.stop - y0), slice(xs.start - x0, xs.stop - x0)
            out[place] = strip[ys, xs]


@cache
def compiled_copy() -> Any:
    """Return the C version of `_copy_sliced` (``_cutting.c``), or None if it was not built."""
    compiled = library("_cutting", "deepfits_copy_windows", "cutting is")
    if compiled is None:
        return None
    copy, pointer, number = compiled.deepfits_copy_windows, ctypes.c_void_p, ctypes.c_int64
    copy.restype = None
    copy.argtypes = [pointer, number, number, pointer, pointer, pointer, number, pointer, number, number]
    return copy


def _is_plain(strip: np.ndarray, out: np.ndarray) -> bool:
    """Return whether `_cutting.c` can handle the arrays: float32, each window contiguous in memory."""
    size = out.shape[-1]
    return (
        strip.dtype == out.dtype == np.float32
        and strip.flags.c_contiguous
        and out.strides[1:] == (4 * size, 4)
        and out.strides[0] % 4 == 0
        and out.flags.writeable
    )


def _copy_compiled(
    out: np.ndarray, which: np.ndarray, strip: np.ndarray, left: np.ndarray, bottom: np.ndarray
) -> None:
    indices = [np.ascontiguousarray(values, np.int64) for values in (which, left, bottom)]
    compiled_copy()(
        strip.ctypes.data,
        *strip.shape,
        *(values.ctypes.data for values in indices),
        len(which),
        out.ctypes.data,
        out.strides[0] // 4,
        out.shape[-1],
    )
