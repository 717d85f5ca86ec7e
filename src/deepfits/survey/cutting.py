"""Cutting: many small windows out of a strip of rows, at once.

Shapes: N objects, H, W pixels of the grid, S side of a cutout.

A cutout holds the pixels that `astropy.nddata.Cutout2D` takes in mode ``partial``: for side S and position x
the columns ceil(x − S/2) to ceil(x − S/2) + S − 1. Pixels are copied, never interpolated, so an object's
centre lies within half a pixel of the cutout's; the catalogue's x and y say where. Pixels outside the image
have flux 0 and weight 0.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Protocol

import numpy as np

from deepfits.compiled import library


class Rows(Protocol):
    """What can be cut from."""

    shape: tuple[int, int]

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and weight of some rows."""


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
    """Cut all objects out of one plane, reading each row of it at most once or twice.

    Returns image and weight, ``(N, S, S)`` float32. Positions, ``(N,)``, are pixels of the grid, best sorted
    by y; `max_rows` are held at a time. `out` are arrays of zeros to write to, made when None.
    """
    left, bottom = corners(x, size), corners(y, size)
    if out is None:
        out = np.zeros((len(left), size, size), np.float32), np.zeros((len(left), size, size), np.float32)
    order = np.argsort(bottom, kind="stable")
    first = 0
    while first < len(order):
        low = int(bottom[order[first]])
        last = first + int(
            np.searchsorted(bottom[order[first:]], low + max(max_rows - size, 0), side="right")
        )
        which = order[first:last]
        start, stop = max(low, 0), min(int(bottom[which[-1]]) + size, plane.shape[0])
        if start < stop:
            copy_windows(out, which, plane.rows(start, stop), left[which], bottom[which] - start)
        first = last
    return out


def copy_windows(
    out: tuple[np.ndarray, np.ndarray],
    which: np.ndarray,
    strips: tuple[np.ndarray, np.ndarray],
    left: np.ndarray,
    bottom: np.ndarray,
) -> None:
    """Copy windows of image and weight into rows `which` of ``(N, S, S)`` zeros; what lies outside stays 0.

    A loop in C, where it was built, or else one slice per object copies each pixel once; indexing with arrays
    of windows copies it three times.
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
    """Return `_copy_sliced` in C (``_cutting.c``), or None where it was not built."""
    found = library("_cutting", "deepfits_copy_windows", "cutting is")
    if found is None:
        return None
    copy, pointer, number = found.deepfits_copy_windows, ctypes.c_void_p, ctypes.c_int64
    copy.restype = None
    copy.argtypes = [pointer, number, number, pointer, pointer, pointer, number, pointer, number, number]
    return copy


def _is_plain(strip: np.ndarray, out: np.ndarray) -> bool:
    """Return whether these are what `_cutting.c` takes: float32, and rows of a window one after the other."""
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
    places = [np.ascontiguousarray(one, np.int64) for one in (which, left, bottom)]
    compiled_copy()(
        strip.ctypes.data,
        *strip.shape,
        *(one.ctypes.data for one in places),
        len(which),
        out.ctypes.data,
        out.strides[0] // 4,
        out.shape[-1],
    )
