"""Checking that the bands of a field are aligned, and a catalogue with them, by their sources.

Measured on the middle rows of each band on the common grid. Bands without WCS are compared pixel to pixel.
"""

import math
from dataclasses import replace

import numpy as np
import sep

from deepfits.survey.fields import Field, PartOfField, middle_of, middle_rows
from deepfits.survey.stacking import (
    AGREEING_PIXELS,
    OVER_CHANCE,
    PixelPositions,
    Registration,
    find_bright,
    register,
)

MAX_SHIFT_PIXELS = 1.0
MANY = 30  # number of bright sources of two bands of which some must be the same


def band_shifts(field: Field | PartOfField, reference: str) -> dict[str, Registration]:
    """Measure the offset of each band's bright sources from those of the reference band."""
    image, weight = field.planes[reference].read()
    sources = _bright(image, weight)
    out = {}
    for band, plane in field.planes.items():
        if band != reference:
            image, own_weight = plane.read()
            reference_sources = _bright(image, own_weight)
            number = min(_seen(reference_sources, weight), _seen(sources, own_weight))
            out[band] = replace(register(reference_sources, sources), num_sources=number)
    return out


def _seen(sources: PixelPositions, weight: np.ndarray) -> int:
    """Return how many sources lie where a plane has data."""
    y, x = (
        np.rint(at).astype(int).clip(0, side - 1)
        for at, side in zip((sources.y, sources.x), weight.shape, strict=True)
    )
    return int((weight[y, x] > 0).sum())


def _bright(image: np.ndarray, weight: np.ndarray) -> PixelPositions:
    if not (weight > 0).any():
        return PixelPositions(x=np.empty(0), y=np.empty(0), flux=np.empty(0))
    sep.set_extract_pixstack(1_000_000)
    found = find_bright(image, weight, deblend_nthresh=1)
    x, y, flux = (found[name].astype(float) for name in ("x", "y", "flux"))
    return PixelPositions(x=x, y=y, flux=flux)


def shift_warnings(shifts: dict[str, Registration], reference: str) -> list[str]:
    """Return a warning, with its remedy, for each band that is off by more than `MAX_SHIFT_PIXELS`."""
    off = [
        f"{band} lies ({shift.dx:+.1f}, {shift.dy:+.1f}) pixels off {reference}, according to "
        f"{shift.num_matched} sources; correct its WCS, or use `deepfits stack --register apply`"
        for band, shift in shifts.items()
        if shift.num_matched and math.hypot(shift.dx, shift.dy) > MAX_SHIFT_PIXELS
    ]
    return off + [
        f"none of the {shift.num_sources} brightest sources of {band} is at the place of one of {reference}; "
        "is its WCS right (position, scale, rotation, parity)?"
        for band, shift in shifts.items()
        if not shift.num_matched and shift.num_sources >= MANY
    ]


def position_warnings(field: Field, x: np.ndarray, y: np.ndarray) -> list[str]:
    """Return a warning if a catalogue's positions, ``(N,)`` pixels, lie beside the sources of the field."""
    plane = middle_of(field).planes[(band := field.reference.source.band)]
    first, last = middle_rows(field)
    inside = (y >= first) & (y < last)
    sources = _bright(*plane.read())
    objects = PixelPositions(x=x[inside], y=y[inside] - first, flux=np.ones(inside.sum()))
    shift = register(objects, sources)
    by_chance = len(objects.x) * len(sources.x) * math.pi * AGREEING_PIXELS**2 / math.prod(plane.shape)
    if math.hypot(shift.dx, shift.dy) <= MAX_SHIFT_PIXELS or shift.num_matched < OVER_CHANCE * by_chance:
        return []
    return [
        f"the objects lie ({shift.dx:+.1f}, {shift.dy:+.1f}) pixels off the sources on {field.name}, "
        f"according to {shift.num_matched} of them; x and y must be pixels of {band}, counted from 0 (for "
        "those of another band, give --reference-band), and ra and dec must fit the WCS of the image"
    ]
