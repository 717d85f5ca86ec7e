"""The light of the galaxy in the middle of a noise-free drawing: its own, whatever is drawn around it.

Shapes: N objects, B bands, H = W pixels.

A total is the light in a circle, less what is drawn there as everywhere around a small galaxy, and what lies
beyond the circle: at least what the PSF puts there, and more where the galaxy falls off more slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepfits.fitting.model_error import UNSURE
from deepfits.gaussian_psf import moffat_radius
from deepfits.photometry import GROWTH_ARCSEC, distance_from_middle, growth_circles, growth_radii

SMALLEST_TOTAL_ARCSEC = 1.0
FEWEST_RADII, MOST_RADII = 2.1, 5.0
MOFFAT_INDEX = 3.0
RINGS = (0.55, 0.775, 1.0)
"""Radii of the two rings that say how a galaxy falls off, in units of the largest circle in its cutout."""
SAME, LARGER = 1.1, 1.2
"""Ratios of two half-light radii: that differ by what neighbours' light may make of them, and by more."""
USUAL_NOISE_NJY = 4.0
"""Noise of a galaxy's light in deep surveys: brightness in units of it counts as much as signal to noise."""
SMALL, LARGE = 0.6, 0.9
"""Circles, in units of the largest: up to the first, what is drawn at the edge is none of the galaxy's; from
the second on, all of it is."""
EDGE_RING = 0.8
"""Inner radius of the ring that is the edge of what is drawn, in units of the largest circle."""
CONFUSION_NJY = 24.0
"""Scatter in an arcsec² of the light of galaxies fainter than i = 25.5, which deep surveys seldom see beside
another: of counts of 12 a square arcminute and magnitude at 24 that rise by 0.35 dex a magnitude."""
EXTRAPOLATED = 0.25
"""Share of the light beyond a circle that is uncertain: a little more than what simulated skies show."""
WINGS = 2
"""Pixels beyond the pixels of a neighbour in which its light is still looked for."""


def symmetric(image: np.ndarray) -> np.ndarray:
    """Return the smaller of each pixel and the one opposite, ``(..., H, W)``: the symmetric part.

    Source: the templates of the deblender of SDSS (R. Lupton), here of a drawing without noise, where the
    smaller of two values is not biased by it.
    """
    return np.minimum(image, image[..., ::-1, ::-1])


