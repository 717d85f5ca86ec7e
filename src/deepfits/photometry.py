"""Basic photometry shared by the whole package: AB magnitudes, robust scatter, apertures, growth radii.

Depends only on NumPy. Fluxes are in nJy throughout.

Shapes: N objects, B bands, K circles, H, W pixels.

Source: Oke & Gunn (1983, ApJ 266, 713) for AB magnitudes; Lupton, Gunn & Szalay (1999, AJ 118, 1406) for
asinh magnitudes, which are defined for negative fluxes too.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np

NJY_ZERO_POINT = 31.4  # AB magnitude of 1 nJy
POGSON = 2.5 / np.log(10.0)
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))  # FWHM of a Gaussian over its standard deviation
SIGMA_PER_MAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation
APERTURE_ARCSEC = 2.0  # diameter of the aperture of fluxes in features and predictions
GROWTH_ARCSEC = 3.0  # diameter of the aperture whose flux defines the growth radii of an object
RADII_ARCSEC = (0.75, 1.25)
"""Radii of the circular apertures of magnitudes; the larger one separates extended from compact objects."""
SMALLEST_GAUSSIAN = 0.75
"""Width of the matched weight in the band with the widest PSF, in units of that PSF's sigma."""
USUAL_SIGMA_PIXELS = 1.7  # standard deviation of the PSF that is assumed if that of no band is known
# Flags as in sep (2 truncated, 16 aperture truncated, ...), and one more. sep sets 32 for masked pixels and
# for those of other sources alike; here the latter are 1.
FLAG_NEIGHBOUR, FLAG_MASKED, FLAG_NO_DATA = 1, 32, 1 << 16
FLAG_SHARP = 1 << 17  # much smaller than stars: a hot pixel or a cosmic ray
FLAGS_LACKING = FLAG_NO_DATA | 16 | FLAG_MASKED | 64  # flags of objects with incomplete data in their field
WIDTHS_OF_WEIGHT = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
"""Squared widths of the Gaussians that sum to a matched weight, in units of that for a Gaussian PSF."""
NUM_CIRCLES = 16
FRACTIONS = (0.2, 0.5, 0.8)
REFERENCE_BANDS = ("i", "r", "z", "g")
MIN_SIGNAL_TO_NOISE = 5.0
"""Least signal to noise of a measured flux that predictions of its band are compared with."""

Number = TypeVar("Number", float, np.ndarray)


def njy_per_count(zero_point: float) -> float:
    """Return the flux of one count in nJy.

    Examples
    --------
    >>> njy_per_count(31.4), round(njy_per_count(27.0), 3)
    (1.0, 57.544)
    """
    return 10 ** ((NJY_ZERO_POINT - zero_point) / 2.5)


def flux_of_magnitude(magnitude: Number) -> Number:
    """Return the flux in nJy of AB magnitudes.

    Examples
    --------
    >>> flux_of_magnitude(31.4), round(flux_of_magnitude(26.4), 6)
    (1.0, 100.0)
    """
    return 10 ** (0.4 * (NJY_ZERO_POINT - magnitude))


def ab_magnitude(flux_njy: np.ndarray) -> np.ndarray:
    """Return AB magnitudes; NaN where a flux is not positive.

    Examples
    --------
    >>> [float(m) for m in ab_magnitude(np.array([1.0, 3631e9, -1.0])).round(3)]
    [31.4, -0.0, nan]
    """
    flux = np.asarray(flux_njy, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flux > 0, NJY_ZERO_POINT - 2.5 * np.log10(flux), np.nan)


def magnitude_error(flux: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return errors of magnitudes from those of fluxes, to first order; NaN where a flux is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flux > 0, POGSON * error / flux, np.nan)


