"""Pixels of a cutout that belong to objects other than the central one.

Shapes: N objects, B bands, H = W pixels.

The flux of a neighbour is real and its weights are correct, so the weights are left unchanged; but it is not
flux of the central object, and a fit of that object has to know which pixels are affected. They are measured
on the cutout itself, with the same extraction as `detect` (sep, all bands combined), so that cutouts of
detected objects, of a user's catalogue and from other software are treated alike. They comprise every segment
except the central one, dilated by `GROWTH` pixels, but never into the central segment or the sky within
`REACH` of the centre.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepfits.survey.store import Cutouts, StoreInfo

GROWTH = 2  # dilation of the segments of neighbours, pixels, as their wings continue below the threshold
REACH = 2.5  # the central object's segment has pixels within this distance of the centre, pixels
FARTHEST_PEAK = 5.0
"""The central object's peak lies within this distance, unlike that of a bright neighbour's wing, pixels."""
THRESHOLD, DEBLEND_CONTRAST = 3.0, 0.003
_DISC = np.hypot(*np.mgrid[-GROWTH : GROWTH + 1, -GROWTH : GROWTH + 1]) <= GROWTH + 0.3


def neighbours_of(cutouts: Cutouts, info: StoreInfo) -> np.ndarray:
    """Return the pixels of neighbours, ``(N, H, W)`` bool, as stored or else measured."""
    if cutouts.is_neighbour is not None:
        return cutouts.is_neighbour
    return find_neighbours(cutouts.image, cutouts.weight, noise_correlation=info.noise_correlation)


def with_neighbours(cutouts: Cutouts, info: StoreInfo) -> Cutouts:
    """Return the cutouts with `is_neighbour` set."""
    return replace(cutouts, is_neighbour=neighbours_of(cutouts, info))


def find_neighbours(
    image: np.ndarray, weight: np.ndarray, *, noise_correlation: Sequence[float] = ()
) -> np.ndarray:
    """Find the pixels of neighbours, ``(N, H, W)`` bool.

    Images and weights are ``(N, B, H, W)``, nJy and nJy⁻²; pixels without data in any band belong to no
    object. The noise correlation is the true over the stated noise in large apertures, per band (default 1).

    Examples
    --------
    >>> y, x = np.mgrid[:32, :32]
    >>> blob = lambda x0, y0: 50 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8)
    >>> image = (blob(15.5, 15.5) + blob(26, 8))[None, None].astype(np.float32)
    >>> found = find_neighbours(image, np.ones_like(image))[0]
    >>> bool(found[8, 26]), bool(found[15, 15]), bool(found[25, 5])
    (True, False, False)
    """
    import sep  # not needed for training alone, as current stores include the neighbours

    from deepfits.survey.detection import DetectOptions, gaussian_kernel, sep_arguments

    options = DetectOptions(threshold=THRESHOLD, deblend_contrast=DEBLEND_CONTRAST)
    number = len(image)
    kernel = gaussian_kernel(options.smoothing_pixels)
    kernel /= kernel.sum()
    correlation = float(np.mean(noise_correlation)) if len(noise_correlation) else 1.0
    sigma = float(np.sqrt((kernel**2).sum())) * max(correlation, 1.0)
    out = np.zeros((number, *image.shape[2:]), dtype=bool)
    before = sep.get_extract_pixstack()
    # Clearing sep's default buffer takes 10 ms per cutout.
    sep.set_extract_pixstack(4 * out[0].size if number else before)
    y, x = (np.arange(side) - (side - 1) / 2 for side in out.shape[1:])
    is_middle = np.hypot(y[:, None], x) <= REACH
    try:
        for row in range(number):
            is_valid = weight[row] > 0
            num_valid = is_valid.sum(0)
            signal = np.where(is_valid, image[row] * np.sqrt(weight[row]), 0.0).sum(0)
            combined = (signal / np.sqrt(np.maximum(num_valid, 1))).astype(np.float32)
            if num_valid.any():
                arguments = sep_arguments(options, kernel, num_valid == 0)
                sources, segments = sep.extract(combined, options.threshold * sigma, **arguments)
                out[row] = _others(sources, segments, is_middle) & (num_valid > 0)
    finally:
        sep.set_extract_pixstack(before)
    return out


def _others(sources: np.ndarray, segments: np.ndarray, is_middle: np.ndarray) -> np.ndarray:
    """Return the dilated pixels of all segments but the central one, ``(H, W)`` bool."""
    from scipy import ndimage

    # For even sides the centre is the corner of four pixels, any of which may hold the object.
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
