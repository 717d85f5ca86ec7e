"""The sky that is left in an image: a smooth surface, of which single rows are evaluated.

Shapes: H, W pixels of the image.
"""

import math

import numpy as np
from scipy import interpolate

from deepfits.survey.detection import DetectOptions, background_of, find_sources
from deepfits.survey.sources import MESH

NODES = 2  # nodes of the surface per cell


class SkySurface:
    """A spline through sep's background of a mesh, between sources and pixels of no weight."""

    def __init__(self, image: np.ndarray, weight: np.ndarray) -> None:
        is_bad = weight <= 0
        snr = (image - background_of(image, is_bad).back(dtype=np.float32)) * np.sqrt(weight)
        segmentation = find_sources(snr, is_bad, DetectOptions(threshold=2.5, deblend_contrast=1))[1]
        background = background_of(image, is_bad, is_source=segmentation > 0).back(dtype=np.float32)
        self._width = image.shape[1]
        numbers = (max(4, math.ceil(NODES * side / MESH) + 1) for side in image.shape)
        y, x = (np.linspace(0, side - 1, number) for side, number in zip(image.shape, numbers, strict=True))
        nodes = background[np.ix_(*(np.rint(axis).astype(int) for axis in (y, x)))]
        self._spline = interpolate.RectBivariateSpline(y, x, nodes)
        self.level = float(np.median(nodes))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the sky in rows `start` to `stop`, ``(stop − start, W)`` float32."""
        return np.asarray(self._spline(np.arange(start, stop), np.arange(self._width)), np.float32)
