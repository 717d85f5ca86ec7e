"""Whether the bands of a field show the same sources at the same places, after their WCS.

Measured on the middle rows of each band on the common grid; bands without WCS are taken pixel by pixel, and
held to the same.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import sep

from deepfits.survey.detection import subtract_background
from deepfits.survey.stacking import MOST_SOURCES, PixelPositions, Registration, register

MAX_SHIFT_PIXELS = 1.0


class Bands(Protocol):
    """What is needed of a field: planes by band."""

    planes: Any


def band_shifts(field: Bands, reference: str) -> dict[str, Registration]:
    """Measure how far each band's bright sources lie from those of the reference band."""
    sources = {band: _bright(*plane.read()) for band, plane in field.planes.items()}
    return {
        band: register(its, sources[reference], same_band=False)
        for band, its in sources.items()
        if band != reference
    }


def _bright(image: np.ndarray, weight: np.ndarray) -> PixelPositions:
    is_bad = weight <= 0
    if is_bad.all():
        return PixelPositions(x=np.empty(0), y=np.empty(0), flux=np.empty(0))
    subtract_background(image, is_bad, 128)
    sigma = float(np.median(weight[~is_bad])) ** -0.5
    sep.set_extract_pixstack(1_000_000)
    found = sep.extract(image, 8 * sigma, mask=is_bad, minarea=5, deblend_nthresh=1)
    found = found[(found["flag"] == 0) & (found["a"] / np.maximum(found["b"], 1e-3) < 3)]
    found = found[np.argsort(-found["flux"])][:MOST_SOURCES]
    return PixelPositions(
        x=found["x"].astype(float), y=found["y"].astype(float), flux=found["flux"].astype(float)
    )


def shift_warnings(shifts: dict[str, Registration], reference: str) -> list[str]:
    """Return which bands lie more than a pixel off, and what to do."""
    return [
        f"{band} lies ({shift.dx:+.1f}, {shift.dy:+.1f}) pixels off {reference}, going by "
        f"{shift.num_matched} sources; mend its WCS, or `deepfits stack --register apply`"
        for band, shift in shifts.items()
        if shift.num_matched and math.hypot(shift.dx, shift.dy) > MAX_SHIFT_PIXELS
    ]
