"""The flux of the central galaxy in a noise-free model image, without what is rendered around it.

Shapes: N objects, B bands, H = W pixels.

A total flux is the flux in a circle, minus a background that is rendered everywhere around a small galaxy,
plus the flux beyond the circle: at least what the PSF scatters there, and more if the galaxy falls off more
slowly.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from deepfits.gaussian_psf import enclosed
from deepfits.photometry import (
    APERTURE_ARCSEC,
    GROWTH_ARCSEC,
    distance_from_middle,
    growth_circles,
    growth_radii,
)

SMALLEST_TOTAL_ARCSEC = 1.0
FEWEST_RADII, MOST_RADII = 2.1, 5.0
RINGS = (0.3, 0.5, 0.75, 1.0)
"""Bounds of the three rings that measure how a galaxy falls off, in units of the circle's radius."""
LARGEST_INDEX = 2.0
"""Largest Sérsic index with which a galaxy continues beyond its circle; the smallest is 1, a disc."""
LEAST_SLOPE = 1.5  # least steepness, −d ln I / d ln r, with which it does so
SAME, LARGER = 1.1, 1.2
"""Bounds on the ratio of two half-light radii.

Up to the first, the difference may be due to neighbours; from the second on, it is the galaxy's.
"""
USUAL_NOISE_NJY = 4.0
"""Typical noise of a galaxy's flux in deep surveys; flux in units of it counts as much as signal to noise."""
SMALL, LARGE = 0.6, 0.9
"""Bounds on the radius of a total's circle, in units of the largest circle.

Up to the first, none of the flux at the edge is the galaxy's; from the second on, all of it is.
"""
EDGE_RING = 0.8  # inner radius of the ring at the edge of the model image, in units of the largest circle
CONFUSION_NJY = 24.0
"""Scatter per arcsec² of the flux of galaxies fainter than i = 25.5, seldom detected beside another.

It assumes counts of 12 per square arcminute and magnitude at 24 that rise by 0.35 dex per magnitude.
"""
EXTRAPOLATED = 0.25
"""Relative uncertainty of the flux beyond a circle and of the background inside it.

It is slightly more than simulated skies show.
"""
UNSURE = 0.8
"""Relative uncertainty of the flux attributed to neighbours: the likeliest value on a simulated sky."""
WINGS = 2  # pixels around those of a neighbour in which its wings are still expected


def symmetric(image: np.ndarray) -> np.ndarray:
    """Return the symmetric part of images ``(..., H, W)``: the smaller of each pixel and the one opposite.

    Source: the templates of the SDSS deblender (R. Lupton), here of a noise-free model image, in which the
    minimum of two values is unbiased.
    """
    return np.minimum(image, image[..., ::-1, ::-1])


def own_light(model: np.ndarray, is_neighbour: np.ndarray) -> np.ndarray:
    """Return pixel weights that sum a noise-free model image to the galaxy's own flux.

    Where a pixel of a neighbour, or of its wings, is brighter than the opposite pixel, the latter replaces
    it. Model images are ``(N, B, H, W)``, the pixels of neighbours ``(N, H, W)`` bool, and the weights ``(N,
    B, H, W)`` float32: 0, 1 or 2. The sum of weights × symmetric aperture × model is the flux in the
    aperture.

    Examples
    --------
    >>> own_light(np.array([[[[1.0, 9.0]]]]), np.array([[[False, True]]]))
    array([[[[2., 0.]]]], dtype=float32)
    """
    from scipy import ndimage

    disc = np.hypot(*np.mgrid[-WINGS : WINGS + 1, -WINGS : WINGS + 1]) <= WINGS + 0.3
    near = ndimage.binary_dilation(is_neighbour, disc[None])
    replaced = near[:, None] & (model > model[..., ::-1, ::-1])
    return (1.0 - replaced + replaced[..., ::-1, ::-1]).astype(np.float32)


