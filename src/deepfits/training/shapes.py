"""Comparison of magnitudes, colours, sizes and shapes between generated and real galaxies.

Shapes: N objects, B bands, H, W pixels. Both samples are noisy and measured in the same way, with `sep`; the
distributions of each quantity are compared.
"""

from typing import Any

import numpy as np

from deepfits.photometry import ab_magnitude

THRESHOLD = 1.5
MIN_PIXELS = 5
APERTURE_PIXELS = 6.0
MAX_OFFSET_PIXELS = 4.0


def measure_shapes(
    image: np.ndarray, weight: np.ndarray, bands: tuple[str, ...], pixel_scale_arcsec: float
) -> dict[str, np.ndarray]:
    """Measure the object at the centre of each cutout.

    Images and weights are ``(N, B, H, W)``, in nJy and nJy⁻², without missing pixels.

    Return arrays ``(N,)``, NaN where not measurable: ``mag_<band>`` (AB, in an aperture of 6 pixels radius),
    ``colour_<a>_<b>`` of adjacent bands, ``radius_arcsec`` (half-light radius), ``ellipticity`` (1 − b/a) and
    ``concentration`` (5 log10(r80 / r20)).
    """
    import sep

    rows = [_measure_one(sep, *pair) for pair in zip(image, weight, strict=True)]
    flux, (radius, ellipticity, concentration) = (np.array(part).T for part in zip(*rows, strict=True))
    magnitude = ab_magnitude(flux)
    out = {f"mag_{band}": magnitude[number] for number, band in enumerate(bands)}
    for first in range(len(bands) - 1):
        out[f"colour_{bands[first]}_{bands[first + 1]}"] = magnitude[first] - magnitude[first + 1]
    return out | {
        "radius_arcsec": radius * pixel_scale_arcsec,
        "ellipticity": ellipticity,
        "concentration": concentration,
    }


def _measure_one(sep: Any, image: np.ndarray, weight: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the fluxes per band, and radius, ellipticity and concentration in the stacked bands."""
    image, weight = image.astype(np.float64), weight.astype(np.float64)
    total = np.ascontiguousarray((image * np.sqrt(weight)).sum(axis=0) / np.sqrt(len(image)))
    sources = sep.extract(total, THRESHOLD, err=1.0, minarea=MIN_PIXELS)
    centre = (np.array(total.shape) - 1) / 2
    distance = np.hypot(sources["x"] - centre[1], sources["y"] - centre[0])
    if not len(sources) or distance.min() > MAX_OFFSET_PIXELS:
        return [np.nan] * len(image), [np.nan] * 3
    source = sources[int(np.argmin(distance))]
    x, y = [source["x"]], [source["y"]]
    flux = [float(sep.sum_circle(np.ascontiguousarray(b), x, y, APERTURE_PIXELS)[0][0]) for b in image]
    reach = min(total.shape) / 2 - 2
    radii, flag = sep.flux_radius(total, x, y, [reach], [0.2, 0.5, 0.8], subpix=5)
    r20, r50, r80 = radii[0]
    is_good = not flag[0] and r20 > 0
    shape = [r50, 1 - source["b"] / source["a"], 5 * np.log10(r80 / r20)] if is_good else [np.nan] * 3
    return flux, [float(v) for v in shape]


def two_sample_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sample Kolmogorov–Smirnov statistic.

    NaN values are ignored; the result is 1 if a sample has no other values.

    Examples
    --------
    >>> two_sample_distance(np.array([1.0, 2.0]), np.array([1.5, 2.5]))
    0.5
    """
    from scipy.stats import ks_2samp

    a, b = (sample[np.isfinite(sample)] for sample in (a, b))
    return float(ks_2samp(a, b, method="asymp").statistic) if len(a) and len(b) else 1.0


def compare_shapes(real: dict[str, np.ndarray], generated: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the distance for each quantity, and the fractions of cutouts with a central object."""
    out = {f"ks_{name}": two_sample_distance(values, generated[name]) for name, values in real.items()}
    return out | {
        f"found_{kind}": float(np.isfinite(shapes["ellipticity"]).mean())
        for kind, shapes in (("real", real), ("generated", generated))
    }
