"""Aperture photometry of the same cutouts as the deep features: the input of the baselines.

Shapes: N objects, B bands, A apertures, K Gaussians of a PSF, H = W pixels.

There are three kinds of flux, each corrected for pixels of weight 0 with the aperture's own profile:

circular apertures
    the sum within a radius, as in catalogues;
Gaussian apertures matched to the PSF
    a Gaussian weight that compensates for each band's PSF (`deepfits.photometry.matched_gaussians`);
circular apertures at a common PSF
    the sum within a radius on an image convolved to a common round Gaussian PSF, the same for all surveys.
    Because convolution and summation are linear, this equals a soft-edged aperture on the original image,
    made for each PSF, and no pixel covariance enters the errors.
"""

from collections.abc import Sequence

import numpy as np

from deepfits.photometry import FWHM_PER_SIGMA, RADII_ARCSEC, aperture_flux, apertures

COMMON_FWHM_ARCSEC = 1.6
"""FWHM of the common PSF, that of a poor night, because images can be blurred but not sharpened."""


def aperture_photometry(
    image: np.ndarray,
    weight: np.ndarray,
    psf: np.ndarray,
    *,
    pixel_scale_arcsec: float,
    radii_arcsec: Sequence[float] = RADII_ARCSEC,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure fluxes in the circular apertures and then the Gaussian one.

    Images and weights are ``(N, B, H, W)``, nJy and nJy⁻², and PSFs sums of round Gaussians. Circles wider
    than the cutout are reduced to its width. Return fluxes and errors, ``(N, A, B)`` in nJy, NaN where data
    are missing.
    """
    masks = apertures(image.shape[-1], pixel_scale_arcsec, psf, radii_arcsec)
    measured = [aperture_flux(image, weight, mask, min_valid=0.5) for mask in masks]
    return np.stack([flux for flux, _ in measured], axis=1), np.stack([err for _, err in measured], axis=1)


def matched_apertures(psf: np.ndarray, size: int, pixel_scale_arcsec: float) -> np.ndarray:
    """Return the pixel weights of circular apertures at the common PSF, ``(A, H, W)``.

    The PSF, ``(K, 2)``, is a sum of round Gaussians (`deepfits.gaussian_psf`), excluding the pixel response.
    """
    from scipy.special import j1

    number = 4 * size
    cycles = np.fft.fftfreq(number, pixel_scale_arcsec)
    squared = (2 * np.pi) ** 2 * (cycles[:, None] ** 2 + cycles**2)
    weight, sigma = np.asarray(psf, dtype=np.float64).T
    transfer = np.tensordot(weight, np.exp(-0.5 * squared * (sigma**2)[:, None, None]), 1)
    pixel = np.sinc(cycles * pixel_scale_arcsec)
    transfer *= pixel[:, None] * pixel
    wanted = np.exp(-0.5 * squared * (COMMON_FWHM_ARCSEC / FWHM_PER_SIGMA) ** 2)
    kernel = (
        wanted * transfer / (transfer**2 + 1e-8)
    )  # regularised deconvolution and convolution to the common PSF
    centre = np.exp(-2j * np.pi * cycles * (size - 1) / 2 * pixel_scale_arcsec)
    apertures = []
    for radius in np.minimum(RADII_ARCSEC, size * pixel_scale_arcsec / 2).tolist():
        at = np.sqrt(squared) * radius
        disc = np.where(at > 0, 2 * j1(at) / np.where(at > 0, at, 1), 1.0)
        area = np.pi * (radius / pixel_scale_arcsec) ** 2
        apertures.append(area * np.fft.ifft2(kernel * disc * centre[:, None] * centre).real[:size, :size])
    return np.stack(apertures)


def matched_photometry(
    image: np.ndarray, weight: np.ndarray, psf: np.ndarray, *, pixel_scale_arcsec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Measure fluxes in circular apertures at the common PSF.

    Return fluxes and errors as `aperture_photometry` does, NaN also where the PSF is unknown (NaN) or wider
    than the common one.
    """
    from deepfits.gaussian_psf import fwhm_of

    number, bands, size, _ = image.shape
    flux = np.full((number, len(RADII_ARCSEC), bands), np.nan)
    flux_err = np.full_like(flux, np.nan)
    flat = np.ascontiguousarray(psf, dtype=np.float32).reshape(number * bands, -1)
    unique, inverse = np.unique(flat, axis=0, return_inverse=True)
    widths = fwhm_of(unique.reshape(len(unique), *psf.shape[2:]))
    for kind, width in enumerate(widths):
        if not width <= COMMON_FWHM_ARCSEC:
            continue
        apertures = matched_apertures(unique[kind].reshape(psf.shape[2:]), size, pixel_scale_arcsec)
        row, band = np.divmod(np.flatnonzero(inverse.reshape(-1) == kind), bands)
        pixels, weights = (
            np.broadcast_to(array[row, band][:, None], (len(row), len(apertures), size, size))
            for array in (image, weight)
        )
        flux[row, :, band], flux_err[row, :, band] = aperture_flux(pixels, weights, apertures, min_valid=0.5)
    return flux, flux_err


def matched_names() -> list[str]:
    """Return the names of the apertures of `matched_photometry`, with their diameters in arcsec."""
    return [f"matched{2 * radius:g}".replace(".", "p") for radius in RADII_ARCSEC]


def typical_error(flux_err: np.ndarray) -> np.ndarray:
    """Return the median flux error over objects, ``(N, ...)`` to ``(...)``, as a softening; 1 if none."""
    masked = np.ma.masked_invalid(flux_err)
    return np.asarray(np.ma.median(masked, axis=0).filled(1.0), dtype=np.float64)