def own_light(model: np.ndarray, is_neighbour: np.ndarray) -> np.ndarray:
    """Return which pixels to add up for the galaxy's own light in a noise-free drawing of it.

    Where a pixel of a neighbour, or of its wings, is brighter than the one opposite, that one stands in.
    Drawings are ``(N, B, H, W)``, the pixels of neighbours ``(N, H, W)`` bool, what is returned ``(N, B, H,
    W)`` float32: 0, 1 or 2. The sum of this times an aperture that is symmetric times the model is the flux
    in that aperture.

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
    """Return the radius within which light counts for the total of a galaxy, ``(N,)`` in arcsec.

    2.1 to 5 half-light radii of the symmetric part of the drawing, all bands together in units of their
    noise: the more signal a galaxy has, the farther out its wings are known, and the brighter it is, the
    less a neighbour's count. It may be larger than what is drawn (`wings`). The half-light radius is
    that of the light in the circles of `deepfits.photometry.growth_circles`, where a neighbour's is least,
    or in the largest circle that is drawn, where that is clearly larger.

    Parameters
    ----------
    model, weight
        ``(N, B, H, W)``, nJy and nJy⁻².
    edge_pixels
        Radius of the largest circle in what is drawn.
    """
    size, edge = model.shape[3], edge_pixels * pixel_scale_arcsec
    gain = _gain(weight)
    has_data = gain > 0
    light = symmetric(model)
    together = (light * gain[:, :, None, None]).sum(axis=1)

    def half_light(largest: float) -> np.ndarray:
        apertures, radius = growth_circles(size, pixel_scale_arcsec, largest)
        return growth_radii(np.einsum("nhw,khw->nk", together, apertures), radius, [0.5])[:, 0]

    near, far = half_light(GROWTH_ARCSEC / 2), half_light(edge)
    inside = soft_circles(size, np.nan_to_num(near, nan=edge) / pixel_scale_arcsec)
    num_bands = np.maximum(has_data.sum(1), 1)
    signal = (together * inside).sum((1, 2)) / np.sqrt(num_bands * inside.sum((1, 2)))
    flux = np.einsum("nbhw,nhw,nb->n", light, inside, has_data) / num_bands
    signal = np.sqrt(np.maximum(signal, 1.0) * np.maximum(flux / USUAL_NOISE_NJY, 1.0))
    radii = np.clip(0.8 + 1.4 * np.log10(signal / 10), FEWEST_RADII, MOST_RADII)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip((far / near - SAME) / (LARGER - SAME), 0.0, 1.0)
    half = near + share * (far - near)
    return np.maximum(np.nan_to_num(radii * half, nan=edge), SMALLEST_TOTAL_ARCSEC)


@dataclass(frozen=True, kw_only=True)
class Wings:
    """What a total has beside the light in its circle.

    Attributes
    ----------
    background
        ``(N, B)``, nJy: light in the circle that is drawn as much at the edge, and is not the galaxy's.
    beyond
        ``(N,)``: light beyond the circle over that inside, less what the PSF alone puts there.
    outside
        ``(N,)``: the part of it that lies outside of what is drawn.
    """

    background: np.ndarray
    beyond: np.ndarray
    outside: np.ndarray


def wings(
    light: np.ndarray,
    weight: np.ndarray,
    radius_pixels: np.ndarray,
    edge: float,
    *,
    fwhm_arcsec: np.ndarray,
    noise: np.ndarray,
    pixel_scale_arcsec: float,
) -> Wings:
    """Return what lies beyond the circles of totals, and what is drawn inside that is not the galaxy's.

    A disc falls off exponentially (Freeman 1970, ApJ 160, 811). With the mean surface brightness I of two
    rings inside the circle R, of mean radii r, its light beyond is

        F(R) = 2π I₂ exp(−(R − r₂) / h) (h R + h²),    h = (r₂ − r₁) / ln(I₁ / I₂),

    where h is at most R, and what does not fall off is no galaxy's. All bands together, in units of their
    noise, say how much it is of what lies inside, so that colours are those of the circle. Of what exceeds a
    point source's share, F² / (F² + N²) counts, with the noise N of the pixels between R and 2R and of
    galaxies there that nobody sees. A galaxy whose circle is small has no light at the edge of what is drawn
    but what the PSF puts there: what else is drawn there is the sky's, and taken away.

    Parameters
    ----------
    light, weight
        ``(N, B, H, W)``: the galaxy's own without noise, nJy, and nJy⁻².
    radius_pixels
        ``(N,)``, of the circles, which end at the edge.
    edge
        Radius of the largest circle in what is drawn, in pixels.
    fwhm_arcsec
        ``(N, B)``: seeing; NaN where it is unknown.
    noise
        ``B``: by what errors of sums are larger than of independent pixels.
    """
    size, radius = light.shape[3], np.minimum(radius_pixels, edge)
    gain = _gain(weight)
    inner, near = _ring(light, RINGS[0] * radius, RINGS[1] * radius)
    outer, far = _ring(light, RINGS[1] * radius, RINGS[2] * radius)
    inside = np.einsum("nbhw,nhw->nb", light, soft_circles(size, radius))
    point, point_inner, point_outer = (
        enclosed(fwhm_arcsec, where * pixel_scale_arcsec)
        for where in (radius, np.array([EDGE_RING * edge]), np.array([edge]))
    )
    at_edge, _ = _ring(light, np.array([EDGE_RING * edge]), np.array([edge]))
    of_psf = inside / point * (point_outer - point_inner) / (np.pi * (1 - EDGE_RING**2) * edge**2)
    small = np.clip((LARGE - radius / edge) / (LARGE - SMALL), 0.0, 1.0)
    drawn = small[:, None] * np.maximum(at_edge - np.maximum(of_psf, 0.0), 0.0)
    background = np.minimum(drawn * (np.pi * radius**2)[:, None], np.maximum(inside, 0.0))
    first, second, total = (
        (values * gain).sum(1) for values in (inner - drawn, outer - drawn, inside - background)
    )
    falls = (second > 0) & (first > second) & (total > 0)
    ratio = np.where(falls, first / np.where(falls, second, 1), np.e)
    scale = np.minimum((far - near) / np.log(ratio), radius)

    def outside(where: np.ndarray) -> np.ndarray:
        light = np.exp(-(where - far) / scale) * (scale * where + scale**2)
        return 2 * np.pi * np.where(falls, second, 0.0) * light

    around = 3 * np.pi * radius**2  # pixels
    unseen = CONFUSION_NJY * pixel_scale_arcsec * gain.sum(1)
    variance = around * (((gain > 0) * noise**2).sum(1) + unseen**2)
    exceeding = outside(radius)
    certain = np.where(falls, exceeding**2 / (exceeding**2 + variance), 0.0)
    share = np.maximum(inside - background, 0.0) * gain
    with np.errstate(divide="ignore", invalid="ignore"):
        of_point = (share * (1 / point - 1)).sum(1) / share.sum(1)
        beyond = np.where(falls, certain * np.maximum(exceeding / total - of_point, 0.0), 0.0)
        outer_part = np.where(falls, outside(np.full_like(radius, edge)) / exceeding, 0.0)
    return Wings(background=background, beyond=beyond, outside=beyond * outer_part)


def _ring(light: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean surface brightness in rings, ``(N, B)``, and their mean radii, ``(N,)``."""
    size = light.shape[3]
    ring = soft_circles(size, outer) - soft_circles(size, inner)
    pixels = ring.sum((1, 2))
    mean = np.einsum("nbhw,nhw->nb", light, np.broadcast_to(ring, (len(light), size, size)))
    return mean / pixels[:, None], (ring * distance_from_middle(size)).sum((1, 2)) / pixels


