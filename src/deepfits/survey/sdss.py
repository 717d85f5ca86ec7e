"""Noise of SDSS frames: photon noise of sky and sources, dark current and read noise.

A frame holds the flux in nanomaggies (HDU 0), the calibration in nanomaggies per count along a row (HDU 1)
and the subtracted sky, in counts, on a coarse grid (HDU 2). With the gain and dark variance of the camera
column and run, the variance of a pixel is calibration² · ((flux / calibration + sky) / gain + dark variance).

Source: SDSS data model, file ``frame`` (DR8 and later), section on the noise, and its two tables. Unlike
there, the flux is included only where it exceeds 3σ of the sky, since a variance that follows the noise
itself would give low pixels more weight than high ones.

Shapes: H, W pixels of the frame.
"""

from typing import Any

import numpy as np
from astropy.io import fits
from scipy import ndimage

# Electrons per count, for camera columns 1 to 6.
_GAIN = {
    "u": (1.62, 1.595, 1.59, 1.6, 1.47, 2.17),
    "g": (3.32, 3.855, 3.845, 3.995, 4.05, 4.035),
    "r": (4.71, 4.6, 4.72, 4.76, 4.725, 4.895),
    "i": (5.165, 6.565, 4.86, 4.885, 4.64, 4.76),
    "z": (4.745, 5.155, 4.885, 4.775, 3.48, 4.69),
}
# Dark current and read noise, counts², for camera columns 1 to 6.
_DARK_VARIANCE = {
    "u": (9.61, 12.6025, 8.7025, 12.6025, 9.3025, 7.0225),
    "g": (15.6025, 1.44, 1.3225, 1.96, 1.1025, 1.8225),
    "r": (1.8225, 1.0, 1.3225, 1.3225, 0.81, 0.9025),
    "i": (7.84, 5.76, 4.6225, 6.25, 7.84, 5.0625),
    "z": (0.81, 1.0, 1.0, 9.61, 1.8225, 1.21),
}
# Values that changed: gains from run 1100 on, dark variances from run 1500 on.
_LATER_GAIN = {("u", 2): 1.825}
_LATER_DARK_VARIANCE = {("i", 2): 6.25, ("i", 4): 7.5625, ("z", 4): 12.6025, ("z", 5): 2.1025}


def gain_of(band: str, column: int, run: int) -> float:
    """Return the gain, electrons per count.

    Examples
    --------
    >>> gain_of("u", 2, 1000), gain_of("u", 2, 3918), gain_of("r", 3, 3918)
    (1.595, 1.825, 4.72)
    """
    later = _LATER_GAIN.get((band, column)) if run >= 1100 else None
    return later or _GAIN[band][column - 1]


def dark_variance_of(band: str, column: int, run: int) -> float:
    """Return the variance due to dark current and read noise, counts²."""
    later = _LATER_DARK_VARIANCE.get((band, column)) if run >= 1500 else None
    return later or _DARK_VARIANCE[band][column - 1]


class FrameNoise:
    """Variance of a frame's pixels, in the square of the frame's unit."""

    def __init__(self, hdus: fits.HDUList) -> None:
        header = hdus[0].header
        ccd = str(header["FILTER"]).strip(), int(header["CAMCOL"]), int(header["RUN"])
        self.gain, self.dark_variance = gain_of(*ccd), dark_variance_of(*ccd)
        self.calibration = np.asarray(hdus[1].data, dtype=np.float32)
        table = hdus[2].data
        self._sky = np.asarray(table["ALLSKY"][0], dtype=np.float32)
        self._x, self._y = (np.asarray(table[n][0], dtype=np.float64) for n in ("XINTERP", "YINTERP"))
        shape = len(self._y), len(self._x)
        if hdus[0].shape != shape or self.calibration.shape != shape[1:] or self._sky.ndim != 2:
            raise ValueError(f"calibration and sky do not match an image of shape {hdus[0].shape}")

    def sky(self, start: int, stop: int) -> np.ndarray:
        """Return the subtracted sky of rows `start` to `stop`, counts, ``(stop − start, W)``."""
        y, x = np.meshgrid(self._y[start:stop], self._x, indexing="ij")
        return np.asarray(ndimage.map_coordinates(self._sky, (y, x), order=1, mode="nearest"))

    def variance(self, flux: np.ndarray, start: int) -> np.ndarray:
        """Return the variance of rows from `start` on, given their flux; both ``(n, W)``."""
        dark = self.sky(start, start + len(flux)) / self.gain + self.dark_variance
        with np.errstate(invalid="ignore"):
            counts = flux / self.calibration
            is_source = counts > 3 * np.sqrt(dark)
        dark += np.where(is_source, counts / self.gain, 0)
        return np.asarray(dark * self.calibration**2, dtype=np.float32)


def frame_noise(hdus: fits.HDUList) -> FrameNoise | None:
    """Return the noise of a frame; None for a file without calibration, sky, filter, run or column."""
    has_cards = all(key in hdus[0].header for key in ("FILTER", "CAMCOL", "RUN"))
    if not has_cards or len(hdus) < 3 or not isinstance(hdus[2], fits.BinTableHDU):
        return None
    columns: Any = hdus[2].columns.names
    return FrameNoise(hdus) if {"ALLSKY", "XINTERP", "YINTERP"} <= set(columns) else None