def asinh_magnitude(
    flux: np.ndarray, softening: np.ndarray | float, zero_point: float = NJY_ZERO_POINT
) -> np.ndarray:
    """Return asinh magnitudes of fluxes in nJy, or in another unit with its zero point.

    m = 31.4 − 2.5/ln 10 · (asinh(f / 2b) + ln b), with the softening b in nJy (Lupton et al. 1999, eq. 3).

    Examples
    --------
    >>> bool(abs(asinh_magnitude(np.array(1e6), 1.0) - (31.4 - 15.0)) < 1e-6)
    True
    """
    softening = np.asarray(softening, dtype=np.float64)
    return zero_point - POGSON * (np.arcsinh(flux / (2.0 * softening)) + np.log(softening))


def robust_scatter(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return 1.4826 × the median absolute deviation, which is the standard deviation of a Gaussian.

    Examples
    --------
    >>> float(robust_scatter(np.array([1.0, 2.0, 3.0, 4.0, 1000.0])))
    1.4826
    """
    middle = np.median(values, axis=axis, keepdims=True)
    return np.asarray(SIGMA_PER_MAD * np.median(np.abs(values - middle), axis=axis))


def reference_band(bands: Sequence[str]) -> str:
    """Choose the reference band: i, else r, else z, else g, else the middle one.

    Other bands are resampled to its grid, its magnitude measures the brightness of objects, and the prior of
    template fitting uses it. i comes first because optical surveys observe it in their best seeing, and
    because the prior of Benítez is defined in i. Bands must be in order of wavelength, and may have a
    survey's name as prefix: ``HSC-I`` is i.

    Examples
    --------
    >>> reference_band("ugriz"), reference_band(["HSC-G", "HSC-R"]), reference_band(["J", "H", "Ks"])
    ('i', 'HSC-R', 'H')
    """
    short = [band.rsplit("-", 1)[-1].lower() if len(band) > 1 else band for band in bands]
    for wanted in REFERENCE_BANDS:
        if wanted in short:
            return bands[short.index(wanted)]
    return bands[len(bands) // 2]


def bands_of(names: Iterable[str], what: str = "flux_model") -> tuple[str, ...]:
    """Return the bands with a column ``<what>_<band>``, in the order of the columns.

    Examples
    --------
    >>> bands_of(["flux_model_g", "flux_model_err_g", "flux_model_HSC-R", "chi2"])
    ('g', 'HSC-R')
    """
    bands = (name.removeprefix(f"{what}_") for name in names if name.startswith(f"{what}_"))
    return tuple(band for band in bands if not band.startswith("err_"))


def bands_with_data(columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the bands of features in which any object has data; in the others they are predictions."""
    number = {band: f"dof_{band}" for band in bands_of(columns)}
    return tuple(b for b, name in number.items() if name not in columns or (columns[name] > 0).any())


@lru_cache(maxsize=64)
def circular_aperture(size: int, radius: float, *, subpixels: int = 10) -> np.ndarray:
    """Return the fraction of each pixel inside a centred circle, ``(H, W)``, from 10 × 10 points per pixel.

    The result is cached and read-only.

    The centre is that of the array, ((size − 1)/2, (size − 1)/2), for odd and even sides alike; `radius` is
    in pixels.

    Examples
    --------
    >>> round(float(circular_aperture(32, 5.0).sum()), 1), float(circular_aperture(3, 0.5)[1, 1])
    (78.6, 0.8)
    """
    fine = (np.arange(size * subpixels) + 0.5) / subpixels - size / 2
    is_inside = fine[:, None] ** 2 + fine[None, :] ** 2 <= radius**2
    out = is_inside.reshape(size, subpixels, size, subpixels).mean(axis=(1, 3))
    out.flags.writeable = False
    return out


def total_and_aperture(size: int, pixel_scale_arcsec: float) -> np.ndarray:
    """Return the two apertures of features, ``(2, H, W)`` float32: the whole cutout, and a circle."""
    circle = circular_aperture(size, APERTURE_ARCSEC / pixel_scale_arcsec / 2).astype(np.float32)
    return np.stack([np.ones_like(circle), circle])


def offset_from_middle(size: int) -> np.ndarray:
    """Return the positions of pixels along one axis, ``(H,)``, relative to the centre of the image."""
    return np.arange(size) - (size - 1) / 2


def distance_from_middle(size: int) -> np.ndarray:
    """Return the distance of each pixel from the centre of the image, ``(H, W)``, in pixels."""
    offset = offset_from_middle(size)
    return np.hypot(offset[:, None], offset[None, :])


def matched_gaussians(psf: np.ndarray, pixel_scale_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weight functions that give PSF-independent colours: squared widths and peaks of Gaussians.

    ``(..., B, J)`` each, of sums of J round Gaussians; widths in pixels. A point source at a distance r from
    the centre, seen with the PSF Σ_k a_k G(p_k) and the weight Σ_j c_j exp(−r²/2w_j²), contributes the
    fraction

        Σ_jk a_k c_j w_j² / (w_j² + p_k²) exp(−½ r² / (w_j² + p_k²))

    of its flux. The c_j make this exp(−r²/2s²) in every band, in the least-squares sense, so that fluxes are
    those of a Gaussian aperture of width s on the sky before convolution with the PSF, and colours are those
    of the galaxy, whatever its profile (the idea of GAaP, Kuijken 2008, A&A 482, 1053). For Gaussian PSFs the
    weight is the Gaussian with w² + p² = s².

    PSFs, ``(..., B, K, 2)``, are sums of round Gaussians (`deepfits.gaussian_psf`), without the pixel, in
    arcsec; unknown ones (NaN) are replaced by the widest known PSF of the object.
    """
    share, sigma = np.moveaxis(np.asarray(psf, dtype=np.float64), -1, 0)
    variance = (sigma / pixel_scale_arcsec) ** 2 + 1 / 12  # 1/12: variance of a pixel
    core = 1 / (share / variance).sum(-1)  # p² of a Gaussian PSF with this peak
    is_known = np.isfinite(core)
    widest = np.where(is_known, core, -1).argmax(-1)[..., None, None]
    share, variance = (
        np.where(is_known[..., None], values, np.take_along_axis(values, widest, -2))
        for values in (share, variance)
    )
    share = np.where(np.isfinite(variance), share, 1 / share.shape[-1])
    variance = np.where(np.isfinite(variance), variance, USUAL_SIGMA_PIXELS**2)
    core = 1 / (share / variance).sum(-1)
    common = (1 + SMALLEST_GAUSSIAN**2) * core.max(-1, keepdims=True)  # s²
    squared = (common - core)[..., None] * WIDTHS_OF_WEIGHT  # w_j²
    both = squared[..., None] + variance[..., None, :]  # (..., B, J, K)
    share = share[..., None, :] * squared[..., None] / both
    radius2 = np.linspace(0, 4, 16)[:, None, None] ** 2  # in units of s²
    ratio = radius2 * (common[..., None, None] / both)[..., None, :, :]
    curves = (share[..., None, :, :] * np.exp(-0.5 * ratio)).sum(-1)  # (..., B, R, J)
    wanted = np.exp(-0.5 * radius2[:, 0])
    peak = (np.linalg.pinv(curves, rcond=1e-3) @ wanted)[..., 0]
    return squared, peak


def aperture_names() -> list[str]:
    """Return the name of each aperture of `apertures`, with its diameter in arcsec."""
    return [f"aper{2 * radius:g}".replace(".", "p") for radius in RADII_ARCSEC] + ["gauss"]


def apertures(
    size: int, pixel_scale_arcsec: float, psf: np.ndarray, radii_arcsec: Sequence[float] = RADII_ARCSEC
) -> list[np.ndarray]:
    """Return the weight of each pixel in the apertures for magnitudes and colours, as a list of arrays.

    First circles, ``(H, W)``, no wider than the cutout; last the Gaussians matched to the PSFs, ``(..., B, K,
    2)`` (`matched_gaussians`), ``(..., B, H, W)``.
    """
    circles = [circular_aperture(size, min(radius / pixel_scale_arcsec, size / 2)) for radius in radii_arcsec]
    squared, peak = matched_gaussians(psf, pixel_scale_arcsec)
    along = np.exp(-0.5 * offset_from_middle(size) ** 2 / squared[..., None])  # (..., B, J, H)
    return [*circles, (peak[..., None] * along).swapaxes(-1, -2) @ along]


def aperture_flux(
    image: np.ndarray, weight: np.ndarray, aperture: np.ndarray, *, min_valid: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Measure aperture fluxes and their errors, ``(N, B)`` nJy, from the pixels with data.

    Images and weights are ``(N, B, H, W)``, nJy and nJy⁻²; the weight of each pixel in the aperture is ``(N,
    B, H, W)``, ``(B, H, W)`` or ``(H, W)``. If pixels are missing, both results are divided by the fraction
    of the aperture that has data; they are NaN where it is less than `min_valid`.
    """
    aperture = np.broadcast_to(np.asarray(aperture, dtype=np.float64), image.shape)
    is_valid = weight > 0
    coverage = np.einsum("nbhw,nbhw->nb", is_valid, aperture) / aperture.sum((2, 3))
    safe_image = np.where(is_valid, image, 0.0)
    variance = 1.0 / np.where(is_valid, weight, np.inf)
    enough = min_valid - 1e-9  # rounding errors are smaller, a missing subpixel is larger
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(coverage >= enough, 1.0 / coverage, np.nan)
    flux = np.einsum("nbhw,nbhw->nb", safe_image, aperture) * scale
    flux_err = np.sqrt(np.einsum("nbhw,nbhw,nbhw->nb", variance, aperture, aperture)) * scale
    return flux, flux_err


@cache
def growth_circles(
    size: int, pixel_scale_arcsec: float, largest_arcsec: float = GROWTH_ARCSEC / 2
) -> tuple[np.ndarray, np.ndarray]:
    """Return concentric apertures, ``(K, H, W)`` float32, and their radii in arcsec, ``(K,)``.

    The largest has radius `largest_arcsec`, or that of the circle inscribed in the cutout if it is smaller.
    """
    largest = min(largest_arcsec, size * pixel_scale_arcsec / 2)
    radii = largest * np.arange(1, NUM_CIRCLES + 1) / NUM_CIRCLES
    circles = np.stack([circular_aperture(size, radius / pixel_scale_arcsec) for radius in radii])
    return circles.astype(np.float32), radii


def growth_radii(
    growth: np.ndarray, radius: np.ndarray, fractions: Sequence[float] = FRACTIONS
) -> np.ndarray:
    """Return the radii, ``(..., F)``, that enclose fractions of the flux inside the largest circle.

    `growth` is the flux, ``(..., K)``, inside circles of increasing radii, ``(K,)``. Radii are NaN where the
    flux inside the largest circle is not positive.

    Examples
    --------
    >>> growth_radii(np.array([[1.0, 2.0, 4.0]]), np.array([1.0, 2.0, 3.0]), [0.5, 0.75])
    array([[2. , 2.5]])
    """
    flat = growth.reshape(-1, growth.shape[-1])
    total = flat[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        curve = np.where(total > 0, flat / total, np.nan)
    curve = np.concatenate([np.zeros_like(total), np.maximum.accumulate(curve, axis=1)], axis=1)
    edge = np.concatenate([[0.0], radius])
    out = np.empty((len(flat), len(fractions)))
    for number, fraction in enumerate(fractions):
        upper = np.clip((curve < fraction).sum(axis=1), 1, len(radius))
        low, high = (np.take_along_axis(curve, end[:, None], axis=1)[:, 0] for end in (upper - 1, upper))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip((fraction - low) / (high - low), 0.0, 1.0)
        out[:, number] = edge[upper - 1] + share * (edge[upper] - edge[upper - 1])
    return out.reshape(*growth.shape[:-1], len(fractions))