def total_radius(
    model: np.ndarray, weight: np.ndarray, pixel_scale_arcsec: float, edge_pixels: float
) -> np.ndarray:
    """Return the radius of the circle for the total flux of a galaxy, ``(N,)`` in arcsec.

    It is 2.1 to 5 half-light radii of the symmetric part of the model image, all bands summed in units of
    their noise: the higher the signal to noise, the farther out the wings are known, and the brighter the
    galaxy, the less a neighbour matters. It may exceed the model image (`wings`). The half-light radius is
    that of the flux in the circles of `deepfits.photometry.growth_circles`, where neighbours matter least, or
    in the largest circle of the model image, if that radius is clearly larger.

    Model and weights are ``(N, B, H, W)``; `edge_pixels` is the radius of the largest circle in the model
    image.
    """
    size, edge = model.shape[3], edge_pixels * pixel_scale_arcsec
    gain = inverse_noise(weight)
    has_data = gain > 0
    light = symmetric(model)
    together = (light * gain[:, :, None, None]).sum(axis=1)

    def half_light(largest: float) -> np.ndarray:
        apertures, radius = growth_circles(size, pixel_scale_arcsec, largest)
        return growth_radii(np.einsum("nhw,khw->nk", together, apertures), radius, [0.5])[:, 0]

    near, far = half_light(GROWTH_ARCSEC / 2), half_light(edge)
    inside = soft_circles(size, np.nan_to_num(near, nan=edge) / pixel_scale_arcsec)
    num_bands = np.maximum(has_data.sum(1), 1)
    flux = np.einsum("nbhw,nhw,nb->n", light, inside, has_data) / num_bands
    with np.errstate(divide="ignore", invalid="ignore"):  # no light, hence no circle around half of it
        signal = (together * inside).sum((1, 2)) / np.sqrt(num_bands * inside.sum((1, 2)))
        share = np.clip((far / near - SAME) / (LARGER - SAME), 0.0, 1.0)
    signal = np.sqrt(np.maximum(signal, 1.0) * np.maximum(flux / USUAL_NOISE_NJY, 1.0))
    radii = np.clip(0.8 + 1.4 * np.log10(signal / 10), FEWEST_RADII, MOST_RADII)
    half = near + share * (far - near)
    return np.maximum(np.nan_to_num(radii * half, nan=edge), SMALLEST_TOTAL_ARCSEC)


def wings(
    light: np.ndarray,
    weight: np.ndarray,
    radius_pixels: np.ndarray,
    edge: float,
    *,
    psf: np.ndarray,
    noise: np.ndarray,
    pixel_scale_arcsec: float,
) -> dict[str, np.ndarray]:
    """Estimate the flux beyond the circles of totals, and the background inside them.

    Return ``background`` ``(N, B)``, nJy: the flux in the circle from a level that is also present at the
    edge, not the galaxy's; ``beyond`` ``(N,)``: the flux beyond the circle over that inside, in excess of
    what the PSF scatters there; and ``outside``, the part of it that lies outside the model image.

    A galaxy continues beyond its circle of radius R as it falls off in three rings inside (`flux_beyond`).
    The flux F there is measured relative to the flux inside with all bands summed in units of their noise, so
    that colours are those of the circle. The excess over a point source's fraction is multiplied by F² / (F²
    + N²), with N the noise of the pixels between R and 2R and of undetected galaxies there. A galaxy with a
    small circle has no flux at the edge of the model image except what the PSF scatters there: any other is
    background and is subtracted.

    `light` ``(N, B, H, W)`` is the galaxy's own noise-free image, `radius_pixels` those of the circles,
    limited to `edge`, the radius of the largest circle in the model image; `noise` is the ratio of the errors
    of sums to those of independent pixels, per band. A PSF may be NaN, which is unknown.
    """
    size, radius = light.shape[3], np.minimum(radius_pixels, edge)
    gain = inverse_noise(weight)
    rings = [_ring(light, low * radius, high * radius) for low, high in pairwise(RINGS)]
    mean, at = (np.stack(part) for part in zip(*rings, strict=True))
    inside = np.einsum("nbhw,nhw->nb", light, soft_circles(size, radius))
    point, point_inner, point_outer = (
        of_point_source(psf, where * pixel_scale_arcsec)
        for where in (radius, np.array([EDGE_RING * edge]), np.array([edge]))
    )
    at_edge, _ = _ring(light, np.array([EDGE_RING * edge]), np.array([edge]))
    of_psf = inside / point * (point_outer - point_inner) / (np.pi * (1 - EDGE_RING**2) * edge**2)
    small = np.clip((LARGE - radius / edge) / (LARGE - SMALL), 0.0, 1.0)
    drawn = small[:, None] * np.maximum(at_edge - np.maximum(of_psf, 0.0), 0.0)
    background = np.minimum(drawn * (np.pi * radius**2)[:, None], np.maximum(inside, 0.0))
    total = ((inside - background) * gain).sum(1)
    brightness = ((mean - drawn) * gain).sum(2)
    exceeding = flux_beyond(brightness, at, radius) * (total > 0)
    falls = exceeding > 0
    unseen = CONFUSION_NJY * pixel_scale_arcsec * gain.sum(1)
    variance = 3 * np.pi * radius**2 * (((gain > 0) * noise**2).sum(1) + unseen**2)  # from R to 2R
    share = np.maximum(inside - background, 0.0) * gain
    with np.errstate(divide="ignore", invalid="ignore"):
        of_point = (share * (1 / point - 1)).sum(1) / share.sum(1)
        certain = exceeding**2 / (exceeding**2 + variance)
        beyond = np.where(falls, certain * np.maximum(exceeding / total - of_point, 0.0), 0.0)
        outer_part = np.where(falls, flux_beyond(brightness, at, edge) / exceeding, 0.0)
    return {"background": background, "beyond": beyond, "outside": beyond * outer_part}


