"""Which pixels of a cutout belong to other objects than the one in its middle.

Shapes: N objects, B bands, H = W pixels.

The light of a neighbour is real light with a true weight, so the weights stay as they are; but it is not the
light of the object that the cutout is of, and a fit of that object has to know which pixels these are. They
are measured on the cutout itself, with the same extraction as `detect` (sep, all bands together), so that
cutouts of our own, of a user's catalogue and of others are treated alike: every segment but the central one,
grown by `GROWTH` pixels, though never into the central segment or the sky within `REACH` of the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepfits.survey.store import Cutouts, StoreInfo

GROWTH = 2
"""Pixels by which the segments of neighbours are grown: their wings go on below the threshold."""
REACH = 2.5
"""Pixels: the segment of the object itself comes this near to the middle."""
FARTHEST_PEAK = 5.0
"""Pixels: and has its peak this near, which the wing of a bright neighbour has not."""
THRESHOLD, DEBLEND_CONTRAST = 3.0, 0.003
_DISC = np.hypot(*np.mgrid[-GROWTH : GROWTH + 1, -GROWTH : GROWTH + 1]) <= GROWTH + 0.3


def neighbours_of(cutouts: Cutouts, info: StoreInfo) -> np.ndarray:
    """Return which pixels other objects have, ``(N, H, W)`` bool: as the store says, else measured."""
    if cutouts.is_neighbour is not None:
        return cutouts.is_neighbour
    return find_neighbours(cutouts.image, cutouts.weight, noise_correlation=info.noise_correlation)


def with_neighbours(cutouts: Cutouts, info: StoreInfo) -> Cutouts:
    """Return the cutouts with `is_neighbour`, as stores keep it."""
    return replace(cutouts, is_neighbour=neighbours_of(cutouts, info))


def find_neighbours(
    image: np.ndarray, weight: np.ndarray, *, noise_correlation: Sequence[float] = ()
) -> np.ndarray:
    """Return which pixels other objects have, ``(N, H, W)`` bool.

    Images and weights are ``(N, B, H, W)``, nJy and nJy⁻²; pixels of weight 0 belong to nobody. The noise
    correlation is true noise over stated noise in large apertures, per band; 1 where it is not given.

    Examples
    --------
    >>> y, x = np.mgrid[:32, :32]
    >>> blob = lambda x0, y0: 50 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8)
    >>> image = (blob(15.5, 15.5) + blob(26, 8))[None, None].astype(np.float32)
    >>> found = find_neighbours(image, np.ones_like(image))[0]
    >>> bool(found[8, 26]), bool(found[15, 15]), bool(found[25, 5])
    (True, False, False)
    """
    import sep  # a machine that only trains may lack it: stores of today know their neighbours

    from deepfits.survey.detection import DetectOptions, gaussian_kernel, sep_arguments

    options = DetectOptions(threshold=THRESHOLD, deblend_contrast=DEBLEND_CONTRAST)
    number = len(image)
    kernel = gaussian_kernel(options.smoothing_pixels)
    kernel /= kernel.sum()
    correlation = float(np.mean(noise_correlation)) if len(noise_correlation) else 1.0
    sigma = float(np.sqrt((kernel**2).sum())) * max(correlation, 1.0)
    out = np.zeros((number, *image.shape[2:]), dtype=bool)
    before = sep.get_extract_pixstack()
    sep.set_extract_pixstack(
        4 * out[0].size if number else before
    )  # clearing a large one takes 10 ms a cutout
    y, x = (np.arange(side) - (side - 1) / 2 for side in out.shape[1:])
    is_middle = np.hypot(y[:, None], x) <= REACH
    try:
        for row in range(number):
            is_valid = weight[row] > 0
            there = is_valid.sum(0)
            signal = np.where(is_valid, image[row] * np.sqrt(weight[row]), 0.0).sum(0)
            combined = (signal / np.sqrt(np.maximum(there, 1))).astype(np.float32)
            if there.any():
                arguments = sep_arguments(options, kernel, there == 0)
                sources, segments = sep.extract(combined, options.threshold * sigma, **arguments)
                out[row] = _others(sources, segments, is_middle) & (there > 0)
    finally:
        sep.set_extract_pixstack(before)
    return out


def _others(sources: np.ndarray, segments: np.ndarray, is_middle: np.ndarray) -> np.ndarray:
    """Return the pixels of all segments but the central one, grown: ``(H, W)`` bool."""
    from scipy import ndimage

    # The middle of an even side is the corner of four pixels: an object lies in one of them.
    counts = np.bincount(segments[is_middle], minlength=len(sources) + 1)[1:]
    middle = [(side - 1) / 2 for side in segments.shape]
    is_near = np.hypot(sources["ycpeak"] - middle[0], sources["xcpeak"] - middle[1]) <= FARTHEST_PEAK
    counts = np.where(is_near, counts, 0)
    is_own = segments == counts.argmax() + 1 if counts.any() else is_middle
    is_other = (segments > 0) & ~is_own
    if not is_other.any():
        return is_other
    grown = ndimage.binary_dilation(is_other, _DISC)
    return grown & ~is_own & ~(is_middle & (segments == 0))
