"""Cutting: many small windows out of a strip of rows, at once.

Shapes: N objects, H, W pixels of the grid, S side of a cutout.

A cutout holds the pixels that `astropy.nddata.Cutout2D` takes in mode ``partial``: for side S and position x
the columns ceil(x − S/2) to ceil(x − S/2) + S − 1. Pixels are copied, never interpolated, so an object's
centre lies within half a pixel of the cutout's; the catalogue's x and y say where. Pixels outside the image
have flux 0 and weight 0.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


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
    plane: Rows, x: np.ndarray, y: np.ndarray, size: int, *, max_rows: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Cut all objects out of one plane, reading each row of it at most once or twice.

    Parameters
    ----------
    plane
        The band on the grid.
    x, y
        ``(N,)``, pixels of the grid; best sorted by y.
    size
        S.
    max_rows
        How many rows to hold at a time.

    Returns
    -------
    image, weight
        ``(N, S, S)`` float32.
    """
    left, bottom = corners(x, size), corners(y, size)
    image = np.zeros((len(left), size, size), np.float32)
    weight = np.zeros_like(image)
    height = plane.shape[0]
    order = np.argsort(bottom, kind="stable")
    first = 0
    while first < len(order):
        low = int(bottom[order[first]])
        last = first + int(
            np.searchsorted(bottom[order[first:]], low + max(max_rows - size, 0), side="right")
        )
        which = order[first:last]
        high = int(bottom[which[-1]]) + size
        start, stop = max(low, 0), min(high, height)
        if start < stop:
            strips = plane.rows(start, stop)
            for out, strip in zip((image, weight), strips, strict=True):
                out[which] = windows(strip, left[which], bottom[which] - start, size)
        first = last
    return image, weight


def windows(strip: np.ndarray, left: np.ndarray, bottom: np.ndarray, size: int) -> np.ndarray:
    """Copy windows out of an array, with zeros where they reach over its border: ``(N, S, S)``."""
    height, width = strip.shape
    out = np.zeros((len(left), size, size), strip.dtype)
    inside = (left >= 0) & (left + size <= width) & (bottom >= 0) & (bottom + size <= height)
    if inside.any():
        out[inside] = sliding_window_view(strip, (size, size))[bottom[inside], left[inside]]
    for index in np.flatnonzero(~inside):
        x0, y0 = int(left[index]), int(bottom[index])
        xs, ys = slice(max(x0, 0), min(x0 + size, width)), slice(max(y0, 0), min(y0 + size, height))
        if xs.start < xs.stop and ys.start < ys.stop:
            out[index, ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = strip[ys, xs]
    return out