def flux_beyond(brightness: np.ndarray, at: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """Return the flux beyond a radius, ``(N,)``, of a Sérsic profile through three points.

    Surface brightnesses I and their radii r are ``(3, N)``. With the slope k = −d ln I / d ln r at the third
    radius, the inverse ν of the Sérsic index, and q = k / ν,

        I(r) = I₃ exp(−q ((r / r₃)^ν − 1)),    F(R) = 2π r₃² I₃ e^q q^(−2/ν) Γ(2/ν, q (R / r₃)^ν) / ν.

    The two steps in brightness yield ν, limited to 1 / `LARGEST_INDEX` and 1, and the second of them k, at
    least `LEAST_SLOPE`. F is 0 where the brightness does not decrease to the third radius.

    Source: Sérsic (1968); for the integral Graham & Driver (2005, PASA 22, 118), eq. 2.

    Examples
    --------
    An exponential disc of unit flux and scale length, (1 + R) exp(−R):

    >>> radii = np.array([[2.0], [3.0], [4.0]])
    >>> (flux_beyond(np.exp(-radii) / (2 * np.pi), radii, 5.0) / (6 * np.exp(-5))).round(1).tolist()
    [1.0]
    """
    from scipy.special import gamma, gammaincc

    falls = (brightness[2] > 0) & (brightness[1] > brightness[2])
    brightness = np.where(falls, brightness, np.exp(-at))
    with np.errstate(divide="ignore", invalid="ignore"):  # no steps further in
        slope = -np.diff(np.log(brightness), axis=0) / np.diff(np.log(at), axis=0)
        power = 2 * np.log(slope[1] / slope[0]) / np.log(at[2] / at[0])
    power = np.clip(np.nan_to_num(power, nan=1.0), 1 / LARGEST_INDEX, 1.0)
    slope = np.log(brightness[1] / brightness[2]) * power / (1 - (at[1] / at[2]) ** power)
    q, shape = np.clip(slope, LEAST_SLOPE, 300) / power, 2 / power
    beyond = np.exp(q) * q**-shape * gamma(shape) * gammaincc(shape, q * (radius / at[2]) ** power)
    return np.asarray(np.where(falls, 2 * np.pi * at[2] ** 2 * brightness[2] * beyond / power, 0.0))


def _ring(light: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean surface brightness in rings, ``(N, B)``, and the rings' mean radii, ``(N,)``."""
    size = light.shape[3]
    ring = soft_circles(size, outer) - soft_circles(size, inner)
    pixels = ring.sum((1, 2))
    mean = np.einsum("nbhw,nhw->nb", light, np.broadcast_to(ring, (len(light), size, size)))
    return mean / pixels[:, None], (ring * distance_from_middle(size)).sum((1, 2)) / pixels


def inverse_noise(weight: np.ndarray) -> np.ndarray:
    """Return the inverse of the pixel noise in each band, ``(N, B)``; 0 without data."""
    is_valid = weight > 0
    pixels = is_valid.sum((2, 3))
    noise2 = (1 / np.where(is_valid, weight, np.inf)).sum((2, 3)) / np.maximum(pixels, 1)
    return np.asarray(1 / np.sqrt(np.where(pixels > 0, noise2, np.inf)))


def soft_circles(size: int, radius_pixels: np.ndarray) -> np.ndarray:
    """Return centred circles, ``(N, H, W)`` float32, whose edge pixels have fractional weights."""
    distance = distance_from_middle(size)
    return np.clip(radius_pixels[:, None, None] - distance + 0.5, 0.0, 1.0).astype(np.float32)


def of_point_source(psf: np.ndarray, radius_arcsec: np.ndarray) -> np.ndarray:
    """Return the fraction of a point source's flux inside circles, ``(N, B)``; 1 where the PSF is unknown.

    No aperture loses less than this. PSFs are ``(N, B, K, 2)``, radii ``(N,)``.
    """
    return np.nan_to_num(enclosed(psf, radius_arcsec[:, None, None])[..., 0], nan=1.0)


def joined_with_data(
    image: np.ndarray,
    weight: np.ndarray,
    model: np.ndarray,
    own: np.ndarray,
    aperture: np.ndarray,
    *,
    noise: np.ndarray,
    model_noise: np.ndarray,
    fraction: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the fluxes of model images and of the data, weighted by their errors.

    Let the model flux M have the variance V from noise and (f M)² from what the generator cannot render, and
    let the data flux D have the variance N from noise, of which V is part. The optimal combination is M + s
    (D − M) with s = (f M)² / ((f M)² + N − V), and its variance is V + (1/(f M)² + 1/(N − V))⁻¹. Bright
    galaxies thus have the precision of their pixels, and faint ones that of the model; where there is no
    data, or that of a neighbour, the model is used.

    Images are ``(N, B, H, W)`` in nJy: 0 for pixels of neighbours, models NaN without a fit. `own` are pixel
    weights of that shape, those of `own_light` times the aperture's, which are ``(H, W)`` to ``(N, B, H,
    W)``. `noise`, ``B``, is the ratio of the errors of sums to those of independent pixels, `model_noise` √V,
    ``(N, B)`` (where it is NaN, so are the errors), and `fraction` f, ``B``. Return flux and error,
    ``(N, B)`` float32, nJy.
    """
    is_seen = weight > 0
    light = model * own
    drawn = light.sum((2, 3))
    residual = (np.where(is_seen, image - model, 0) * own).sum((2, 3))
    data_variance = (own**2 / np.where(is_seen, weight, np.inf)).sum((2, 3)) * noise**2
    shared = model_noise**2
    model_variance = (fraction * np.where(is_seen, light, 0).sum((2, 3))) ** 2
    unseen = (fraction * np.where(is_seen, 0, light).sum((2, 3))) ** 2
    free = np.maximum(data_variance - np.nan_to_num(shared), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(model_variance > 0, model_variance / (model_variance + free), 0.0)
    removed = np.where(np.isfinite(model), model, 0) * (aperture - own)
    variance = shared + share * free + unseen + (UNSURE * np.maximum(removed.sum((2, 3)), 0)) ** 2
    return (drawn + share * residual).astype(np.float32), np.sqrt(variance).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class OwnFluxes:
    """Fluxes of the central galaxies, for each kind in `deepfits.fitting.model_error.FLUXES`."""

    flux: np.ndarray  # (N, B, 2), nJy
    noise: np.ndarray  # (N, B, 2), nJy: errors from noise alone
    area: np.ndarray  # (N, 2): of the aperture and of the circle of the total, arcsec²
    beyond: np.ndarray  # (N,): fraction of the totals, all bands summed, that lies outside the model image
    # (N, B, 2): errors from flux that was attributed to neighbours or to the background inside the circle
    # of the total, and from flux beyond this circle.
    unsure: np.ndarray

    @classmethod
    def of(cls, measured: dict[str, np.ndarray], psf: np.ndarray, pixel_scale_arcsec: float) -> Self:
        """Derive fluxes from what is measured; totals include the flux beyond their circles.

        Results are those of `deepfits.fitting.measuring.measure`, PSFs ``(N, B, K, 2)``.
        """
        radius = measured["total_radius"] * pixel_scale_arcsec
        inside = of_point_source(psf, radius)
        aperture_correction = 1 / inside + measured["beyond"][:, None]  # total over the flux in the circle
        factor = np.stack([np.ones_like(aperture_correction), aperture_correction], axis=2).astype(np.float32)
        background, none = measured["background"], np.zeros_like(measured["background"])
        flux = measured["flux"][:, :, 1:] - np.stack([none, background], axis=2)
        beyond = measured["beyond"][:, None] * flux[:, :, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            outside = (measured["outside"][:, None] * flux[:, :, 1]).sum(1) / (
                aperture_correction * flux[:, :, 1]
            ).sum(1)
        removed = (UNSURE * measured["removed"])[:, :, None]
        unsure = EXTRAPOLATED * np.stack([none, np.hypot(beyond, background)], axis=2)
        return cls(
            flux=flux * factor,
            noise=measured["flux_std"][:, :, 1:] * factor,
            area=np.pi * np.stack([np.full_like(radius, APERTURE_ARCSEC / 2), radius], axis=1) ** 2,
            beyond=np.clip(outside, 0, 1),
            unsure=np.hypot(removed, unsure),
        )