def _gain(weight: np.ndarray) -> np.ndarray:
    """Return one over the noise of a pixel in each band, ``(N, B)``; 0 without data."""
    is_valid = weight > 0
    pixels = is_valid.sum((2, 3))
    noise2 = (1 / np.where(is_valid, weight, np.inf)).sum((2, 3)) / np.maximum(pixels, 1)
    return np.asarray(1 / np.sqrt(np.where(pixels > 0, noise2, np.inf)))


def soft_circles(size: int, radius_pixels: np.ndarray) -> np.ndarray:
    """Return circles around the middle, ``(N, H, W)`` float32; pixels count by how far they are inside."""
    away = distance_from_middle(size)
    return np.clip(radius_pixels[:, None, None] - away + 0.5, 0.0, 1.0).astype(np.float32)


def enclosed(fwhm_arcsec: np.ndarray, radius_arcsec: np.ndarray) -> np.ndarray:
    """Return the share of a point source's light that lies inside circles, ``(N, B)``; 1 where it is unknown.

    The least that an aperture loses, in each band by its own seeing. Of Moffat's profile: a measured PSF ends
    with its stamp, before its wings do. Widths are ``(N, B)``, NaN where unknown; radii ``(N,)``.

    Examples
    --------
    >>> enclosed(np.array([[0.7, np.nan]]), np.array([1.4])).round(2)
    array([[0.96, 1.  ]])
    """
    scale = moffat_radius(fwhm_arcsec, MOFFAT_INDEX)
    with np.errstate(divide="ignore"):
        inside = 1 - (1 + (radius_arcsec[:, None] / scale) ** 2) ** (1 - MOFFAT_INDEX)
    return np.where(np.isfinite(inside), inside, 1.0)


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
    """Return fluxes of drawings, corrected by as much of what they leave in the data as is not noise.

    A drawing M with errors V by noise and (f M)² by what a generator cannot draw, and data D with errors N,
    with which V is shared, are best joined as M + s (D − M), s = (f M)² / ((f M)² + N − V), with the variance
    V + (1/(f M)² + 1/(N − V))⁻¹: bright galaxies have the precision of their pixels, faint ones that of the
    drawing, and where there are no data, or a neighbour's, the drawing stands.

    Parameters
    ----------
    image, weight
        ``(N, B, H, W)``, nJy and nJy⁻²; 0 where pixels are a neighbour's.
    model
        ``(N, B, H, W)``, nJy; NaN without a fit.
    own
        ``(N, B, H, W)``: what each pixel counts, that of `own_light` in it.
    aperture
        ``(H, W)`` to ``(N, B, H, W)``: the same without.
    noise
        ``B``: by what errors of sums are larger than of independent pixels.
    model_noise
        ``(N, B)``: √V; NaN where it was not asked for, and so are the errors then.
    fraction
        ``B``: f.

    Returns
    -------
    flux, error
        ``(N, B)`` float32, nJy.
    """
    is_seen = weight > 0
    light = model * own
    drawn = light.sum((2, 3))
    left = (np.where(is_seen, image - model, 0) * own).sum((2, 3))
    of_data = (own**2 / np.where(is_seen, weight, np.inf)).sum((2, 3)) * noise**2
    shared = model_noise**2
    seen = (fraction * np.where(is_seen, light, 0).sum((2, 3))) ** 2
    unseen = (fraction * np.where(is_seen, 0, light).sum((2, 3))) ** 2
    free = np.maximum(of_data - np.nan_to_num(shared), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(seen > 0, seen / (seen + free), 0.0)
    removed = np.where(np.isfinite(model), model, 0) * (aperture - own)
    variance = shared + share * free + unseen + (UNSURE * np.maximum(removed.sum((2, 3)), 0)) ** 2
    return (drawn + share * left).astype(np.float32), np.sqrt(variance).astype(np.float32)
