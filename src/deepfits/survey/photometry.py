"""Fluxes, sizes and the star score of detected sources.

Shapes: H, W pixels, N sources.

Total fluxes are Kron fluxes (2.5 Kron radii, at least `MIN_RADIUS` pixels) in the same ellipse in every band,
without the pixels of other sources, which count as 0 (sep's ``segmap``). A single pixel without data counts
as its neighbours suggest, of several each as the mean of the aperture's other pixels (sep's ``mask``). Errors
follow from the weights, multiplied by the noise correlation of the plane.
"""

from dataclasses import dataclass

import numpy as np
import sep

from deepfits.photometry import FLAG_MASKED, FLAG_NEIGHBOUR, FLAG_NO_DATA
from deepfits.survey.fill import bridged

KRON_FACTOR = 2.5
MIN_RADIUS = 1.75


@dataclass(frozen=True, kw_only=True)
class Apertures:
    """Elliptical apertures, ``(N,)`` each: centre and semi-axes in pixels, position angle in radians.

    They are scaled by `kron`: `KRON_FACTOR` Kron radii in units of a; at least such that the ellipse's
    geometric mean radius is `MIN_RADIUS` pixels.
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    theta: np.ndarray
    kron: np.ndarray
    number: np.ndarray  # in the segmentation map


def make_apertures(
    sources: np.ndarray, combined: np.ndarray, is_empty: np.ndarray, segmentation: np.ndarray
) -> Apertures:
    """Measure the Kron radii on the combined image."""
    x, y = sources["x"].astype(float), sources["y"].astype(float)
    a, b = np.maximum(sources["a"], 0.5).astype(float), np.maximum(sources["b"], 0.5).astype(float)
    theta = np.clip(np.nan_to_num(sources["theta"].astype(float)), -np.pi / 2, np.pi / 2)
    number = np.arange(1, len(x) + 1, dtype=np.int32)
    kron, _ = sep.kron_radius(
        combined, x, y, a, b, theta, 6.0, mask=is_empty, seg_id=number, segmap=segmentation
    )
    # The radius is NaN or 0 if neighbours and noise leave no flux; use the smallest ellipse then.
    kron = np.clip(np.nan_to_num(kron), 0, 6.0)
    smallest = MIN_RADIUS / np.sqrt(a * b)
    return Apertures(
        x=x, y=y, a=a, b=b, theta=theta, kron=np.maximum(KRON_FACTOR * kron, smallest), number=number
    )


def not_measured(number: int) -> dict[str, np.ndarray]:
    """Return the result of `measure_band` for sources in a band without data: all NaN."""
    names = ("flux", "flux_err", "flux_aper", "flux_aper_err")
    return {n: np.full(number, np.nan) for n in names} | {"flags": np.zeros(number, np.int32)}


def measure_band(
    image: np.ndarray,
    weight: np.ndarray,
    apertures: Apertures,
    segmentation: np.ndarray,
    *,
    radius: float,
    noise_correlation: float = 1.0,
) -> dict[str, np.ndarray]:
    """Measure fluxes in one band, background-subtracted, in ellipses and in circles of a `radius` in pixels.

    Return the columns ``flux``, ``flux_err``, ``flux_aper``, ``flux_aper_err`` (nJy; NaN where no pixel of
    the aperture has data) and ``flags`` (int32), ``(N,)`` each. Errors include the factor `noise_correlation`
    (`deepfits.survey.grids`).
    """
    is_bad = weight <= 0
    variance = np.zeros_like(weight)
    np.divide(1, weight, out=variance, where=~is_bad)
    (image, is_single), (variance, _) = (bridged(values, is_bad) for values in (image, variance))
    p, mask = apertures, is_bad & ~is_single
    common = {"var": variance, "mask": mask, "seg_id": p.number, "segmap": segmentation}
    total, error, flags = sep.sum_ellipse(image, p.x, p.y, p.a, p.b, p.theta, p.kron, subpix=5, **common)
    fixed, fixed_error, fixed_flags = sep.sum_circle(image, p.x, p.y, radius, subpix=5, **common)
    flags = (flags | fixed_flags).astype(np.int32)
    bad = is_bad.astype(np.float32)
    in_ellipse = sep.sum_ellipse(bad, p.x, p.y, p.a, p.b, p.theta, p.kron)[0]
    is_lacking = (in_ellipse > 0) | (sep.sum_circle(bad, p.x, p.y, radius)[0] > 0)
    is_beside = ((flags & FLAG_MASKED) > 0) & ~is_lacking
    flags[is_beside] = flags[is_beside] & ~FLAG_MASKED | FLAG_NEIGHBOUR
    flags[is_lacking] |= FLAG_MASKED
    for flux, flux_error in ((total, error), (fixed, fixed_error)):
        has_none = ~(flux_error > 0) | ~np.isfinite(flux)
        flux[has_none] = flux_error[has_none] = np.nan
        flags[has_none] |= FLAG_NO_DATA
    return {
        "flux": total,
        "flux_err": error * noise_correlation,
        "flux_aper": fixed,
        "flux_aper_err": fixed_error * noise_correlation,
        "flags": flags,
    }


def half_light_radius(
    image: np.ndarray,
    is_bad: np.ndarray,
    apertures: Apertures,
    segmentation: np.ndarray,
    *,
    reach: float | None = None,
) -> np.ndarray:
    """Return half-light radii, pixels, ``(N,)``; NaN where they cannot be measured.

    The total flux is measured within `reach` pixels, or by default within each source's Kron ellipse's
    semi-major axis. A common `reach` makes radii of faint and bright stars, whose Kron radii differ,
    comparable.
    """
    p = apertures
    reaches = np.maximum(p.kron * p.a, 3 * MIN_RADIUS) if reach is None else np.full(len(p.x), reach)
    radius, _ = sep.flux_radius(
        image, p.x, p.y, reaches, 0.5, mask=is_bad, seg_id=p.number, segmap=segmentation, subpix=5
    )
    return np.where(np.isfinite(radius) & (radius > 0), radius, np.nan)
